"""What a request does not bring and the online store knows: the user's newest clicks, and which lives are on air."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from models.artifacts.bank import Histories
from models.history import HISTORY_PAD, HistoryRule
from models.online.errors import StoreDownError, StoreError
from models.online.lives import OnAir
from models.online.store import OnlineStore
from models.online.user_row import Views
from serve.schema import MAX_CANDIDATES, HistoryItem, LiveOfAuthor, LivesOfAnswer, RankRequest, UserRequest
from serve.watcher import NotReadyError

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
Source = Literal["request", "store", "published", "none"]
Ints = npt.NDArray[np.int64]

_MOST_ON_AIR = 20_000
"""Lives that are looked at to find those on air."""
_MOST_ENDED = 20_000
"""Lives that have ended since an index knew them, of which retrieval is kept from finding."""
_LIST_S = 0.5
"""How long a list of the lives on air is used."""
_KNOWN_MS = 60_000
"""A list also holds what was over so long ago, for requests whose moment is a little before now."""
_STALE_S = 60.0
"""How long a list is used, `degraded`, while the store does not answer."""
_NOBODY = int(np.iinfo(np.int64).min)


class Clicks(NamedTuple):
    """Those of one user, ascending by moment; [n] each."""

    author_ids: Ints
    ts_ms: Ints
    watch_s: npt.NDArray[np.float32]
    live_ids: Ints
    """0 where that is not known: of clicks that a request brings, and of published ones."""


class NoCandidatesError(ValueError):
    """The request names no candidates, and there are none that could be taken."""


class NothingOnAirError(LookupError):
    """No live that the request asks for is on air."""


class Filled(NamedTuple):
    """A request with all that it did not bring."""

    request: RankRequest
    """With candidates."""
    clicks: Clicks
    """The history, of which the request's moment lets a part count."""
    source: Source
    store_age_s: float | None
    """Seconds from the newest event of the user's views to the request; None where the store was not asked or knows
    none."""
    lives: LivesOfAnswer | None
    """None where the request names authors."""
    degraded: bool
    """Whether the store did not answer."""

    @property
    def candidates(self) -> list[int]:
        """Authors to rank."""
        return self.request.candidates or []


class Heard(NamedTuple):
    """What a user did, wherever that is known from."""

    clicks: Clicks
    source: Source
    store_age_s: float | None
    degraded: bool
    """Whether the store was asked and did not answer."""


