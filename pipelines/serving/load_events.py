"""Job `load_events`: fills the online store from tables, so that a new endpoint knows what users did before it.

Reads `events` (or `impressions`, for who has only those) and `segments`, writes the store alone. How far the load has
come is stored with each batch, on Redis right behind it: a job that is killed goes on from there, and a batch that is
loaded again changes nothing. Days that are loaded are passed over until their rows change. Loading is safe while the
endpoint serves and takes events in, also events that are loaded.
Run: python -m pipelines load_events --config my.yaml
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from models.config import DayText
from models.online.config import StoreConfig
from models.online.lives import LiveUpdate
from models.online.opening import open_store
from models.online.store import EventBatch, OnlineStore
from models.visits import EVENT_COLUMNS, EVENT_KINDS, EXIT, EXPOSURE, Columns, joined
from pipelines.runtime.run import Run
from pipelines.samples.event_reader import event_columns
from pipelines.tables.columns import to_numpy
from pipelines.tables.contract import SEGMENT_MS, ContractError
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
TABLES = ("events", "impressions")
_IMPRESSION = ["user_id", "author_id", "live_id", "ts_ms", "click", "watch_time_s"]
_SEGMENT = ["author_id", "live_id", "segment", "start_ts_ms"]
_TOLD_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadEventsConfig:
    """What is loaded, and where to."""

    store: StoreConfig = field(default_factory=StoreConfig)
    """The store to fill: the same as the endpoint's, which is `serve.app.store`."""
    table: str = "events"
    """What views are made of: events, or impressions where those are not recorded."""
    since: DayText | None = None
    """First day to load, YYYY-MM-DD; null = the first there is."""
    until: DayText | None = None
    """Last day to load; null = the last there is."""
    lives: bool = True
    """Also tell the store of lives, their start, end and newest segment, from the table `segments` of those days."""
    on_air_s: float = 600.0
    """A live whose newest segment is younger than this goes on: its end is not told."""
    batch_rows: int = 200_000
    """Rows that are read and stored at a time. Another number begins days anew that are half loaded."""

    def __post_init__(self) -> None:
        if self.table not in TABLES:
            raise ValueError(f"table: wanted one of {', '.join(TABLES)}, got {self.table!r}")
        if self.batch_rows < 1 or self.on_air_s < 0:
            raise ValueError(f"wanted batch_rows >= 1 and on_air_s >= 0, got {self}; correct them")


def run(config: LoadEventsConfig, run: Run) -> dict[str, Any]:
    """Loads the days that are not loaded yet. Returns {days, days_loaded, rows, rows_of_before, lives}."""
    store = open_store(config.store)
    if store is None:
        raise ValueError("load_events.store.backend: wanted embedded or redis, got none; name the endpoint's store")
    try:
        days = _days(config, run.storage, config.table)
        if not days:
            raise ContractError(
                f"table {config.table}: wanted a day from {config.since or 'the first'} to "
                f"{config.until or 'the last'}, got none; run the job that writes it, or see load_events.table"
            )
        counts = {day: _load_day(config, run.storage, store, day) for day in days}
        lives = _load_lives(config, run.storage, store) if config.lives else 0
    finally:
        store.close()
    return {
        "days": days,
        "days_loaded": [day for day, (rows, _) in counts.items() if rows],
        "rows": sum(rows for rows, _ in counts.values()),
        "rows_of_before": sum(before for _, before in counts.values()),
        "lives": lives,
    }


