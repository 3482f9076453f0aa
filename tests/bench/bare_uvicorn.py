"""The application on uvicorn alone, without Ray: what the start command is measured against.

python -m tests.bench.bare_uvicorn STORE PORT
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import torch
import uvicorn

from models.artifacts.store import ArtifactStore
from serve.admission import Line
from serve.api import create_api
from serve.args import AdmissionConfig, WatchConfig
from serve.author_cache import AuthorCache
from serve.explain import Reason
from serve.live_search import KIND, LiveSearch, SearchLoader
from serve.loading import load_bank, load_snapshot
from serve.retrieval import Retrieval
from serve.schema import AuthorResponse, BankResponse, SimilarResponse
from serve.snapshot import Snapshot
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher


class AuthorsHere:
    """The author cache in this process."""

    def __init__(self, cache: AuthorCache) -> None:
        self._cache = cache

    async def author(self, author_id: int) -> AuthorResponse:
        return self._cache.author(author_id)

    async def similar(self, author_id: int, k: int) -> SimilarResponse:
        return self._cache.similar(author_id, k)

    async def status(self) -> BankResponse:
        return self._cache.status()

    async def reasons(self, author_ids: Sequence[int], history: Sequence[int]) -> list[Reason]:
        return self._cache.reasons(author_ids, history)


def main(root: str, port: str) -> None:
    """Serves until it is killed."""
    torch.set_num_threads(1)
    store = ArtifactStore.open(root)
    snapshots: SnapshotWatcher[Snapshot] = SnapshotWatcher(store, partial(load_snapshot, store), WatchConfig())
    snapshots.start()
    banks = SnapshotWatcher(store, partial(load_bank, store), WatchConfig())
    banks.start()
    ranking, authors = UserSequence(snapshots), AuthorsHere(AuthorCache(banks))
    searches: SnapshotWatcher[LiveSearch] = SnapshotWatcher(store, SearchLoader(store), WatchConfig(), kind=KIND)
    searches.start()
    retrieval = Retrieval(searches, lambda: snapshots.current.histories)
    api = create_api(ranking, authors, Line(AdmissionConfig()), AdmissionConfig(), retrieval=retrieval)
    uvicorn.run(api, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
