"""Published artifacts as a deployment reads them: `<root>/artifacts/<kind>/v=<run_id>`, followed through CURRENT."""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from pyarrow import fs as pafs

from models.manifest import CURRENT, MANIFEST, ArtifactError, Manifest

log = logging.getLogger(__name__)

_RUN_ID_BYTES = 255


class ArtifactStore:
    """Follows CURRENT below a storage root and hands out verified local folders.

    A root on this machine is read in place. A remote one (s3://, gs://) is downloaded once per node: replicas of a node
    share the cache folder, and a version appears there by one rename.
    """

    def __init__(self, root: str, cache_dir: str | None = None) -> None:
        """Args: `root` a folder or URL; `cache_dir` where remote versions are kept, None = the temporary folder."""
        if "://" in root:
            self._filesystem, path = pafs.FileSystem.from_uri(root)
        else:
            self._filesystem, path = pafs.LocalFileSystem(), os.path.abspath(root)
        self.root = root
        self._path = path.rstrip("/")
        named = f"bank-cache-{os.getuid()}-{hashlib.sha256(root.encode()).hexdigest()[:12]}"
        self._cache = Path(cache_dir or tempfile.gettempdir()) / named

    @property
    def is_local(self) -> bool:
        """True where versions are read in place."""
        return isinstance(self._filesystem, pafs.LocalFileSystem)

    def current(self, kind: str) -> str | None:
        """The published run id, or None where nothing was published. Raises ArtifactError for a damaged pointer."""
        path = f"{self._path}/artifacts/{kind}/{CURRENT}"
        if self._filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        with self._filesystem.open_input_stream(path) as stream:
            raw = stream.read(_RUN_ID_BYTES + 1)
        run_id: str = raw.decode("utf-8", errors="replace").strip()
        if not run_id or len(raw) > _RUN_ID_BYTES or "/" in run_id or not run_id.isprintable():
            raise ArtifactError(f"{path}: wanted one run id, got {run_id[:80]!r}; publish again")
        return run_id

    def published_ts_ms(self, kind: str, run_id: str) -> int:
        """When the version's manifest was stored, ms since epoch; 0 where there is none."""
        modified = self._filesystem.get_file_info(f"{self._folder(kind, run_id)}/{MANIFEST}").mtime_ns
        return (modified or 0) // 1_000_000

    def fetch(self, kind: str, run_id: str, skip: Sequence[str] = ()) -> tuple[Path, Manifest]:
        """A local folder of the version and its manifest, after every hash was checked.

        Files named in `skip` are neither downloaded nor checked (see `open`). Raises ArtifactError on any mismatch.
        """
        local = Path(self._folder(kind, run_id)) if self.is_local else self._download(kind, run_id, skip)
        manifest = _verify_all_but(local, skip) if skip else Manifest.verify(local)
        if (manifest.kind, manifest.run_id) != (kind, run_id):
            raise ArtifactError(
                f"artifact {self._folder(kind, run_id)}: wanted {kind} {run_id}, "
                f"its {MANIFEST} says {manifest.kind} {manifest.run_id}; publish it again"
            )
        return local, manifest

    def read_part(self, kind: str, run_id: str, name: str, num_bytes: int) -> bytes:
        """The first bytes of one file, read where it lies."""
        with self._filesystem.open_input_file(f"{self._folder(kind, run_id)}/{name}") as stream:
            part: bytes = stream.read(num_bytes)
        return part

    def prune(self, kind: str, keep: Sequence[str]) -> None:
        """Removes other versions of `kind` from this node's cache. What a process has mapped stays readable."""
        for folder in (self._cache / kind).glob("v=*"):
            if folder.name.removeprefix("v=") not in keep:
                shutil.rmtree(folder, ignore_errors=True)
                log.info("removed %s from the cache", folder)

    def _folder(self, kind: str, run_id: str) -> str:
        return f"{self._path}/artifacts/{kind}/v={run_id}"

    def _download(self, kind: str, run_id: str, skip: Sequence[str]) -> Path:
        target = self._cache / kind / f"v={run_id}"
        if target.is_dir():
            return target
        source = self._folder(kind, run_id)
        started = time.perf_counter()
        partial = self._cache / kind / f".{run_id}.{uuid.uuid4().hex[:8]}"
        partial.mkdir(parents=True, mode=0o700)
        try:
            for info in self._filesystem.get_file_info(pafs.FileSelector(source)):
                if info.type == pafs.FileType.File and info.base_name not in skip:
                    pafs.copy_files(
                        info.path,
                        str(partial / info.base_name),
                        source_filesystem=self._filesystem,
                        destination_filesystem=pafs.LocalFileSystem(),
                    )
            _verify_all_but(partial, skip)
            try:
                partial.rename(target)
            except OSError:
                # Another replica of this node was faster; its copy was verified just the same.
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        log.info("downloaded %s in %.1f s", source, time.perf_counter() - started)
        return target


def _verify_all_but(folder: Path, skip: Sequence[str]) -> Manifest:
    """`Manifest.verify` without the files in `skip`. Raises ArtifactError."""
    path = folder / MANIFEST
    if not skip or not path.is_file():
        return Manifest.verify(folder)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**raw)
        wanted = {name: sha for name, sha in manifest.files.items() if name not in skip}
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"artifact {folder}: {MANIFEST} is damaged ({error}); publish it again") from error
    for name, sha256 in wanted.items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"artifact {folder}: {name} wanted sha256 {sha256}, got no file; publish it again")
        with file.open("rb") as stream:
            got = hashlib.file_digest(stream, "sha256").hexdigest()
        if got != sha256:
            raise ArtifactError(f"artifact {folder}: {name} wanted sha256 {sha256}, got {got}; publish it again")
    return manifest
