"""The artifacts beside the tables of a storage root."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from models.artifacts.manifest import Manifest
from models.artifacts.roots import cache_of
from models.artifacts.store import ArtifactStore
from pipelines.tables.storage import ABANDONED_S, Storage

_WAIT_S = 600.0
"""For another job that is publishing an artifact of the same kind."""


class Artifacts(ArtifactStore):
    """The artifact store at a storage's root, in which one job at a time publishes an artifact of a kind."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.filesystem, storage.root, cache_of(storage.url))
        self._storage = storage

    def lease(self, kind: str, wait_s: float = 0.0) -> AbstractContextManager[None]:
        """Held while an artifact of a kind is made; raises HeldError where another job makes one."""
        return self._storage.leases.hold(f"artifacts/{kind}", wait_s)

    def confirm(self, kind: str) -> None:
        """Raises HeldError where a lease that this process took was lost to another meanwhile."""
        self._storage.leases.confirm(f"artifacts/{kind}")

    def keep_newest(self, kind: str, count: int) -> None:
        """Removes all but the versions of a kind that were published last; CURRENT always stays."""
        with self.lease(kind, _WAIT_S):
            self.forget(kind, count)

    def publish(self, kind: str, local: Path, run_id: str, made_from: Mapping[str, str]) -> Manifest:
        """See ArtifactStore. Sweeps the halves of versions that other publishers of the kind left when they died."""
        with self.lease(kind, _WAIT_S):
            manifest = super().publish(kind, local, run_id, made_from)
            self.sweep(kind, ABANDONED_S)
        return manifest
