"""Retrieval: a user's history in, the nearest of the lives on air out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from models.artifacts.bank import Histories
from models.batch import collate
from models.history import HISTORY_PAD
from serve.live_search import LiveSearch
from serve.observe import Mark, unmarked
from serve.online import NothingOnAirError, Online
from serve.schema import IndexResponse, RetrieveRequest, RetrieveResponse
from serve.user_sequence import DamagedError, history_columns
from serve.watcher import SnapshotWatcher

_LATE_MS = 600_000
"""How long before the moment that an index knows a live may have ended that it still holds as on air."""


class NoIndexError(LookupError):
    """No index of lives was ever published."""


class Retrieval:
    """Finds lives. A plain class: serve/app.py puts it beside the ranker, tests and benchmarks use it as it is.

    Safe to call from several threads: a call reads the watcher once and keeps nothing.
    """

    def __init__(
        self,
        watcher: SnapshotWatcher[LiveSearch],
        histories: Callable[[], Histories | None] = lambda: None,
        online: Online | None = None,
    ) -> None:
        """Args: `histories` gives those that are published, None while there are none."""
        self._watcher, self._histories, self._online = watcher, histories, online or Online()

    def retrieve(self, request: RetrieveRequest, mark: Mark = unmarked) -> RetrieveResponse:
        """The nearest lives on air at the request's moment; `mark` is told where a stage ends.

        Raises NoIndexError where none is published, NotReadyError where none could be loaded, NothingOnAirError, and
        DamagedError where the user's vector is not one.
        """
        search, now_ms = self._search, time.time_ns() // 1_000_000
        ts_ms, towers, index = request.ts_ms(now_ms), search.towers, search.index
        published = self._histories() or Histories.none(towers.rule)
        (heard,) = self._online.heard([request], replace(published, rule=towers.rule), now_ms)
        ended, is_stale = self._online.ended(ts_ms, index.until_ts_ms - _LATE_MS, now_ms)
        mark("history")
        one = {"user_id": request.user_id, "author_id": HISTORY_PAD, "ts_ms": ts_ms}
        columns = {name: np.array([value], np.int64) for name, value in one.items()}
        rows = collate(columns | history_columns(heard.clicks, towers.rule, ts_ms), towers.catalog)
        vector = search.user_vector(rows)
        if not np.isfinite(vector).all():
            raise DamagedError(
                f"the vector of user {request.user_id} by towers {search.towers_version} holds NaN or infinity: their "
                "files were written to while in use, or training diverged; train them again, or publish another version"
            )
        mark("forward")
        found = search.nearest(vector, request.k, ts_ms, ended)
        if not len(found.rows):
            raise NothingOnAirError(
                f"no live of index {search.version} is on air at {ts_ms} ms; it knows until {index.until_ts_ms} ms: "
                "run the job index again"
            )
        mark("search")
        return RetrieveResponse.model_construct(
            live_ids=index.live_ids[found.rows].tolist(),
            author_ids=index.author_ids[found.rows].tolist(),
            scores=np.round(found.scores.astype(np.float64), 6).tolist(),
            on_air=found.on_air,
            user_known=bool(rows.user[0] > 0),
            history_used=int(rows.history_mask.sum()),
            history_source=heard.source,
            store_age_s=heard.store_age_s,
            index_version=search.version,
            index_until_age_s=search.age_s(ts_ms),
            towers_version=search.towers_version,
            degraded=heard.degraded or is_stale,
        )

    def status(self) -> IndexResponse:
        """The index in use. Raises NoIndexError and NotReadyError as `retrieve`."""
        search = self._search
        return IndexResponse(
            index_version=search.version,
            index_until_age_s=search.age_s(time.time_ns() // 1_000_000),
            towers_version=search.towers_version,
            lives=len(search.index.live_ids),
            width=search.index.width,
            load_failures=self._watcher.failures,
            last_failure=self._watcher.last_failure,
        )

    @property
    def _search(self) -> LiveSearch:
        if not self._watcher.loaded and self._watcher.last_failure is None:
            raise NoIndexError("no index of lives is published; run the jobs towers, item_vectors and index")
        return self._watcher.current

    @property
    def lives(self) -> int:
        """How many are compared for a request; 0 where no index is loaded."""
        return sum(len(search.index.live_ids) for search in self._watcher.loaded[:1])
