"""Published artifacts: folders `<root>/artifacts/<kind>/v=<run_id>` that describe themselves, and a pointer CURRENT.

Jobs publish and read here, deployments read: one class for both. A version is uploaded, read back and verified, and
only then does CURRENT move, in one step.
"""

import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyarrow import fs as pafs

from models.artifacts.manifest import CURRENT, MANIFEST, ArtifactError, Manifest
from models.artifacts.roots import cache_of, open_root, put_file

log = logging.getLogger(__name__)

_RUN_ID_BYTES = 255
_POINTER_BYTES = 1 << 16
_KEPT_VERSIONS = 3
_PARTIAL_S = 86_400
"""A download that is older than this has died."""


class ArtifactStore:
    """Publishes versions below a storage root, and hands them out as verified local folders.

    A root on this machine is read in place. A remote one (s3://, gs://, any other file system) is downloaded once per
    node: processes of a node share the cache folder, a version appears there by one rename, and of each kind the few
    versions that were used last stay.
    """

    def __init__(self, filesystem: pafs.FileSystem, path: str, cache: Path) -> None:
        """Args: `path` of the root inside `filesystem`; `cache` a folder for versions of a remote filesystem."""
        self._filesystem, self._path, self._cache = filesystem, path.rstrip("/"), cache

    @classmethod
    def open(cls, root: str, cache_dir: str | None = None) -> "ArtifactStore":
        """The store at a folder or URL. Remote versions are kept in `cache_dir`, None = the temporary folder."""
        filesystem, path, url = open_root(root)
        return ArtifactStore(filesystem, path, cache_of(url, cache_dir))

    @property
    def root(self) -> str:
        """The root inside its filesystem, for messages."""
        return self._path

    @property
    def is_local(self) -> bool:
        """True where versions are read in place."""
        return isinstance(self._filesystem, pafs.LocalFileSystem)

    def folder(self, kind: str, run_id: str) -> str:
        """Path of one version inside the filesystem."""
        return f"{self._path}/artifacts/{kind}/v={run_id}"

    def kinds(self) -> list[str]:
        """Kinds of which a version was stored, sorted."""
        infos = self._filesystem.get_file_info(pafs.FileSelector(f"{self._path}/artifacts", allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def current(self, kind: str) -> str | None:
        """The published run id, or None where nothing was published. Raises ArtifactError for a damaged pointer."""
        path = f"{self._path}/artifacts/{kind}/{CURRENT}"
        if not self._holds(path):
            return None
        with self._filesystem.open_input_stream(path) as stream:
            raw = stream.read(_RUN_ID_BYTES + 1)
        run_id: str = raw.decode("utf-8", errors="replace").strip()
        if not run_id or len(raw) > _RUN_ID_BYTES or "/" in run_id or not run_id.isprintable():
            raise ArtifactError(f"{path}: wanted one run id, got {run_id[:80]!r}; publish again")
        return run_id

    def published_ts_ms(self, kind: str, run_id: str) -> int:
        """When a version was published, as its manifest says; 0 where it says nothing, or there is none."""
        content = self.read_file(kind, run_id, MANIFEST)
        return 0 if content is None else Manifest.parse(content, self.folder(kind, run_id)).published_ts_ms

    def has(self, kind: str, run_id: str) -> bool:
        """Whether a version is stored, told by its manifest."""
        return self._holds(f"{self.folder(kind, run_id)}/{MANIFEST}")

    def versions(self, kind: str) -> list[str]:
        """Run ids of all versions of a kind that have a manifest, the one that was published last at the end."""
        base = f"{self._path}/artifacts/{kind}"
        published: dict[str, int] = {}
        for info in self._filesystem.get_file_info(pafs.FileSelector(base, allow_not_found=True)):
            run_id = info.base_name.removeprefix("v=")
            if run_id != info.base_name and self._holds(f"{info.path}/{MANIFEST}"):
                try:
                    published[run_id] = self.published_ts_ms(kind, run_id)
                except ArtifactError as error:
                    log.warning("a version that nobody can read: %s", error)
        return sorted(published, key=lambda run_id: (published[run_id], run_id))

    def fetch(self, kind: str, run_id: str | None = None) -> Path:
        """A verified local folder of a version (default: CURRENT). Raises ArtifactError."""
        return self.verified(kind, run_id)[0]

    def manifest(self, kind: str, run_id: str | None = None) -> Manifest:
        """The manifest of a verified version (default: CURRENT). Raises ArtifactError."""
        return self.verified(kind, run_id)[1]

    def verified(
        self, kind: str, run_id: str | None = None, without: str | None = None, *, believed: bool = False
    ) -> tuple[Path, Manifest]:
        """A local folder of a version (default: CURRENT) and its manifest, after every hash was checked.

        Files whose names begin with `without` are neither downloaded nor checked. Raises ArtifactError on any mismatch.
        `believed` reads no file that lies on this node already: for who knows that it is as it was verified (seals.py).
        """
        run_id = run_id or self.current(kind)
        if run_id is None:
            raise ArtifactError(f"artifact {kind}: nothing is published below {self._path}; run the job that makes it")
        if self.is_local:
            local = Path(self.folder(kind, run_id))
            manifest = Manifest.of(local) if believed else Manifest.verify(local, without)
        else:
            local, manifest = self._cached(kind, run_id, without, believed)
        if (manifest.kind, manifest.run_id) != (kind, run_id):
            raise ArtifactError(
                f"artifact {self.folder(kind, run_id)}: wanted {kind} {run_id}, "
                f"its {MANIFEST} says {manifest.kind} {manifest.run_id}; publish it again"
            )
        return local, manifest

    def read_part(self, kind: str, run_id: str, name: str, num_bytes: int) -> bytes:
        """The first bytes of one file, read where it lies."""
        with self._filesystem.open_input_file(f"{self.folder(kind, run_id)}/{name}") as stream:
            part: bytes = stream.read(num_bytes)
        return part

    def read_file(self, kind: str, run_id: str, name: str) -> bytes | None:
        """A small file of a version, or of a folder in it, read where it lies; None where there is none."""
        path = f"{self.folder(kind, run_id)}/{name}"
        if not self._holds(path):
            return None
        with self._filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
        return content

    def read_pointer(self, kind: str, name: str) -> bytes | None:
        """A small file beside CURRENT; None where there is none."""
        path = f"{self._path}/artifacts/{kind}/{name}"
        if not self._holds(path):
            return None
        with self._filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read(_POINTER_BYTES)
        return content

    def put_pointer(self, kind: str, name: str, content: bytes) -> None:
        """Puts a small file beside CURRENT, in one step."""
        put_file(self._filesystem, f"{self._path}/artifacts/{kind}/{name}", content)

    def put_files(self, kind: str, run_id: str, files: Mapping[str, bytes], folder: str = "") -> None:
        """Puts small files into a version, or a folder in it, each in one step and in this order."""
        target = f"{self.folder(kind, run_id)}/{folder}".rstrip("/")
        self._filesystem.create_dir(target, recursive=True)
        for name, content in files.items():
            put_file(self._filesystem, f"{target}/{name}", content)

    def publish(self, kind: str, local: Path, run_id: str, made_from: Mapping[str, str]) -> Manifest:
        """Uploads `local` as a version, verifies what was stored, and moves CURRENT to it.

        A version that can be read is never written over, current or not: a deployment, or an artifact made from it, may
        be using it. Publishing the same files again moves CURRENT alone; other files under its run id are an
        ArtifactError. What a publisher that died left behind has no manifest and makes way.
        """
        now_ms = time.time_ns() // 1_000_000
        manifest = Manifest.create(local, kind=kind, run_id=run_id, made_from=made_from, published_ts_ms=now_ms)
        published = self._stored(kind, run_id)
        if published is None:
            self._upload(local, manifest)
            self._read_back(kind, run_id)
        elif published.files != manifest.files:
            raise ArtifactError(
                f"artifact {kind}: {run_id} is in use with other files; publish under a new run id, "
                f"or remove {self.folder(kind, run_id)} where nothing was made from it"
            )
        self._point(kind, run_id)
        return published or manifest

    def roll_back(self, kind: str, run_id: str) -> None:
        """Moves CURRENT to a version that is there, after all of it was verified where it lies. Raises ArtifactError.

        No file of any version is touched: who reads one, the newest or that one, goes on.
        """
        self._read_back(kind, run_id)
        self._point(kind, run_id)

    def _point(self, kind: str, run_id: str) -> None:
        if self.current(kind) != run_id:
            put_file(self._filesystem, f"{self._path}/artifacts/{kind}/{CURRENT}", run_id.encode())
            log.info("%s %s is current", kind, run_id)

    def sweep(self, kind: str, older_than_s: float) -> list[str]:
        """Removes versions of a kind that nobody can read, as no manifest was stored: what is whole, or newer, stays.

        Returns their run ids. Only for who keeps all others from publishing an artifact of the kind meanwhile.
        """
        base, oldest_ns = f"{self._path}/artifacts/{kind}", time.time_ns() - older_than_s * 10**9
        # One call for all versions, however many there are.
        versions: dict[str, dict[str, int]] = {}
        for info in self._filesystem.get_file_info(pafs.FileSelector(base, allow_not_found=True, recursive=True)):
            version, _, name = info.path.partition(f"artifacts/{kind}/")[2].partition("/")
            if version.startswith("v="):
                versions.setdefault(version, {})[name] = info.mtime_ns or 0
        halves = [v for v, files in versions.items() if MANIFEST not in files and max(files.values()) < oldest_ns]
        for version in halves:
            self._filesystem.delete_dir(f"{base}/{version}")
            log.info("swept %s/%s: its publisher died before it was whole", base, version)
        return [version[2:] for version in halves]

    def forget(self, kind: str, keep: int) -> list[str]:
        """Removes all but the `keep` versions of a kind that were stored last, and CURRENT; returns their run ids.

        Only for kinds of which nobody reads an older version, and for who keeps others from publishing meanwhile.
        """
        newest = self.versions(kind)[::-1]
        gone = [version for version in newest[keep:] if version != self.current(kind)]
        for version in gone:
            # The manifest first: a version that goes half is none.
            self._remove(self.folder(kind, version), [MANIFEST])
            self._filesystem.delete_dir(self.folder(kind, version))
        return gone

    def _holds(self, path: str) -> bool:
        return bool(self._filesystem.get_file_info(path).type == pafs.FileType.File)

    def _stored(self, kind: str, run_id: str) -> Manifest | None:
        """The manifest of a version that can be read from the store, None where there is none."""
        if not self._holds(f"{self.folder(kind, run_id)}/{MANIFEST}"):
            return None
        try:
            return self._read_back(kind, run_id)
        except ArtifactError as error:
            log.warning("writing over a version that nobody can read: %s", error)
            return None

    def _read_back(self, kind: str, run_id: str) -> Manifest:
        """Verifies what lies in the store itself, past any cache. Raises ArtifactError."""
        source = self.folder(kind, run_id)
        if self.is_local:
            return Manifest.verify(Path(source))
        manifest = Manifest.parse(self._manifest_bytes(source), source)
        manifest.check(source, lambda name: self._sha256(f"{source}/{name}"))
        return manifest

    def _sha256(self, path: str) -> str | None:
        """The hash of a file, read as a stream; None where there is none."""
        if not self._holds(path):
            return None
        with self._filesystem.open_input_stream(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _upload(self, local: Path, manifest: Manifest) -> None:
        """The manifest goes last: without it the version cannot be read. A failure takes all of it away again."""
        target = self.folder(manifest.kind, manifest.run_id)
        self._filesystem.create_dir(target, recursive=True)
        names = (*manifest.files, MANIFEST)
        # Removed instead of written over: who has mapped a damaged file can go on reading it.
        self._remove(target, names)
        try:
            for name in names:
                pafs.copy_files(
                    str(local / name),
                    f"{target}/{name}",
                    source_filesystem=pafs.LocalFileSystem(),
                    destination_filesystem=self._filesystem,
                )
        except BaseException:
            self._remove(target, names)
            raise

    def _remove(self, folder: str, names: Iterable[str]) -> None:
        """The manifest first: what has none is no version."""
        for name in sorted(names, key=lambda name: name != MANIFEST):
            if self._holds(f"{folder}/{name}"):
                self._filesystem.delete_file(f"{folder}/{name}")

    def _cached(self, kind: str, run_id: str, without: str | None, believed: bool) -> tuple[Path, Manifest]:
        """The node's copy of a remote version, downloaded where there is none that is whole."""
        kept = self.own_cache() / ("whole" if without is None else f"without-{without}") / kind
        target, source = kept / f"v={run_id}", self.folder(kind, run_id)
        if target.is_dir():
            try:
                manifest = Manifest.of(target) if believed else Manifest.verify(target, without)
                if manifest == Manifest.parse(self._manifest_bytes(source), source):
                    os.utime(target)
                    return target, manifest
                log.warning("downloading %s again: it was removed and published anew", source)
            except ArtifactError as error:
                log.warning("downloading again: %s", error)
            shutil.rmtree(target, ignore_errors=True)
        partial = kept / f".{run_id}.{uuid.uuid4().hex[:8]}"
        partial.mkdir(parents=True)
        try:
            self._download(source, partial, without)
            manifest = Manifest.verify(partial, without)
            try:
                partial.rename(target)
            except OSError:
                if not target.is_dir():  # else another process of this node was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _forget_oldest(kept)
        return target, manifest

    def own_cache(self) -> Path:
        """The folder that this user's processes of this node share, which nobody else may read or write.

        Raises PermissionError where it belongs to somebody else.
        """
        self._cache.mkdir(parents=True, mode=0o700, exist_ok=True)
        if self._cache.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._cache} belongs to another user; set cache_dir to a folder of your own")
        return self._cache

    def _manifest_bytes(self, source: str) -> bytes:
        """A version's manifest as it is stored. Raises ArtifactError where there is none."""
        if not self._holds(f"{source}/{MANIFEST}"):
            raise ArtifactError(f"artifact {source}: wanted {MANIFEST}, got none; publish it again")
        with self._filesystem.open_input_stream(f"{source}/{MANIFEST}") as stream:
            content: bytes = stream.read()
        return content

    def _download(self, source: str, target: Path, without: str | None) -> None:
        """The manifest and what it lists, as far as it is there."""
        started = time.perf_counter()
        content = self._manifest_bytes(source)
        (target / MANIFEST).write_bytes(content)
        for name in Manifest.parse(content, source).names(without):
            if self._holds(f"{source}/{name}"):
                pafs.copy_files(
                    f"{source}/{name}",
                    str(target / name),
                    source_filesystem=self._filesystem,
                    destination_filesystem=pafs.LocalFileSystem(),
                )
        log.info("downloaded %s in %.1f s", source, time.perf_counter() - started)


def _forget_oldest(kept: Path) -> None:
    """Removes all but the versions used last, and downloads that died. What a process has mapped stays readable."""
    folders = sorted(kept.glob("v=*"), key=lambda folder: folder.stat().st_mtime)
    died = [folder for folder in kept.glob(".*") if folder.stat().st_mtime < time.time() - _PARTIAL_S]
    for folder in folders[:-_KEPT_VERSIONS] + died:
        shutil.rmtree(folder, ignore_errors=True)
        log.info("removed %s from the cache", folder)
