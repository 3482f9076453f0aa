"""What every backend does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from models.online.config import StoreConfig
from models.online.lives import LiveUpdate
from models.online.opening import open_store
from models.online.store import EventBatch, OnlineStore
from tests.models.online.conftest import Opener
from tests.models.online.event_streams import START_MS, Event, View, batch_of, views_in

USERS = [3, -5, 2**63 - 1]


def stream(seed: int, count: int = 120) -> list[Event]:
    rng = random.Random(seed)
    return [
        Event(
            rng.choice(USERS),
            live * 10,
            live,
            START_MS + rng.randrange(40) * 1000,
            kind := rng.choice(("exposure", "exposure", "click", "exit", "gift")),
            rng.choice((1.0, 20.0)) if kind == "exit" else 0.0,
        )
        for live in rng.choices(range(4), k=count)
    ]


def read(store: OnlineStore, user_ids: Sequence[int]) -> list[list[View]]:
    return [
        [
            View(*each)
            for each in zip(
                *(c.tolist() for c in (v.author_id, v.live_id, v.ts_ms, v.watch_s, v.is_clicked)), strict=True
            )
        ]
        for v in store.views(user_ids)
    ]


def test_views_are_those_of_all_events_that_came_in_whatever_order(opener: Opener) -> None:
    store = opener(views_per_user=300, exposures_per_user=300, open_view_s=60)
    told = stream(1)
    for start in range(0, len(told), 25):
        store.apply(batch_of(told[start : start + 25]), START_MS)
    assert read(store, [*USERS, 404]) == [*(views_in(told, user, 60) for user in USERS), []]


def test_the_newest_event_of_a_user_is_known(store: OnlineStore) -> None:
    store.apply(batch_of([Event(3, 1, 1, START_MS + 9, "click"), Event(3, 1, 1, START_MS, "exposure")]), START_MS)
    assert [views.newest_ms for views in store.views([3, 4])] == [START_MS + 9, None]


def test_an_event_that_comes_again_is_known_by_its_id_and_counted_once(store: OnlineStore) -> None:
    told = list(dict.fromkeys(stream(2, 60)))
    assert store.apply(batch_of(told[:40] + told[:3]), START_MS).tolist() == [True] * 40 + [False] * 3
    assert store.apply(batch_of(told), START_MS + 60_000).tolist() == [False] * 40 + [True] * (len(told) - 40)
    for live_id in range(4):
        (live,) = store.lives([live_id])
        wanted = {kind: sum(e.live_id == live_id and e.kind == kind for e in told) for kind in ("exposure", "gift")}
        assert live is not None and {kind: live.counters[kind] for kind in wanted} == wanted


def test_events_at_once_from_several_threads_are_all_there(opener: Opener) -> None:
    """All of one user, whose row each of them changes."""
    store = opener(views_per_user=300)
    clicks = [Event(3, n, n, START_MS + n, kind) for n in range(200) for kind in ("exposure", "click")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.apply(batch_of(clicks[n : n + 10]), START_MS), range(0, 400, 10)))
    (views,) = store.views([3])
    assert views.live_id.tolist() == list(range(200)) and views.is_clicked.all()
    assert sum(live.counters["click"] for live in store.lives(range(200)) if live) == 200


def test_a_load_says_how_far_it_came_and_counts_nothing(store: OnlineStore) -> None:
    columns = replace(batch_of(stream(3, 30)), ids=None, mark=("events/2025-10-09", 7))
    assert store.marked("events/2025-10-09") is None
    for _ in range(2):
        assert store.apply(columns, START_MS).all()
    assert store.marked("events/2025-10-09") == 7
    assert store.lives(range(4)) == [None] * 4 and read(store, USERS) != [[], [], []]


def test_no_events_at_all_are_taken_in_too(store: OnlineStore) -> None:
    assert store.apply(batch_of([]), START_MS).tolist() == []
    assert store.views([]) == [] and store.lives([]) == []


def test_what_is_told_of_a_live_adds_up(store: OnlineStore) -> None:
    store.tell([LiveUpdate(live_id=1, author_id=10, end_ms=START_MS + 500, segment=4)], START_MS)
    assert len(store.on_air(START_MS, 10)) == 0
    store.tell([LiveUpdate(live_id=1, author_id=10, start_ms=START_MS, segment=3)], START_MS)
    (live,) = store.lives([1])
    assert live is not None
    assert (live.author_id, live.start_ms, live.end_ms, live.newest_segment) == (10, START_MS, START_MS + 500, 4)


def test_lives_are_on_air_from_their_start_until_just_before_their_end(opener: Opener) -> None:
    store = opener(max_live_s=3_600)
    told = {-7: (0, 100), 2: (50, 60), 3: (0, None), 4: (200, 300)}
    store.tell(
        [
            LiveUpdate(live_id=live, author_id=-live, start_ms=START_MS + start, end_ms=end and START_MS + end)
            for live, (start, end) in told.items()
        ],
        START_MS,
    )

    def at(after: int) -> set[int]:
        found = store.on_air(START_MS + after, 100)
        assert (found.author_id == -found.live_id).all()
        return set(found.live_id[found.at(START_MS + after)].tolist())

    moments = (-1, 0, 50, 59, 60, 99, 100, 200, 299, 300, 3_599_999, 3_600_000)
    wanted = {
        after: {live for live, (start, end) in told.items() if start <= after < (end or 3_600_000)} for after in moments
    }
    assert {after: at(after) for after in moments} == wanted
    assert store.on_air(START_MS, 2).live_id.tolist() == [2, -7]

    def ended(since: int, until: int, most: int = 100) -> list[int]:
        return store.ended(START_MS + since, START_MS + until, most).live_id.tolist()

    assert ended(60, 300) == [4, -7] and ended(59, 299) == [-7, 2] and ended(0, 10**8) == [3, 4, -7, 2]
    assert ended(0, 300, most=2) == [4, -7] and ended(300, 3_599_999) == [] and ended(0, 59) == []
    store.tell([LiveUpdate(live_id=3, author_id=-3, end_ms=START_MS + 40)], START_MS)
    assert at(39) == {-7, 3} and at(40) == {-7}


def test_ids_are_forgotten_in_time_and_views_still_know_the_event(opener: Opener) -> None:
    store, again = opener(event_ids_s=0.2), [Event(3, 1, 1, START_MS, "exposure")]
    assert store.apply(batch_of(again), START_MS).all()
    deadline = START_MS + 100
    assert not store.apply(batch_of(again), deadline).any()
    if type(store).__name__ == "RedisStore":  # whose clock is its own
        import time

        time.sleep(0.3)
    assert store.apply(batch_of(again), START_MS + 400).all()
    assert [len(views) for views in read(store, [3])] == [1]


def test_no_store_is_none() -> None:
    assert open_store(StoreConfig()) is None


@pytest.mark.parametrize("environment", [{}, {"STORE_URL": "localhost:6379"}])
def test_the_url_of_redis_comes_from_the_environment_and_is_never_told(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="STORE_URL, got") as error:
        open_store(StoreConfig(backend="redis", url_env="STORE_URL"), environment)
    assert "localhost" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "lmdb"}, "backend: wanted one of none, embedded, redis, got 'lmdb'"),
        ({"backend": "embedded"}, "path: wanted a folder"),
        ({"backend": "redis"}, "url_env: wanted the environment variable"),
        ({"ttl_s": 0}, "ttl_s: wanted"),
        ({"ttl_s": float("nan")}, "ttl_s: wanted"),
        ({"views_per_user": 0}, "views_per_user: wanted 1 to 1000, got 0"),
        ({"prefix": "a b"}, "prefix: wanted"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        StoreConfig(**fields)


def test_a_batch_has_a_length() -> None:
    assert len(EventBatch(events={"ts_ms": np.zeros(3, np.int64)})) == 3