class Online:
    """Fills requests. Safe to call from several threads."""

    def __init__(self, store: OnlineStore | None = None, max_live_ms: int = DAY_MS) -> None:
        """Without a store histories are the published ones, and requests have to name authors."""
        self._store, self._max_live_ms = store, max_live_ms
        self._list: tuple[float, int, OnAir] | None = None
        self._list_lock = threading.Lock()
        self._over: tuple[float, int, OnAir] | None = None

    def fill(self, requests: Sequence[RankRequest], histories: Histories, now_ms: int) -> list[Filled]:
        """Each request with candidates and a history; users are looked up together.

        Raises NoCandidatesError, NothingOnAirError, and NotReadyError where the store has to be asked for lives and
        does not answer.
        """
        filled = []
        for request, heard in zip(requests, self.heard(requests, histories, now_ms), strict=True):
            request, lives, is_stale = self._candidates(request, request.ts_ms(now_ms), now_ms)
            degraded = is_stale or heard.degraded
            filled.append(Filled(request, heard.clicks, heard.source, heard.store_age_s, lives, degraded))
        return filled

    def heard(self, requests: Sequence[UserRequest], histories: Histories, now_ms: int) -> list[Heard]:
        """The history of each request; users are looked up together."""
        without = [request.user_id for request in requests if request.history is None]
        views, is_down = self._views(without)
        found = iter(views)
        every = []
        for request in requests:
            ts_ms = request.ts_ms(now_ms)
            own = next(found) if request.history is None else None
            clicks, source = self._history(request, own, histories, ts_ms)
            age_s = None if own is None else _age_s(own, ts_ms)
            every.append(Heard(clicks, source, age_s, is_down and request.history is None))
        return every

    def ended(self, ts_ms: int, since_ms: int, now_ms: int) -> tuple[npt.NDArray[np.int64], bool]:
        """Ids of lives that were told to be over after `since_ms` and are at `ts_ms`, and whether that is not known.

        From a list that is at most `_LIST_S` old. Of more than `_MOST_ENDED` those that ended last.
        """
        if self._store is None:
            return np.empty(0, np.int64), False
        is_stale = False
        with self._list_lock:  # one looks, the others wait for what it finds
            held = self._over
            if held is None or held[1] != since_ms or time.monotonic() - held[0] > _LIST_S:
                try:
                    found = self._store.ended(since_ms, max(ts_ms, now_ms), _MOST_ENDED)
                    held = self._over = time.monotonic(), since_ms, found
                except StoreError as error:
                    log.debug("lives that have just ended are not known: %s", error)
                    is_stale = True
        if held is None:
            return np.empty(0, np.int64), is_stale
        return held[2].live_id[held[2].over_ms <= ts_ms], is_stale

    def _views(self, user_ids: Sequence[int]) -> tuple[Sequence[Views | None], bool]:
        if self._store is None or not user_ids:
            return [None] * len(user_ids), False
        try:
            return self._store.views(user_ids), False
        except StoreDownError as error:
            # Logged by the store's own counters and by `degraded`: a line for each request would be thousands.
            log.debug("histories are the published ones: %s", error)
        except StoreError:
            log.exception("histories are the published ones")
        return [None] * len(user_ids), True

    def _history(
        self, request: UserRequest, views: Views | None, histories: Histories, ts_ms: int
    ) -> tuple[Clicks, Source]:
        if request.history is not None:
            return given_history(request.history), "request"
        published = histories.of_user(request.user_id)
        clicks = Clicks(*published, np.zeros(len(published[0]), np.int64))
        source: Source = "published"
        if views is not None and (views.is_clicked & (views.ts_ms < ts_ms)).any():
            clicks, source = joined(clicks, views), "store"
        if self._store is not None:
            clicks = within_days(clicks, histories.rule, ts_ms)
        return clicks, source if len(clicks.author_ids) else "none"

    def _candidates(
        self, request: RankRequest, ts_ms: int, now_ms: int
    ) -> tuple[RankRequest, LivesOfAnswer | None, bool]:
        """The request with authors as candidates, which lives they are of, and whether those are a list of before."""
        if request.candidates is not None:
            return request, None, False
        if self._store is None:
            raise NoCandidatesError(
                "candidates: wanted author ids, got none: this endpoint has no online store that knows which lives are "
                "on air; send candidates, or start it with a store"
            )
        if request.lives is None:
            lives, is_stale = self._all_on_air(ts_ms, now_ms)
        else:
            lives, is_stale = self._named(request.lives, request.keep_ended, ts_ms), False
        authors = list(dict.fromkeys(live.author_id for live in lives.lives))
        if not authors:
            what = "no live" if request.lives is None else f"none of the {len(request.lives)} lives"
            raise NothingOnAirError(f"{what} is on air at {ts_ms} ms; tell lives by POST /lives, or send candidates")
        return request.model_copy(update={"candidates": authors}), lives, is_stale

    def _named(self, live_ids: Sequence[int], keep_ended: bool, ts_ms: int) -> LivesOfAnswer:
        assert self._store is not None
        try:
            states = self._store.lives(live_ids)
        except StoreError as error:
            raise NotReadyError(f"the lives of the request are not known now: {error}") from error
        lives, off_air, unknown = [], [], []
        for live_id, state in dict(zip(live_ids, states, strict=True)).items():
            if state is None or state.author_id is None or state.start_ms is None:
                unknown.append(live_id)
                continue
            is_on_air = state.is_on_air(ts_ms, self._max_live_ms)
            if not is_on_air:
                off_air.append(live_id)
            if is_on_air or keep_ended:
                lives.append(LiveOfAuthor(live_id=live_id, author_id=state.author_id, on_air=is_on_air))
        return LivesOfAnswer(lives=lives, off_air=off_air, unknown=unknown, left_out=0)

    def _all_on_air(self, ts_ms: int, now_ms: int) -> tuple[LivesOfAnswer, bool]:
        """All lives on air; where they are of too many authors, those that began last."""
        listed, is_stale = self._listed(ts_ms, now_ms)
        rows = np.flatnonzero(listed.at(ts_ms))
        rows = rows[np.argsort(-listed.start_ms[rows], kind="stable")]
        _, first = np.unique(listed.author_id[rows], return_index=True)
        authors = listed.author_id[rows[np.sort(first)[:MAX_CANDIDATES]]]
        kept = rows[np.isin(listed.author_id[rows], authors)]
        lives = [
            LiveOfAuthor(live_id=live_id, author_id=author_id, on_air=True)
            for live_id, author_id in zip(listed.live_id[kept].tolist(), listed.author_id[kept].tolist(), strict=True)
        ]
        return LivesOfAnswer(lives=lives, off_air=[], unknown=[], left_out=len(rows) - len(kept)), is_stale

    def _listed(self, ts_ms: int, now_ms: int) -> tuple[OnAir, bool]:
        """Lives that are over after `ts_ms`, from a list that is at most `_LIST_S` old; and whether it is older."""
        assert self._store is not None
        since_ms = now_ms - _KNOWN_MS
        try:
            if ts_ms < since_ms:
                return self._store.on_air(ts_ms, _MOST_ON_AIR), False
            with self._list_lock:  # one looks, the others wait for what it finds
                if self._list is None or time.monotonic() - self._list[0] > _LIST_S:
                    self._list = time.monotonic(), since_ms, self._store.on_air(since_ms, _MOST_ON_AIR)
                return self._list[2], False
        except StoreError as error:
            held = self._list
            if held is None or time.monotonic() - held[0] > _STALE_S or ts_ms < held[1]:
                raise NotReadyError(f"which lives are on air is not known now: {error}") from error
            return held[2], True


