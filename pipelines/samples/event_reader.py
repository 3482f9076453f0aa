"""The events that the windows of a day need, in bounded batches, from the table `events`.

Beside those of the day itself these are the last of the days before, which opened visits that may still be open: so
every day can be made from tables alone, and no state has to be kept between runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.visits import EVENT_COLUMNS, EVENT_KINDS, Ints, chosen
from pipelines.tables.columns import Columns
from pipelines.tables.days import day_number
from pipelines.tables.storage import Storage

DAY_MS = 86_400_000
ORDERS = ("time", "arrival")
_MINUTE_MS = 60_000
_ROWS_AT_ONCE = 131_072


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Events in the order in which they arrived."""

    events: Columns
    """Columns of numbers, [E]: see models/visits.py."""
    day: str
    """The day of the table that they stand in; "" where they are of several."""
    floor_ms: int
    """Events before this moment are late, however early they arrived."""
    ceiling_ms: int
    """Events from this moment on do not move the watermark: they stand with their exposure, before their time."""


def event_columns(table: pa.Table) -> Columns:
    """A table of events as columns of numbers."""
    columns: Columns = {name: table[name].to_numpy() for name in EVENT_COLUMNS if name != "kind"}
    kind = pc.index_in(table["kind"], value_set=pa.array(EVENT_KINDS))
    return columns | {"kind": kind.to_numpy().astype(np.int8)}


def day_start_ms(day: str) -> int:
    """The first moment of a day, in UTC."""
    return day_number(day) * DAY_MS


@dataclass(frozen=True, kw_only=True, slots=True)
class TableEvents:
    """The events that the windows of a day are made of: moments in [`since_ms`, `until_ms`).

    An event that stands in a day which begins after it is late.
    """

    storage: Storage
    day: str
    days: Sequence[str]
    """Days of the table to read: `day`, if it holds events, and those before it."""
    since_ms: int
    until_ms: int
    batch_rows: int
    order: str
    """One of ORDERS: by their moments, or as they stand in the files, which is the order of arrival."""

    def batches(self) -> Iterator[Batch]:
        """Batches of about `batch_rows` events. Raises ContractError for values that no event has."""
        return self._in_time() if self.order == "time" else self._as_they_arrived()

    def _in_time(self) -> Iterator[Batch]:
        """Slices of time: the days are looked through once for how many events a minute has, and again slice by slice.

        A slice is at least a minute. A file that is sorted by time is not read as a whole for each.
        """
        if self.day in self.days:
            start = day_start_ms(self.day)
            late = event_columns(self._read(self.day, pc.field("ts_ms") < start))
            yield Batch(events=late, day=self.day, floor_ms=start, ceiling_ms=self.since_ms)
        for start, end in self._slices():
            rows = pa.concat_tables(self._read(day, _within(max(start, day_start_ms(day)), end)) for day in self.days)
            events = event_columns(rows)
            events = chosen(events, np.argsort(events["ts_ms"], kind="stable"))
            yield Batch(events=events, day="", floor_ms=self.since_ms, ceiling_ms=self.until_ms)

    def _read(self, day: str, where: pc.Expression) -> pa.Table:
        return self.storage.dataset("events", day).table(EVENT_COLUMNS, where)

    def _slices(self) -> Iterator[tuple[int, int]]:
        first, held = self.since_ms, 0
        for minute, rows in enumerate(self._rows_by_minute().tolist()):
            start = self.since_ms + minute * _MINUTE_MS
            if held and held + rows > self.batch_rows:
                yield first, start
                first, held = start, 0
            held += rows
        if held:
            yield first, self.until_ms

    def _rows_by_minute(self) -> Ints:
        count = np.zeros(-(-(self.until_ms - self.since_ms) // _MINUTE_MS), np.int64)
        for day in self.days:
            for rows in self.storage.dataset("events", day).batches(_ROWS_AT_ONCE, ["ts_ms"]):
                ts_ms = rows["ts_ms"].to_numpy()
                ts_ms = ts_ms[(ts_ms >= self.since_ms) & (ts_ms < self.until_ms)]
                found = np.bincount((ts_ms - self.since_ms) // _MINUTE_MS)
                count[: len(found)] += found
        return count

    def _as_they_arrived(self) -> Iterator[Batch]:
        for day in self.days:
            start = day_start_ms(day)
            where = _within(self.since_ms if day != self.day else None, self.until_ms)
            for rows in self._gathered(day):
                events = event_columns(rows.filter(where))
                yield Batch(events=events, day=day, floor_ms=start, ceiling_ms=start + DAY_MS)

    def _gathered(self, day: str) -> Iterator[pa.Table]:
        """A day as its files hold it, at least `batch_rows` at a time: the batches of a file may be far smaller."""
        held: list[pa.Table] = []
        count = 0
        for table in self.storage.dataset("events", day).batches(self.batch_rows, EVENT_COLUMNS):
            held.append(table)
            count += table.num_rows
            if count >= self.batch_rows:
                yield pa.concat_tables(held)
                held, count = [], 0
        if held:
            yield pa.concat_tables(held)


def _within(since_ms: int | None, until_ms: int) -> pc.Expression:
    before = pc.field("ts_ms") < until_ms
    return before if since_ms is None else (pc.field("ts_ms") >= since_ms) & before
