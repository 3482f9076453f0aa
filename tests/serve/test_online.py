"""Histories and candidates that requests do not bring: where they are from, and what is said when the store is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from models.online.errors import RowError, StoreDownError, StoreError
from models.online.lives import LiveUpdate, OnAir
from serve.online import DAY_MS, NoCandidatesError, NothingOnAirError, Online
from serve.schema import MAX_CANDIDATES, RankRequest, RankResponse
from serve.user_sequence import UserSequence
from serve.watcher import NotReadyError
from tests.models.online.event_streams import Event, batch_of
from tests.serve.conftest import AUTHOR_IDS, HOUR_MS, LENGTH, NOW_MS, USER_IDS, Published, watcher_of
from tests.serve.test_user_sequence import request

NEWCOMER, REGULAR = 99_991, int(USER_IDS[-1])
"""A user without a published history, and one with."""
OLD_MS = NOW_MS - 300 * DAY_MS


class Gone:
    """A store that does not answer."""

    def __init__(self, error: StoreError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_: Any) -> Any:
            raise self._error

        return fail


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    store = EmbeddedStore(StoreConfig(backend="embedded", path=str(tmp_path / "store"), map_gib=0.25))
    yield store
    store.close()


def ranked(published: Published, store: Any, **fields: Any) -> RankResponse:
    sequence = UserSequence(watcher_of(published.root), online=Online(store, DAY_MS))
    return sequence.rank(request(**fields))


def clicks(user_id: int, *ages_ms: int, author_id: int = int(AUTHOR_IDS[3])) -> list[Event]:
    moments = [(NOW_MS - age, kind) for age in ages_ms for kind in ("exposure", "click")]
    return [Event(user_id, author_id, ts_ms % 1_000_003, ts_ms, kind) for ts_ms, kind in moments]


def on_air(store: EmbeddedStore, *lives: tuple[int, int, int, int | None]) -> None:
    """(live, author, start and end in ms from NOW_MS)."""
    store.tell(
        [
            LiveUpdate(live_id=n, author_id=a, start_ms=NOW_MS + start, end_ms=None if end is None else NOW_MS + end)
            for n, a, start, end in lives
        ],
        NOW_MS,
    )


def test_a_click_counts_in_the_next_answer(shared: Published, store: EmbeddedStore) -> None:
    before = ranked(shared, store, user_id=NEWCOMER)
    assert (before.history_source, before.store_age_s, before.history_used) == ("none", None, 0)
    store.apply(batch_of(clicks(NEWCOMER, 2_000)), NOW_MS)
    after = ranked(shared, store, user_id=NEWCOMER)
    assert (after.history_source, after.store_age_s, after.history_used) == ("store", 2.0, 1)
    given = {"author_id": int(AUTHOR_IDS[3]), "ts_ms": NOW_MS - 2_000, "watch_time_s": 1e6}
    assert after.candidates == ranked(shared, None, user_id=NEWCOMER, history=[given]).candidates
    assert after.candidates != before.candidates


def test_a_history_that_the_request_brings_is_the_history(shared: Published, store: EmbeddedStore) -> None:
    store.apply(batch_of(clicks(NEWCOMER, 2_000)), NOW_MS)
    answer = ranked(shared, store, user_id=NEWCOMER, history=[])
    assert (answer.history_source, answer.history_used) == ("request", 0)


def test_what_was_shown_and_not_clicked_is_no_history(shared: Published, store: EmbeddedStore) -> None:
    store.apply(batch_of(clicks(NEWCOMER, 2_000)[:1]), NOW_MS)
    assert ranked(shared, store, user_id=NEWCOMER).history_source == "none"


def test_clicks_of_the_store_go_on_from_those_that_are_published(tmp_path: Path, store: EmbeddedStore) -> None:
    published = Published(tmp_path / "root")
    published.rule = type(published.rule)(length=LENGTH, days=100, delay_ms=0)
    published.publish("a")
    authors, times, watched = watcher_of(published.root).current.histories.of_user(REGULAR)
    alone = ranked(published, store, user_id=REGULAR)
    assert alone.history_source == "published" and alone.history_used == len(times)
    # The newest published one again, as the store knows it: clicked, and no exit yet. And a newer one.
    again = clicks(REGULAR, NOW_MS - int(times[-1]), author_id=int(authors[-1]))
    store.apply(batch_of(again + clicks(REGULAR, 1_000)), NOW_MS)
    both = ranked(published, store, user_id=REGULAR)
    items = [
        {"author_id": int(author), "ts_ms": int(ts_ms), "watch_time_s": float(seconds)}
        for author, ts_ms, seconds in zip(authors, times, watched, strict=True)
    ]
    items.append({"author_id": int(AUTHOR_IDS[3]), "ts_ms": NOW_MS - 1_000, "watch_time_s": 9e6})
    assert both.history_source == "store"
    assert both.candidates == ranked(published, None, user_id=REGULAR, history=items).candidates


def test_with_a_store_no_more_days_count_than_in_examples(shared: Published, store: EmbeddedStore) -> None:
    """The fixture's published clicks are up to 90 days old, and its rule counts 14."""
    start_ms = (NOW_MS // DAY_MS - 14) * DAY_MS
    _, times, _ = watcher_of(shared.root).current.histories.of_user(REGULAR)
    assert ranked(shared, store, user_id=REGULAR).history_used == int((times >= start_ms).sum()) < len(times)
    store.apply(batch_of(clicks(REGULAR, NOW_MS - start_ms, NOW_MS - start_ms + 1)), NOW_MS)
    assert ranked(shared, store, user_id=REGULAR).history_used == int((times >= start_ms).sum()) + 1


@pytest.mark.parametrize("error", [StoreDownError("gone"), RowError("format 9")])
def test_without_an_answer_of_the_store_the_published_history_is_used_and_said_so(
    shared: Published, error: StoreError
) -> None:
    answer, today = ranked(shared, Gone(error), user_id=REGULAR), ranked(shared, None, user_id=REGULAR)
    assert answer.degraded and not today.degraded and answer.history_source == "published"
    given = ranked(shared, Gone(error), user_id=REGULAR, history=[])
    assert not given.degraded


def test_without_candidates_all_on_air_are_ranked_at_the_moment_of_the_request(
    shared: Published, store: EmbeddedStore
) -> None:
    five, fifteen, other = (int(author) for author in AUTHOR_IDS[:3])
    on_air(store, (1, five, -100, None), (2, fifteen, -100, 50), (3, fifteen, -10, None), (4, other, 50, None))
    answer = ranked(shared, store, candidates=None)
    assert answer.lives is not None
    assert {(live.live_id, live.author_id) for live in answer.lives.lives} == {(1, five), (2, fifteen), (3, fifteen)}
    assert sorted(c.author_id for c in answer.candidates) == [five, fifteen]
    later = ranked(shared, store, candidates=None, context={"ts_ms": NOW_MS + 50})
    assert later.lives is not None and {live.live_id for live in later.lives.lives} == {1, 3, 4}
    with pytest.raises(NothingOnAirError, match="no live is on air"):
        ranked(shared, store, candidates=None, context={"ts_ms": NOW_MS - 101})


def test_of_too_many_on_air_those_that_began_last_are_ranked(shared: Published, store: EmbeddedStore) -> None:
    count = MAX_CANDIDATES + 7
    on_air(store, *((n, n * 10 + 5, -n * 1_000, None) for n in range(1, count + 1)))
    answer = ranked(shared, store, candidates=None)
    assert answer.lives is not None and answer.lives.left_out == 7
    assert {live.live_id for live in answer.lives.lives} == set(range(1, MAX_CANDIDATES + 1))


def test_lives_that_ended_are_told_and_dropped_or_kept_where_that_is_asked(
    shared: Published, store: EmbeddedStore
) -> None:
    five, fifteen, other = (int(author) for author in AUTHOR_IDS[:3])
    on_air(store, (1, five, -100, None), (2, fifteen, -100, 0), (3, other, 1, None))
    answer = ranked(shared, store, candidates=None, lives=[3, 2, 1, 404])
    assert answer.lives is not None and [c.author_id for c in answer.candidates] == [five]
    assert (answer.lives.off_air, answer.lives.unknown) == ([3, 2], [404])
    kept = ranked(shared, store, candidates=None, lives=[3, 2, 1, 404], keep_ended=True)
    assert kept.lives is not None and sorted(c.author_id for c in kept.candidates) == [five, fifteen, other]
    assert {live.live_id: live.on_air for live in kept.lives.lives} == {1: True, 2: False, 3: False}
    with pytest.raises(NothingOnAirError, match="none of the 2 lives is on air"):
        ranked(shared, store, candidates=None, lives=[2, 404])


def test_a_live_with_no_end_is_over_after_its_longest_time(shared: Published, store: EmbeddedStore) -> None:
    on_air(store, (1, int(AUTHOR_IDS[0]), -DAY_MS, None), (2, int(AUTHOR_IDS[1]), -DAY_MS + 1, None))
    for fields in ({}, {"lives": [1, 2]}):
        answer = ranked(shared, store, candidates=None, **fields)
        assert answer.lives is not None and [live.live_id for live in answer.lives.lives] == [2]


def test_without_a_store_candidates_have_to_be_named(shared: Published) -> None:
    for fields in ({}, {"lives": [1]}):
        with pytest.raises(NoCandidatesError, match="no online store"):
            ranked(shared, None, candidates=None, **fields)


def test_while_the_store_is_gone_the_last_list_of_lives_is_used_and_said_so(shared: Published) -> None:
    class Flaky(Gone):
        is_gone = False

        def views(self, user_ids: list[int]) -> list[None]:
            return [None] * len(user_ids)

        def on_air(self, ts_ms: int, most: int) -> OnAir:
            if self.is_gone:
                raise StoreDownError("gone")
            return OnAir.of([(1, int(AUTHOR_IDS[0]), ts_ms, ts_ms + 9 * HOUR_MS)])

    store, clock = Flaky(StoreDownError("gone")), [0.0]
    online = Online(store, DAY_MS)  # type: ignore[arg-type]
    sequence = UserSequence(watcher_of(shared.root), online=online)
    asked = RankRequest.model_validate({"user_id": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.online.time.monotonic", lambda: clock[0])
        assert not sequence.rank(asked).degraded
        store.is_gone, clock[0] = True, 40.0
        degraded = sequence.rank(asked)
        assert degraded.degraded and degraded.candidates[0].author_id == AUTHOR_IDS[0]
        clock[0] = 80.0
        with pytest.raises(NotReadyError, match="not known now: gone"):
            sequence.rank(asked)


def test_users_of_several_requests_are_looked_up_at_once(shared: Published, store: EmbeddedStore) -> None:
    store.apply(batch_of(clicks(7, 2_000) + clicks(8, 3_000)), NOW_MS)
    asked = [request(user_id=7), request(user_id=8, history=[]), request(user_id=8), request(user_id=9)]
    filled = Online(store).fill(asked, watcher_of(shared.root).current.histories, NOW_MS)
    assert [each.source for each in filled] == ["store", "request", "store", "none"]
    assert [each.store_age_s for each in filled] == [2.0, None, 3.0, None]
    np.testing.assert_equal([len(each.clicks[0]) for each in filled], [1, 0, 1, 0])
