"""A day's examples as a stream: bounded stretches of time, of which each worker reads its own share ahead of training.

Stretches are cut by row, so that every worker knows all of them from the number of rows alone, and what is drawn at
random is drawn from the seed of the day and the number of the stretch. So a run may stop between two stretches and go
on there: on as many workers as before to the same bits, or on another number.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import pyarrow as pa

from models.batch import RankingBatch
from models.catalog import Catalog
from pipelines.samples.batches import (
    Batches,
    Ints,
    batch_bounds,
    columns_of,
    example_columns,
    num_batches,
    shuffled_requests,
)
from pipelines.tables.columns import Columns
from pipelines.tables.storage import Storage
from pipelines.tables.time_order import TimeOrder

Part = TypeVar("Part")
_APART = 4096  # by what the seeds of two stretches differ: runs of before had one for each worker between
_OF_PLACES = (0, 1)  # behind the seed of a day: no stretch has two numbers there


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How a day is cut into what is held in memory, and into steps; sizes are those of all workers together."""

    batch_size: int
    """Examples of a step."""
    stretch_rows: int
    """Most examples of a stretch."""
    window: int
    """Steps whose examples are of one block of time, where the order is random."""

    def stretches(self, rows: int) -> list[range]:
        """The rows of each stretch of a day, in the order of time; stretches differ by one row at most."""
        bounds = batch_bounds(rows, max(1, -(-rows // self.stretch_rows))).tolist()
        return [range(start, end) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]

    def share(self, rows: range, rank: int, world: int) -> list[range]:
        """One worker's rows of a stretch: of the rows of each window, which follow in time, a part that follows too.

        So all workers learn from one block of time in a window, and the authors who are on air then are the same ones.
        """
        count = num_batches(len(rows), self.batch_size)
        bounds = batch_bounds(len(rows), count * world) + rows.start
        parts = []
        for window in range(0, count, self.window):
            length = min(self.window, count - window)
            first = window * world + rank * length
            parts.append(range(int(bounds[first]), int(bounds[first + length])))
        return parts

    def num_steps(self, rows: int) -> int:
        """Steps of a day."""
        return sum(num_batches(len(stretch), self.batch_size) for stretch in self.stretches(rows))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stretch:
    """One worker's share of a stretch."""

    number: int
    """Its place in the order of learning, from 0."""
    columns: Columns
    """Of this worker's examples, in the order of time."""
    batches: Batches
    """Of these, as many as every other worker has."""
    sizes: Sequence[int]
    """Examples of each batch over all workers."""
    waited_s: float = 0.0
    """Seconds that whoever learns has waited for it."""

    def windows(self, length: int) -> Iterator[list[tuple[RankingBatch, int]]]:
        """Batches and their sizes, so many at a time; the last window may be shorter."""
        sized = zip(self.batches, self.sizes, strict=True)
        while window := list(islice(sized, length)):
            yield window


class DayStream:
    """One worker's shares of a day's stretches, one of which is read while another is learnt."""

    def __init__(
        self,
        storage: Storage,
        day: str,
        catalog: Catalog,
        cut: Cut,
        *,
        seed: Sequence[int] | None,
        tasks: Sequence[str],
        screens: Sequence[str] = (),
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """`seed` is that of the day's order; None is the order of time. `screens` are the tables of codes that batches
        carry. Raises ContractError for a damaged day."""
        self._catalog, self._cut, self._seed, self._tasks = catalog, cut, seed, tasks
        self._rank, self._world = rank, world
        self._columns = columns_of(storage.labels("examples", day), screens)
        self._rows = TimeOrder(storage.dataset("examples", day), "impression_id")
        self._stretches = cut.stretches(len(self._rows))
        if seed is not None and len(self._stretches) > 1:
            places = np.random.default_rng([*seed, *_OF_PLACES]).permutation(len(self._stretches))
            self._stretches = [self._stretches[place] for place in places]

    def __len__(self) -> int:
        """Stretches of the day."""
        return len(self._stretches)

    def after(self, done: int) -> Iterator[Stretch]:
        """The stretches but for the first ones, which are done. Memory is that of two shares."""
        for stretch, waited_s in read_ahead(self._read, range(done, len(self))):
            yield replace(stretch, waited_s=waited_s)

    def _read(self, number: int) -> Stretch:
        rows, world = self._stretches[number], self._world
        count = num_batches(len(rows), self._cut.batch_size)
        if (len(rows) // world) < count:
            raise ValueError(f"{len(rows)} examples in {count} batches are too few for {world} workers; use fewer")
        shares = [self._cut.share(rows, rank, world) for rank in range(world)]
        columns = example_columns(self._rows.read(shares[self._rank], self._columns))
        bounds = np.sum([batch_bounds(sum(map(len, share)), count) for share in shares], axis=0)
        order = self._order(number, columns, count)
        pa.default_memory_pool().release_unused()  # else Arrow keeps several times what a stretch holds
        return Stretch(
            number=number,
            columns=columns,
            batches=Batches(columns, self._catalog, count, order, self._tasks),
            sizes=np.diff(bounds).tolist(),
        )

    def _order(self, number: int, columns: Columns, count: int) -> Ints | None:
        if self._seed is None:
            return None
        return shuffled_requests(columns, count, self._cut.window, stretch_rng(self._seed, number))


def stretch_rng(seed: Sequence[int], number: int) -> np.random.Generator:
    """What is random about the order of a stretch of a day: the same on every worker, as that of blocks of time."""
    return np.random.default_rng([*seed, number * _APART])


def read_ahead(read: Callable[[int], Part], numbers: range) -> Iterator[tuple[Part, float]]:
    """Parts by their numbers, each read while the one before is in use, and the seconds that were waited for it."""
    with ThreadPoolExecutor(1) as pool:
        ahead: Future[Part] | None = pool.submit(read, numbers[0]) if numbers else None
        for following in [*numbers[1:], None]:
            if ahead is None:
                return
            started = time.perf_counter()
            part = ahead.result()
            waited_s = time.perf_counter() - started
            ahead = None if following is None else pool.submit(read, following)
            yield part, waited_s
