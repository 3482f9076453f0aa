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

from models.artifacts.manifest import CURRENT, MANIFEST, ArtifactError, Manifest

log = logging.getLogger(__name__)

_RUN_ID_BYTES = 255
_KEPT_VERSIONS = 3


class ArtifactStore:
    """Follows CURRENT below a storage root and hands out verified local folders.

    A root on this machine is read in place. A remote one (s3://, gs://) is downloaded once per node: replicas of a node
    share the cache folder, and a version appears there by one rename.
    """

    def __init__(self, filesystem: pafs.FileSystem, path: str, cache: Path) -> None:
        """Args: `path` of the root inside `filesystem`; `cache` a folder for versions of a remote filesystem."""
        self._filesystem, self._path, self._cache = filesystem, path.rstrip("/"), cache

    @classmethod
    def open(cls, root: str, cache_dir: str | None = None) -> "ArtifactStore":
        """The store at a folder or URL. Remote versions are kept in `cache_dir`, None = the temporary folder."""
        named = f"bank-cache-{os.getuid()}-{hashlib.sha256(root.encode()).hexdigest()[:12]}"
        cache = Path(cache_dir or tempfile.gettempdir()) / named
        if "://" in root:
            filesystem, path = pafs.FileSystem.from_uri(root)
            return cls(filesystem, path, cache)
        return cls(pafs.LocalFileSystem(), os.path.abspath(root), cache)

    @property
    def root(self) -> str:
        """The root inside its filesystem, for messages."""
        return self._path

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

        Files named in `skip` are neither downloaded nor checked. Raises ArtifactError on any mismatch.
        """
        if self.is_local:
            local = Path(self._folder(kind, run_id))
            manifest = _verify(local, skip)
        else:
            local, manifest = self._cached(kind, run_id, skip)
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

    def _own_cache(self) -> None:
        self._cache.mkdir(parents=True, mode=0o700, exist_ok=True)
        if self._cache.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._cache} belongs to another user; set cache_dir to a folder of your own")

    def _folder(self, kind: str, run_id: str) -> str:
        return f"{self._path}/artifacts/{kind}/v={run_id}"

    def _cached(self, kind: str, run_id: str, skip: Sequence[str]) -> tuple[Path, Manifest]:
        """The node's copy of a remote version, downloaded where there is none that is whole."""
        self._own_cache()
        kept = self._cache / ("-".join(["without", *skip]) if skip else "whole") / kind
        target = kept / f"v={run_id}"
        if target.is_dir():
            try:
                return target, _verify(target, skip)
            except ArtifactError as error:
                log.warning("downloading again: %s", error)
                shutil.rmtree(target, ignore_errors=True)
        partial = kept / f".{run_id}.{uuid.uuid4().hex[:8]}"
        partial.mkdir(parents=True)
        try:
            self._download(self._folder(kind, run_id), partial, skip)
            manifest = _verify(partial, skip)
            if not target.is_dir():  # else another replica of this node was faster
                partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _forget_oldest(kept)
        return target, manifest

    def _download(self, source: str, target: Path, skip: Sequence[str]) -> None:
        started = time.perf_counter()
        for info in self._filesystem.get_file_info(pafs.FileSelector(source, allow_not_found=True)):
            if info.type == pafs.FileType.File and info.base_name not in skip:
                pafs.copy_files(
                    info.path,
                    str(target / info.base_name),
                    source_filesystem=self._filesystem,
                    destination_filesystem=pafs.LocalFileSystem(),
                )
        log.info("downloaded %s in %.1f s", source, time.perf_counter() - started)


def _forget_oldest(kept: Path) -> None:
    """Removes all but the newest versions. What a process has mapped stays readable until it lets go."""
    folders = sorted(kept.glob("v=*"), key=lambda folder: folder.stat().st_mtime)
    for folder in folders[:-_KEPT_VERSIONS]:
        shutil.rmtree(folder, ignore_errors=True)
        log.info("removed %s from the cache", folder)


def _verify(folder: Path, skip: Sequence[str]) -> Manifest:
    """`Manifest.verify`, which knows no files to leave out. Raises ArtifactError."""
    path = folder / MANIFEST
    if not skip or not path.is_file():
        return Manifest.verify(folder)
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        wanted = {name: sha for name, sha in manifest.files.items() if name not in skip}
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"artifact {folder}: {MANIFEST} is damaged ({error}); publish it again") from error
    for name, sha in wanted.items():
        got = "no file"
        if (folder / name).is_file():
            with (folder / name).open("rb") as stream:
                got = hashlib.file_digest(stream, "sha256").hexdigest()
        if got != sha:
            raise ArtifactError(f"artifact {folder}: {name} wanted sha256 {sha}, got {got}; publish it again")
    return manifest