def _age_s(views: Views, ts_ms: int) -> float | None:
    """Seconds from the newest event of views to a moment; None where there is none before it."""
    return None if views.newest_ms is None or views.newest_ms > ts_ms else (ts_ms - views.newest_ms) / 1000


def given_history(items: Sequence[HistoryItem]) -> Clicks:
    """The clicks that a request brings."""
    ordered = sorted(items, key=lambda item: item.ts_ms)
    # The id that stands for padding is an author like any other unknown one when a request names it.
    ids = [_NOBODY if item.author_id == HISTORY_PAD else item.author_id for item in ordered]
    times = np.array([item.ts_ms for item in ordered], np.int64)
    watch_s = np.array([item.watch_time_s for item in ordered], np.float32)
    return Clicks(np.array(ids, np.int64), times, watch_s, np.zeros(len(ids), np.int64))


def joined(published: Clicks, views: Views) -> Clicks:
    """Clicks that are published and those in the store, each once: a click is known by author and moment.

    The store knows it better, unless it has not heard of the exit.
    """
    rows = np.flatnonzero(views.is_clicked)
    author, ts_ms, watch_s = views.author_id[rows], views.ts_ms[rows], views.watch_s[rows].copy()
    author[author == HISTORY_PAD] = _NOBODY
    live = views.live_id[rows]
    place = {key: at for at, key in enumerate(zip(author.tolist(), ts_ms.tolist(), strict=True))}
    fresh = np.ones(len(published.author_ids), bool)
    for at, key in enumerate(zip(published.author_ids.tolist(), published.ts_ms.tolist(), strict=True)):
        if (same := place.get(key)) is not None:
            fresh[at] = False
            if not views.is_left[rows[same]]:
                watch_s[same] = published.watch_s[at]
    ts_ms = np.concatenate([published.ts_ms[fresh], ts_ms])
    order = np.argsort(ts_ms, kind="stable")
    return Clicks(
        author_ids=np.concatenate([published.author_ids[fresh], author])[order],
        ts_ms=ts_ms[order],
        watch_s=np.concatenate([published.watch_s[fresh], watch_s])[order],
        live_ids=np.concatenate([published.live_ids[fresh], live])[order],
    )


def within_days(clicks: Clicks, rule: HistoryRule, ts_ms: int) -> Clicks:
    """Clicks of so many days before that of `ts_ms` as count in examples."""
    first_ms = (ts_ms // DAY_MS - rule.days) * DAY_MS
    start = int(np.searchsorted(clicks.ts_ms, first_ms))
    if not start:
        return clicks
    return Clicks(clicks.author_ids[start:], clicks.ts_ms[start:], clicks.watch_s[start:], clicks.live_ids[start:])