def events_of(impressions: pa.Table) -> Columns:
    """The events behind impressions: exposures, and clicks with the exits that end them."""
    shown = to_numpy(impressions.select(_IMPRESSION))
    clicked = {name: column[shown["click"] > 0] for name, column in shown.items()}
    left_ms = clicked["ts_ms"] + np.round(clicked["watch_time_s"].astype(np.float64) * 1000).astype(np.int64)
    click = EVENT_KINDS.index("click")
    parts = [(shown, shown["ts_ms"], EXPOSURE), (clicked, clicked["ts_ms"], click), (clicked, left_ms, EXIT)]
    return joined(
        [
            {name: rows[name].astype(np.int64) for name in ("user_id", "author_id", "live_id")}
            | {"ts_ms": ts_ms, "kind": np.full(len(ts_ms), kind, np.int8)}
            | {"value": rows["watch_time_s"].astype(np.float32) * (kind == EXIT)}
            for rows, ts_ms, kind in parts
        ]
    )


def _days(config: LoadEventsConfig, storage: Storage, table: str) -> list[str]:
    first, last = config.since or "", config.until or "9999"
    return [day for day in storage.days(table) if first <= day <= last and storage.files(table, day)]


def _load_day(config: LoadEventsConfig, storage: Storage, store: OnlineStore, day: str) -> tuple[int, int]:
    """Rows loaded, and rows that were loaded before."""
    mark = f"{config.table}/{day}/{storage.listing(config.table).stamp(day)}/{config.batch_rows}"
    done, loaded, before = store.marked(mark) or 0, 0, 0
    started = time.perf_counter()
    for number, (rows, events) in enumerate(_batches(config, storage, day)):
        if number < done:
            before += rows
            continue
        store.apply(EventBatch(events=events, mark=(mark, number + 1)), time.time_ns() // 1_000_000)
        loaded += rows
        rate = loaded / (time.perf_counter() - started)
        log.info("load_events of %s | %s | %d rows | %.0f rows/s", day, config.table, before + loaded, rate)
    return loaded, before


def _batches(config: LoadEventsConfig, storage: Storage, day: str) -> Iterator[tuple[int, Columns]]:
    columns = EVENT_COLUMNS if config.table == "events" else _IMPRESSION
    for table in storage.dataset(config.table, day).batches(config.batch_rows, list(columns)):
        yield table.num_rows, event_columns(table) if config.table == "events" else events_of(table)


def _load_lives(config: LoadEventsConfig, storage: Storage, store: OnlineStore) -> int:
    """Tells the store of the lives that segments are of; how many."""
    count = 0
    for day in _days(config, storage, "segments"):
        lives = pa.concat_tables(map(_lives_of, storage.dataset("segments", day).batches(config.batch_rows, _SEGMENT)))
        lives = _lives_of(lives)
        now_ms = time.time_ns() // 1_000_000
        updates = [_update(row, now_ms - round(config.on_air_s * 1000)) for row in lives.to_pylist()]
        for start in range(0, len(updates), _TOLD_AT_ONCE):
            store.tell(updates[start : start + _TOLD_AT_ONCE], now_ms)
        count += len(updates)
        log.info("load_events of %s | %d lives", day, len(updates))
    return count


def _lives_of(segments: pa.Table) -> pa.Table:
    """One row per live: author, live, newest segment, first and last start of a segment."""
    last = segments["newest_ts_ms"] if "newest_ts_ms" in segments.column_names else segments["start_ts_ms"]
    grouped = segments.select(_SEGMENT).append_column("newest_ts_ms", last).group_by(["author_id", "live_id"])
    found = grouped.aggregate([("segment", "max"), ("start_ts_ms", "min"), ("newest_ts_ms", "max")])
    names = ["author_id", "live_id", "segment_max", "start_ts_ms_min", "newest_ts_ms_max"]
    return found.select(names).rename_columns(["author_id", "live_id", "segment", "start_ts_ms", "newest_ts_ms"])


def _update(row: dict[str, int], on_air_ms: int) -> LiveUpdate:
    end_ms = row["newest_ts_ms"] + SEGMENT_MS
    return LiveUpdate(
        live_id=row["live_id"],
        author_id=row["author_id"],
        start_ms=row["start_ts_ms"],
        end_ms=None if end_ms > on_air_ms else end_ms,
        segment=row["segment"],
    )
