"""The job load_events: the store knows what the tables say, once, whatever is killed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from models.online.store import EventBatch
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.run import Run
from pipelines.serving import load_events
from pipelines.serving.load_events import LoadEventsConfig
from pipelines.tables.contract import ContractError, spec
from pipelines.tables.days import day_name
from pipelines.tables.storage import Storage
from tests.models.online.event_streams import START_MS, Event, views_in
from tests.models.online.test_store import read

DAY_MS = 86_400_000
USERS = range(5)
OPEN_S = 600.0


@pytest.fixture
def a_run(tmp_path: Path) -> Run:
    storage = Storage.open(str(tmp_path / "tables"))
    return Run(seed=0, folder=tmp_path, storage=storage, cluster=ClusterConfig())


def config_of(tmp_path: Path, **fields: Any) -> LoadEventsConfig:
    store = StoreConfig(
        backend="embedded", path=str(tmp_path / "store"), map_gib=0.25, views_per_user=500, exposures_per_user=500,
        open_view_s=OPEN_S,
    )  # fmt: skip
    return LoadEventsConfig(**{"store": store, "batch_rows": 40, **fields})


def stream(days: int) -> list[Event]:
    rng, events = random.Random(5), []
    for _ in range(60 * days):
        user, live, ts_ms = rng.choice(USERS), rng.randrange(9), START_MS + rng.randrange(days * DAY_MS)
        events.append(Event(user, live + 50, live, ts_ms, "exposure"))
        if rng.random() < 0.6:
            watched = rng.randrange(1, 300)
            events.append(Event(user, live + 50, live, ts_ms + 400, "click"))
            events.append(Event(user, live + 50, live, ts_ms + 400 + watched * 1000, "exit", float(watched)))
    return events


def write_events(storage: Storage, events: Sequence[Event]) -> None:
    by_day: dict[str, list[Event]] = {}
    for event in events:
        by_day.setdefault(day_name(event.ts_ms // DAY_MS), []).append(event)
    for day, own in by_day.items():
        columns = dict(zip(Event._fields, map(list, zip(*own, strict=True)), strict=True))
        columns["value"] = pa.array(columns["value"], pa.float32())
        storage.write("events", day, [pa.table(columns)])


def loaded(config: LoadEventsConfig) -> list[Any]:
    store = EmbeddedStore(config.store)
    views = read(store, list(USERS))
    store.close()
    return views


def test_views_are_those_of_the_events_and_a_second_run_has_nothing_to_do(a_run: Run, tmp_path: Path) -> None:
    events, config = stream(3), config_of(tmp_path)
    write_events(a_run.storage, events)
    figures = load_events.run(config, a_run)
    assert figures["rows"] == len(events) and figures["days_loaded"] == figures["days"]
    assert loaded(config) == [views_in(events, user, OPEN_S) for user in USERS]
    again = load_events.run(config, a_run)
    assert (again["rows"], again["rows_of_before"], again["days_loaded"]) == (0, len(events), [])


def test_a_load_that_dies_goes_on_from_where_it_was(
    a_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, config = stream(2), config_of(tmp_path)
    write_events(a_run.storage, events)
    taken: list[int] = []
    apply = EmbeddedStore.apply

    def dies(self: EmbeddedStore, batch: EventBatch, now_ms: int) -> Any:
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(len(batch))
        return apply(self, batch, now_ms)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedStore, "apply", dies)
        with pytest.raises(KeyboardInterrupt):
            load_events.run(config, a_run)
    figures = load_events.run(config, a_run)
    assert figures["rows_of_before"] == sum(taken) and figures["rows"] == len(events) - sum(taken)
    assert loaded(config) == [views_in(events, user, OPEN_S) for user in USERS]


def test_a_day_whose_rows_changed_is_loaded_again(a_run: Run, tmp_path: Path) -> None:
    events, config = stream(1), config_of(tmp_path)
    write_events(a_run.storage, events[:-30])
    load_events.run(config, a_run)
    write_events(a_run.storage, events)
    assert load_events.run(config, a_run)["rows"] > 0
    assert loaded(config) == [views_in(events, user, OPEN_S) for user in USERS]


def test_impressions_do_where_there_are_no_events(a_run: Run, tmp_path: Path) -> None:
    rows = [
        (n, n % 5, n % 7 + 50, n % 7, START_MS + n * 1_000_000, n % 3 == 0, float(n % 3 == 0) * n) for n in range(80)
    ]
    names = ("impression_id", "user_id", "author_id", "live_id", "ts_ms", "click", "watch_time_s")
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    for name, kind in (("click", pa.uint8()), ("watch_time_s", pa.float32())):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    a_run.storage.write("impressions", day_name(START_MS // DAY_MS), [table])
    config = config_of(tmp_path, table="impressions")
    assert load_events.run(config, a_run)["rows"] == 80
    for user, views in zip(USERS, loaded(config), strict=True):
        own = [row for row in rows if row[1] == user]
        assert [(view.author_id, view.ts_ms, view.is_clicked) for view in views] == [(r[2], r[4], r[5]) for r in own]
        assert [view.watch_s for view in views if view.is_clicked] == [r[6] for r in own if r[5]]


def test_lives_are_told_from_their_segments(a_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day, rows = day_name(START_MS // DAY_MS), []
    for live, first in ((1, START_MS), (2, START_MS + 50_000)):
        for segment in range(4):
            rows.append(
                {"author_id": live * 10, "live_id": live, "segment": segment, "start_ts_ms": first + segment * 30_000}
                | {"frames": [], "speech": None, "comments": [], "viewers": 0, "likes": 0, "gifts": 0}
            )
    write_events(a_run.storage, stream(1))
    a_run.storage.write("segments", day, [pa.Table.from_pylist(rows, schema=spec("segments").schema)])
    # The first live ended 630 s ago, the second one 580 s.
    monkeypatch.setattr(load_events.time, "time_ns", lambda: (START_MS + 750_000) * 1_000_000)
    config = config_of(tmp_path, batch_rows=3)
    assert load_events.run(config, a_run)["lives"] == 2
    store = EmbeddedStore(config.store)
    first, second = store.lives([1, 2])
    store.close()
    assert first is not None and second is not None
    assert (first.author_id, first.start_ms, first.end_ms, first.newest_segment) == (
        10,
        START_MS,
        START_MS + 120_000,
        3,
    )
    assert (second.author_id, second.start_ms, second.end_ms) == (20, START_MS + 50_000, None)


def test_what_is_missing_is_told(a_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="table events: wanted a day from the first to the last, got none"):
        load_events.run(config_of(tmp_path), a_run)
    write_events(a_run.storage, stream(1))
    with pytest.raises(ContractError, match="wanted a day from 2030-01-01 to the last"):
        load_events.run(config_of(tmp_path, since="2030-01-01"), a_run)
    with pytest.raises(ValueError, match="wanted embedded or redis, got none"):
        load_events.run(replace(config_of(tmp_path), store=StoreConfig()), a_run)
    with pytest.raises(ValueError, match="table: wanted one of events, impressions, got 'clicks'"):
        config_of(tmp_path, table="clicks")
