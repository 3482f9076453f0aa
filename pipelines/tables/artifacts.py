"""Artifacts (tokenizer, model, bank): folders `artifacts/<kind>/v=<run_id>` with a MANIFEST and a pointer CURRENT.

A version is uploaded, read back and verified, and only then does CURRENT move, in one step. Readers follow CURRENT.
"""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pyarrow import fs as pafs

from models.artifacts.manifest import CURRENT, MANIFEST, ArtifactError, Manifest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)


class Artifacts:
    """Publishes and fetches artifact versions below a storage root."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._filesystem = storage.filesystem

    def folder(self, kind: str, run_id: str) -> str:
        """Path of one version inside the filesystem."""
        return f"{self._storage.root}/artifacts/{kind}/v={run_id}"

    def kinds(self) -> list[str]:
        """Kinds of which a version was stored, sorted."""
        selector = pafs.FileSelector(f"{self._storage.root}/artifacts", allow_not_found=True)
        infos = self._filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def current(self, kind: str) -> str | None:
        """The published run id, or None where nothing was published."""
        path = f"{self._storage.root}/artifacts/{kind}/{CURRENT}"
        if self._filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        with self._filesystem.open_input_stream(path) as stream:
            return str(stream.read().decode().strip())

    def publish(self, kind: str, local: Path, run_id: str, made_from: Mapping[str, str]) -> Manifest:
        """Uploads `local` as a version, verifies what was stored, and moves CURRENT to it.

        The version that CURRENT names is never written over, readers may be in the middle of it: publishing the same
        files again does nothing, other files under that run id are an ArtifactError.
        """
        manifest = Manifest.create(local, kind=kind, run_id=run_id, made_from=made_from)
        if self.current(kind) == run_id:
            published = self.manifest(kind, run_id)
            if published.files != manifest.files:
                raise ArtifactError(f"artifact {kind}: {run_id} is in use with other files; publish under a new run id")
            return published
        target = self.folder(kind, run_id)
        self._filesystem.create_dir(target, recursive=True)
        for name in (*manifest.files, MANIFEST):
            pafs.copy_files(
                str(local / name),
                f"{target}/{name}",
                source_filesystem=pafs.LocalFileSystem(),
                destination_filesystem=self._filesystem,
            )
        self.fetch(kind, run_id)
        self._storage.write_text(f"{self._storage.root}/artifacts/{kind}/{CURRENT}", run_id)
        log.info("published %s %s", kind, run_id)
        return manifest

    def manifest(self, kind: str, run_id: str | None = None) -> Manifest:
        """The verified manifest of a version (default: CURRENT)."""
        return Manifest.verify(self.fetch(kind, run_id))

    def fetch(self, kind: str, run_id: str | None = None) -> Path:
        """A verified local folder of a version (default: CURRENT); remote roots are downloaded to a cache folder."""
        run_id = run_id or self.current(kind)
        if run_id is None:
            raise ArtifactError(
                f"artifact {kind}: nothing is published below {self._storage.root}; run the job that makes it first"
            )
        folder = self.folder(kind, run_id)
        if isinstance(self._filesystem, pafs.LocalFileSystem):
            local = Path(folder)
        else:
            local = Path(tempfile.mkdtemp(prefix=f"{kind}-{run_id}-"))
            pafs.copy_files(folder, str(local), source_filesystem=self._filesystem)
        manifest = Manifest.verify(local)
        if (manifest.kind, manifest.run_id) != (kind, run_id):
            raise ArtifactError(f"artifact {folder}: wanted {kind} {run_id}, got {manifest.kind} {manifest.run_id}")
        return local
