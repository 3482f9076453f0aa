"""A day as a stream of windows of seconds: who was shown something in them, and what was reported with their ends.

Windows are of one length and cover the day. Consecutive ones are taken together until they have enough rows for a step:
a span. Spans are known from the numbers of rows alone, so every worker knows all of them, and a run may stop after any
of them and go on there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models import MASK
from models.catalog import Catalog
from pipelines.samples.batches import (
    Batches,
    batch_bounds,
    columns_of,
    example_columns,
    num_batches,
    shuffled_requests,
    take,
)
from pipelines.samples.event_reader import DAY_MS, day_start_ms
from pipelines.samples.stream import Cut, Stretch, read_ahead, stretch_rng
from pipelines.tables.columns import Columns
from pipelines.tables.storage import Storage
from pipelines.tables.time_order import TimeOrder

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Consecutive windows of a day."""

    until_ms: int
    """Their end."""
    shown: range
    """Rows of `examples`: the impressions before it, in the order of time."""
    told: range
    """Rows of `window_examples`: what was reported up to it, its end included."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpanShare:
    """One worker's share of a span."""

    until_ms: int
    shown: Columns
    """Impressions, to be scored before `told` is learnt."""
    told: Stretch
    """What is learnt."""


def spans_of(storage: Storage, day: str, window_ms: int, cut: Cut) -> list[Span]:
    """The spans of a day: each has a step of rows to learn or more. Reads one column of each of the two tables."""
    start = day_start_ms(day)
    shown = _counts(_examples(storage, day), start, window_ms)
    told = _counts(_told(storage, day), start + 1, window_ms)  # what is told at the end of a window belongs to it
    ends = _ends(told, cut.batch_size)
    of_shown, of_told = (np.append(0, counts.cumsum())[[0, *ends]].tolist() for counts in (shown, told))
    return [
        Span(
            until_ms=start + min(end * window_ms, DAY_MS),
            shown=range(of_shown[place], of_shown[place + 1]),
            told=range(of_told[place], of_told[place + 1]),
        )
        for place, end in enumerate(ends)
    ]


def num_steps(spans: Sequence[Span], cut: Cut) -> int:
    """Steps over spans."""
    return sum(num_batches(len(span.told), cut.batch_size) for span in spans)


class WindowStream:
    """One worker's shares of a day's spans, read ahead of training in blocks of the stretches' size."""

    def __init__(
        self,
        storage: Storage,
        day: str,
        catalog: Catalog,
        cut: Cut,
        *,
        window_ms: int,
        seed: Sequence[int] | None,
        tasks: Sequence[str],
        screens: Sequence[str] = (),
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """`seed` is that of the order within a span, None the order of time. `screens`
        are the tables of codes that batches carry. Raises ContractError for a damaged day."""
        self._catalog, self._cut, self._seed, self._tasks = catalog, cut, seed, tasks
        self._of_told = columns_of([column for task in tasks for column in (task, f"{MASK}{task}")], screens)
        self._rank, self._world = rank, world
        self._shown, self._told = _examples(storage, day), _told(storage, day)
        self._columns = columns_of(storage.labels("examples", day), screens)
        self._spans = spans_of(storage, day, window_ms, cut)
        self._blocks = _blocks(self._spans, cut.stretch_rows)

    def __len__(self) -> int:
        """Spans of the day."""
        return len(self._spans)

    def after(self, done: int) -> Iterator[SpanShare]:
        """The spans but for the first ones, which are done. Memory is that of two blocks, of all workers' rows."""
        first = next((number for number, block in enumerate(self._blocks) if block.stop > done), len(self._blocks))
        for block, waited_s in read_ahead(self._read, range(first, len(self._blocks))):
            left = [share for share in block if share.told.number >= done]
            yield replace(left[0], told=replace(left[0].told, waited_s=waited_s))
            yield from left[1:]

    def _read(self, number: int) -> list[SpanShare]:
        block = self._blocks[number]
        spans = self._spans[block.start : block.stop]
        shown = range(spans[0].shown.start, spans[-1].shown.stop)
        told = range(spans[0].told.start, spans[-1].told.stop)
        scored = example_columns(self._shown.read([shown], self._columns)) if shown else {}
        learnt = example_columns(self._told.read([told], [*self._of_told, "window_end_ms"]))
        pa.default_memory_pool().release_unused()  # else Arrow keeps several times what a block holds
        return [
            SpanShare(
                until_ms=span.until_ms,
                shown=take(scored, self._own(span.shown, shown.start)) if shown else {},
                told=self._stretch(place, span, take(learnt, self._own(span.told, told.start))),
            )
            for place, span in zip(block, spans, strict=True)
        ]

    def _own(self, rows: range, first: int) -> slice:
        """This worker's share of rows, counted from the first of the block."""
        ends = batch_bounds(len(rows), self._world) + rows.start - first
        return slice(int(ends[self._rank]), int(ends[self._rank + 1]))

    def _stretch(self, number: int, span: Span, columns: Columns) -> Stretch:
        rows, world = len(span.told), self._world
        count = num_batches(rows, self._cut.batch_size)
        if rows // world < count:
            raise ValueError(f"{rows} window examples in {count} batches are too few for {world} workers; use fewer")
        order = None
        if self._seed is not None:
            order = shuffled_requests(columns, count, self._cut.window, stretch_rng(self._seed, number))
        bounds = np.sum([batch_bounds(int(n), count) for n in np.diff(batch_bounds(rows, world))], axis=0)
        batches = Batches(columns, self._catalog, count, order, self._tasks)
        return Stretch(number=number, columns=columns, batches=batches, sizes=np.diff(bounds).tolist())


def _examples(storage: Storage, day: str) -> TimeOrder:
    return TimeOrder(storage.dataset("examples", day), "impression_id")


def _told(storage: Storage, day: str) -> TimeOrder:
    return TimeOrder(storage.dataset("window_examples", day), "impression_id", by="window_end_ms")


def _counts(rows: TimeOrder, start_ms: int, window_ms: int) -> Ints:
    """Rows by window; those of a moment outside the day count in its first or last one."""
    counts = np.zeros(-(-DAY_MS // window_ms), np.int64)
    for moments in rows.moments():
        window = np.clip((moments - start_ms) // window_ms, 0, len(counts) - 1)
        counts += np.bincount(window, minlength=len(counts))
    return counts


def _ends(counts: Ints, least: int) -> list[int]:
    """Windows before which spans end: each has `least` rows or more, if the day has."""
    ends, rows = [], 0
    for window in np.flatnonzero(counts):
        rows += int(counts[window])
        if rows >= least:
            ends.append(int(window) + 1)
            rows = 0
    return [*ends[:-1], len(counts)]


def _blocks(spans: Sequence[Span], most: int) -> list[range]:
    """Places of spans that are read together: at most so many rows, but for a span that has more."""
    blocks, first, rows = [], 0, 0
    for place, span in enumerate(spans):
        size = len(span.shown) + len(span.told)
        if rows and rows + size > most:
            blocks.append(range(first, place))
            first, rows = place, 0
        rows += size
    return [*blocks, range(first, len(spans))]
