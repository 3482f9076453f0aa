"""What is served from the store is what is computed offline for the same instant: through the routes' own classes on
one side, through the tables and the job `examples` on the other."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from models.artifacts.bank import Histories
from models.history import HistoryRule
from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from pipelines.samples.event_reader import DAY_MS, day_start_ms
from pipelines.samples.examples import Clicks, ExamplesConfig, histories, read_clicks, window, with_histories
from pipelines.tables.columns import to_numpy
from pipelines.tables.days import day_name
from pipelines.tables.storage import Storage
from serve.events import EventSink, EventsRequest
from serve.online import Online
from serve.schema import RankRequest
from serve.user_sequence import UserSequence
from tests.models.online.event_streams import Event, views_in
from tests.serve.conftest import AUTHOR_IDS, LENGTH, USER_IDS, Published, watcher_of
from tests.serve.test_user_sequence import offline, probabilities

FIRST_MS = day_start_ms("2025-10-01")
DAYS, PUBLISHED_DAYS = 12, 7
USERS = [*USER_IDS.tolist(), 40_404]
AUTHORS = [*AUTHOR_IDS.tolist(), 999_999]
CONFIG = ExamplesConfig(history_length=LENGTH, history_days=4, delay_s=5.0)
NO_ANCHORS = np.zeros(0, np.int64), np.zeros(0, np.int32)
OPEN_VIEW_S = 3_600.0
INSTANTS, LIVE_INSTANTS = 1_000, 160


def visits(rng: random.Random) -> list[Event]:
    """Exposures, most of them clicked, few without an exit; some clicked twice, some lives shown again."""
    events = []
    for user, count in zip(USERS, itertools.cycle((80, 15, 45)), strict=False):  # so few that some days have none
        for ts_ms in rng.sample(range(FIRST_MS, FIRST_MS + DAYS * DAY_MS), count):
            live = rng.randrange(200)
            place = (user, AUTHORS[live % len(AUTHORS)], live)
            events.append(Event(*place, ts_ms, "exposure"))
            if rng.random() < 0.7:
                events += [Event(*place, ts_ms + rng.randrange(4_999), "click") for _ in range(rng.choice((1, 1, 2)))]
            if rng.random() < 0.8:
                watched_ms = rng.randrange(5_000, 600_000)
                value = rng.choice((watched_ms / 1000, float("nan")))
                events.append(Event(*place, ts_ms + watched_ms, "exit", value))
    return events


@dataclass(frozen=True, eq=False)
class World:
    """One log of events, on both sides."""

    events: Sequence[Event]
    storage: Storage
    published: Published
    folder: Path

    def store(self, name: str) -> EmbeddedStore:
        """An empty store."""
        return EmbeddedStore(
            StoreConfig(
                backend="embedded",
                path=str(self.folder / name),
                map_gib=0.25,
                views_per_user=1_000,
                exposures_per_user=1_000,
                open_view_s=OPEN_VIEW_S,
                ttl_s=40 * 86_400,
            )
        )

    def asked(self, rng: random.Random, ts_ms: int) -> dict[str, Any]:
        """A request for a few authors."""
        return {"user_id": rng.choice(USERS), "candidates": rng.sample(AUTHORS, 3), "context": {"ts_ms": ts_ms}}

    def offline(self, requests: Sequence[dict[str, Any]]) -> npt.NDArray[np.float32]:
        """[n, 3, K]: the examples of those impressions, scored as evaluation scores them."""
        columns = [self._examples(request) for request in requests]
        joined = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
        return offline(watcher_of(self.published.root).current, joined).reshape(len(requests), 3, -1)

    def _examples(self, request: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
        ts_ms = request["context"]["ts_ms"]
        rows = {"impression_id": [0] * 3, "user_id": [request["user_id"]] * 3, "author_id": request["candidates"]}
        rows |= {"live_id": [0] * 3, "ts_ms": [ts_ms] * 3}
        clicks = self._clicks(day_name(ts_ms // DAY_MS))
        return to_numpy(with_histories(pa.table(rows), clicks, NO_ANCHORS, CONFIG).drop(["anchor_day"]))

    @cache  # noqa: B019
    def _clicks(self, day: str) -> Clicks:
        return read_clicks(self.storage, window(day, self.storage.days("impressions"), CONFIG.history_days))


class PublishedFromTables(Published):
    """A bank whose histories are made as the job `publish` makes them."""

    storage: Storage

    def _histories(self, rng: np.random.Generator) -> Histories:
        return histories(self.storage, self.storage.days("impressions")[:PUBLISHED_DAYS], self.rule)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("served")
    events, storage = visits(random.Random(7)), Storage.open(str(folder / "tables"))
    views = [(user, *view) for user in USERS for view in views_in(events, user, OPEN_VIEW_S)]
    names = ("user_id", "author_id", "live_id", "ts_ms", "watch_time_s", "click")
    table = pa.table(dict(zip(names, zip(*views, strict=True), strict=True)))
    table = table.append_column("impression_id", pa.array(range(len(views)), pa.int64()))
    day = table["ts_ms"].to_numpy() // DAY_MS
    for number in range(FIRST_MS // DAY_MS, FIRST_MS // DAY_MS + DAYS):
        storage.write("impressions", day_name(number), [_typed(table.filter(pa.array(day == number)))])
    published = PublishedFromTables(folder / "root")
    published.rule, published.storage = HistoryRule(length=LENGTH, days=CONFIG.history_days, delay_ms=5_000), storage
    published.publish("a")
    yield World(events, storage, published, folder)


def _typed(table: pa.Table) -> pa.Table:
    table = table.set_column(table.column_names.index("click"), "click", table["click"].cast(pa.uint8()))
    at = table.column_names.index("watch_time_s")
    return table.set_column(at, "watch_time_s", table["watch_time_s"].cast(pa.float32()))


def send(sink: EventSink, rng: random.Random, events: Sequence[Event], at_once: int) -> None:
    """In any order, a third of them twice."""
    told = list(events) + rng.sample(list(events), len(events) // 3)
    rng.shuffle(told)
    for start in range(0, len(told), at_once):
        some = [
            {name: value for name, value in event._asdict().items() if name != "value"}
            | {"event_id": repr(event)}
            | ({"watch_time_s": event.value} if event.kind == "exit" and event.value == event.value else {})
            for event in told[start : start + at_once]
        ]
        answer = sink.take(EventsRequest.model_validate({"events": some}))
        assert answer.rejections == [] and answer.accepted + answer.duplicate == len(some)


def assert_same(world: World, sequence: UserSequence, requests: Sequence[dict[str, Any]]) -> list[str]:
    wanted, sources = world.offline(requests), []
    for request, expected in zip(requests, wanted, strict=True):
        answer = sequence.rank(RankRequest.model_validate(request))
        np.testing.assert_allclose(probabilities(answer, request["candidates"]), expected, atol=1e-5)
        sources.append(answer.history_source)
    return sources


def test_at_any_instant_of_the_log_once_all_of_it_is_in_the_store(world: World) -> None:
    rng, store = random.Random(1), world.store("all")
    send(EventSink(store), rng, world.events, 400)
    sequence = UserSequence(watcher_of(world.published.root), online=Online(store))
    end_ms = FIRST_MS + DAYS * DAY_MS
    requests = [world.asked(rng, rng.randrange(FIRST_MS, end_ms)) for _ in range(INSTANTS)]
    sources = assert_same(world, sequence, requests)
    assert sources.count("store") > INSTANTS // 2
    store.close()


def test_at_the_instant_itself_with_no_more_than_happened_by_then(world: World) -> None:
    """The store has events of the last days alone, the published histories those before; offline has what comes later,
    and does not use it."""
    rng, store = random.Random(2), world.store("live")
    sink, sequence = EventSink(store), UserSequence(watcher_of(world.published.root), online=Online(store))
    start_ms = FIRST_MS + (PUBLISHED_DAYS - 1) * DAY_MS
    later = sorted((event for event in world.events if event.ts_ms >= start_ms), key=lambda event: event.ts_ms)
    moments = [
        event.ts_ms + rng.choice((1, 4_999, 5_000, 5_001, 100_000)) for event in rng.sample(later, LIVE_INSTANTS)
    ]
    moments = sorted(ms for ms in moments if FIRST_MS + PUBLISHED_DAYS * DAY_MS <= ms < FIRST_MS + DAYS * DAY_MS)
    requests, taken = [], 0
    for ts_ms in moments:
        until = taken
        while until < len(later) and later[until].ts_ms < ts_ms:
            until += 1
        send(sink, rng, later[taken:until], 50)
        taken = until
        requests.append(world.asked(rng, ts_ms))
        assert_same(world, sequence, requests[-1:])
    assert len(requests) > LIVE_INSTANTS // 2
    store.close()
