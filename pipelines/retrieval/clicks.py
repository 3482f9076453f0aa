"""What towers learn from: a day's clicks, each with the viewer as of the click and with what was on screen then.

Clicks come in stretches of time of bounded size, cut into steps; every worker has its own part of each step, so that
the parts of all workers, one after another, are the step of one worker.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch

from models.batch import collate
from models.catalog import Catalog
from models.larm.two_tower import Lives, Viewers
from pipelines.retrieval import on_screen
from pipelines.retrieval.codes_seen import CodesSeen
from pipelines.retrieval.on_screen import OnScreen
from pipelines.samples.batches import batch_bounds, num_batches, take
from pipelines.samples.stream import Cut, read_ahead, stretch_rng
from pipelines.semantics.segment_vectors import TABLE, Space
from pipelines.tables.columns import Columns, to_numpy
from pipelines.tables.storage import Storage
from pipelines.tables.time_order import TimeOrder

COLUMNS = (
    "impression_id", "user_id", "author_id", "live_id", "ts_ms", "click",
    "history_author_ids", "history_age_s", "history_watch_s",
)  # fmt: skip
_READ_AT_ONCE = 131_072


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How examples and embeddings are read."""

    space: Space
    """Of the segment embeddings."""
    mean_days: int
    """See on_screen.py."""
    delay_ms: int = 0
    """From a segment's end until it is known."""
    codes: CodesSeen | None = None
    """The codes in the histories; None = none."""


class Click(NamedTuple):
    """Some clicks."""

    viewers: Viewers
    lives: Lives


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stretch:
    """One worker's part of a stretch."""

    columns: Columns
    """Of this worker's clicks, step after step."""
    seen: OnScreen
    """Of the same."""
    bounds: npt.NDArray[np.int64]
    """Where each step begins among them, and where the last one ends."""
    sizes: Sequence[int]
    """Clicks of each step over all workers."""
    waited_s: float = 0.0

    def steps(self, catalog: Catalog, reading: Reading) -> Iterator[Click]:
        """What is learnt from in each step."""
        for start, end in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            rows = slice(int(start), int(end))
            yield batch_of(take(self.columns, rows), self.seen.at(rows), catalog, reading)


def batch_of(columns: Columns, seen: OnScreen, catalog: Catalog, reading: Reading) -> Click:
    """Rows of examples as tensors."""
    lives = Lives(torch.from_numpy(catalog.author_rows(columns["author_id"])), *map(torch.from_numpy, seen))
    return Click(viewers_of(columns, catalog, reading.codes), lives)


def viewers_of(columns: Columns, catalog: Catalog, codes: CodesSeen | None) -> Viewers:
    """The users of rows of examples, as of each."""
    batch = collate(columns, catalog)
    return Viewers(
        user=batch.user,
        profile=batch.user_profile,
        history=batch.history,
        history_mask=batch.history_mask,
        history_codes=None if codes is None else codes.rows(columns[codes.column], batch.history.shape[1]),
    )


class ClickStream:
    """One worker's clicks of a day, the next stretch of which is read while one is learnt."""

    def __init__(
        self,
        storage: Storage,
        day: str,
        reading: Reading,
        cut: Cut,
        *,
        seed: Sequence[int] | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """`seed` is that of the order within a stretch; None is the order of time. Of `cut` the rows are clicks.

        Memory: 8 bytes a click of the day. Raises ContractError for a damaged day.
        """
        self._storage, self._day, self._reading, self._cut = storage, day, reading, cut
        self._seed, self._rank, self._world = seed, rank, world
        self._rows = TimeOrder(storage.dataset("examples", day), "impression_id")
        self._places = _clicked(self._rows)
        self._stretches = cut.stretches(len(self._places)) if len(self._places) else []

    def __len__(self) -> int:
        """Stretches of the day."""
        return len(self._stretches)

    def after(self, done: int) -> Iterator[Stretch]:
        """The stretches but for the first ones, which are done."""
        for stretch, waited_s in read_ahead(self._read, range(done, len(self))):
            yield replace(stretch, waited_s=waited_s)

    def _read(self, number: int) -> Stretch:
        rows, world = self._stretches[number], self._world
        count = num_batches(len(rows), self._cut.batch_size)
        if len(rows) // world < count:
            raise ValueError(f"{len(rows)} clicks in {count} steps are too few for {world} workers; use fewer")
        order = np.arange(len(rows))
        if self._seed is not None:
            order = stretch_rng(self._seed, number).permutation(len(rows))
        pieces = batch_bounds(len(rows), count * world)
        own = [slice(pieces[at], pieces[at + 1]) for at in range(self._rank, count * world, world)]
        columns = take(self._columns(rows), np.concatenate([order[piece] for piece in own]))
        seen = on_screen.at_moments(
            self._storage, self._reading.space, self._day, columns["live_id"], columns["ts_ms"],
            mean_days=self._reading.mean_days, delay_ms=self._reading.delay_ms,
        )  # fmt: skip
        return Stretch(
            columns=columns,
            seen=seen,
            bounds=np.cumsum([0, *(piece.stop - piece.start for piece in own)]),
            sizes=np.diff(pieces[::world]).tolist(),
        )

    def _columns(self, clicks: range) -> Columns:
        """Those of clicks by their number in the order of time; rows in between are read, too, and left out."""
        first, last = int(self._places[clicks[0]]), int(self._places[clicks[-1]])
        names = [*COLUMNS, *([] if self._reading.codes is None else [self._reading.codes.column])]
        table = self._rows.read([range(first, last + 1)], names)
        return to_numpy(table.filter(pc.equal(table["click"], 1)))


def _clicked(rows: TimeOrder) -> npt.NDArray[np.int64]:
    """Places of the clicks in the order of time."""
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(rows), _READ_AT_ONCE):
        piece = rows.read([range(start, min(start + _READ_AT_ONCE, len(rows)))], ["ts_ms", "click"])
        found.append(start + np.flatnonzero(piece["click"].to_numpy() == 1))
    return np.concatenate(found)


def count_clicks(storage: Storage, day: str) -> int:
    """Of a day of examples."""
    batches = storage.dataset("examples", day).batches(_READ_AT_ONCE, ["click"])
    return sum(int((batch["click"].to_numpy() == 1).sum()) for batch in batches)


def counts_by_author(storage: Storage, days: Sequence[str], catalog: Catalog, *, clicked: bool) -> torch.Tensor:
    """Examples of each author over days, or clicks alone: [N+1] int64, of rows of the catalog."""
    counts = np.zeros(catalog.num_authors + 1, np.int64)
    for day in days:
        for batch in storage.dataset("examples", day).batches(_READ_AT_ONCE, ["author_id", "click"]):
            is_counted = batch["click"].to_numpy() == 1 if clicked else slice(None)
            rows = catalog.author_rows(batch["author_id"].to_numpy()[is_counted])
            counts += np.bincount(rows, minlength=len(counts))
    return torch.from_numpy(counts)


def segments_by_author(storage: Storage, days: Sequence[str], catalog: Catalog) -> torch.Tensor:
    """Segments of each author over days, and so how long it was on air: [N+1] int64, of rows of the catalog."""
    counts = np.zeros(catalog.num_authors + 1, np.int64)
    for day in days:
        if storage.holds(TABLE, day):
            for batch in storage.dataset(TABLE, day).batches(_READ_AT_ONCE, ["author_id"]):
                counts += np.bincount(catalog.author_rows(batch["author_id"].to_numpy()), minlength=len(counts))
    return torch.from_numpy(counts)
