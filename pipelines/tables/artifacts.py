"""The artifacts beside the tables of a storage root."""

from models.artifacts.store import ArtifactStore, cache_of
from pipelines.tables.storage import Storage


class Artifacts(ArtifactStore):
    """The artifact store at a storage's root."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.filesystem, storage.root, cache_of(storage.url))
