"""Lives on air as vectors that are searched: each by what its newest segment shows, as the published towers see it.

Reads the artifact "towers" (its version alone) and the table `item_vectors`, publishes the artifact "live_index". Run
it again as segments arrive: it makes the next version, which the endpoint picks up, and does nothing where nothing is
new. A search compares all lives on air, exactly: 5 ms are enough for 350,000 of width 64. Of more, cells are made, and
a search looks into some. Memory: a live's vector as float32 and 50 bytes, twice, and one batch of rows, 65,536 of them.
Run: python -m pipelines index --config my.yaml
"""

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.artifacts import live_index
from models.artifacts.live_index import NO_END, LiveIndex
from models.artifacts.manifest import ArtifactError
from models.as_of import Ints, newest_segments
from pipelines.retrieval.cells import fit
from pipelines.runtime.run import Run
from pipelines.tables import rejections
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import SEGMENT_MS, ContractError
from pipelines.tables.days import day_name
from pipelines.tables.fingerprint import digest
from pipelines.tables.listing import Listing

log = logging.getLogger(__name__)
KIND, TABLE, TOWERS = "live_index", "item_vectors", "towers"
_BATCH_ROWS = 65_536
_FOUND = 1000
"""Lives that a user asks for, where recall is measured."""
_DAY_MS = 86_400_000

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """Which lives are searched."""

    days: int = 2
    """Newest days of item_vectors that are read, so that a live that began yesterday is found."""
    until_ts_ms: int | None = None
    """The moment whose screens are searched, ms since 1970: segments that end later are not known. null = the end of
    the newest segment."""
    silent_s: float = 120.0
    """A live is over where its newest segment ended longer ago. A live that goes on has one every 30 s: so three of
    them may be late, or rejected, before it is taken for over."""
    keep: int = 20
    """Versions that stay: there may be one every 30 s, and who serves one has all of it in memory."""
    exact_up_to: int = 350_000
    """Lives that are all compared for a user; where there are more, cells are made and the nearest cells searched."""
    recall: float = 0.99
    """How many of the 1,000 nearest lives on air the cells that are searched must hold, where not all are compared."""

    def __post_init__(self) -> None:
        if min(self.days, self.keep) < 1 or min(self.silent_s, self.exact_up_to) < 0:
            raise ValueError(f"wanted days and keep >= 1, silent_s and exact_up_to >= 0, got {self}; correct them")
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall: wanted above 0 and up to 1, got {self.recall}")
        if self.until_ts_ms is not None and self.until_ts_ms < 0:
            raise ValueError(f"until_ts_ms: wanted ms since 1970, or null, got {self.until_ts_ms}")


def run(config: IndexConfig, run: Run) -> dict[str, Any]:
    """Publishes the index of the newest days; nothing where it is published already."""
    artifacts = Artifacts(run.storage)
    towers = artifacts.current(TOWERS)
    if towers is None:
        raise ArtifactError(f"artifact {TOWERS}: nothing is published below {artifacts.root}; run the job towers first")
    listing = run.storage.listing(TABLE)
    days = _days(config, listing)
    rules = [config.until_ts_ms, config.silent_s, config.exact_up_to, config.recall, run.seed, live_index.FORMAT]
    made_from = {"config": digest(rules), TOWERS: towers}
    made_from |= {f"{TABLE}/{day}": listing.stamp(day) for day in days}
    run_id = f"{days[-1]}-{digest(made_from)}"
    if artifacts.current(KIND) == run_id:
        return {"run_id": run_id, "how": "current"}
    started = time.perf_counter()
    found = _Read(towers, config.until_ts_ms)
    for day in days:
        _read_day(run, day, found)
    index, cells = _with_cells(_index(found, days, config), config, run.seed)
    with tempfile.TemporaryDirectory() as scratch:
        index.save(Path(scratch))
        artifacts.publish(KIND, Path(scratch), run_id, made_from)
    artifacts.keep_newest(KIND, config.keep)
    figures = {
        "towers": towers,
        "days": days,
        "until_ts_ms": index.until_ts_ms,
        "lives": len(index.live_ids),
        "on_air": int(index.on_air(index.until_ts_ms).sum()),
        "segments": found.segments,
        "of_other_towers": sum(found.others.values()),
        "refused": found.refused,
        **cells,
    }
    log.info("index %s | %s | %.1f s", run_id, figures, time.perf_counter() - started)
    return {"run_id": run_id, "how": "published", **figures}


def _days(config: IndexConfig, listing: Listing) -> list[str]:
    """The newest days, up to that of `until_ts_ms`."""
    until = None if config.until_ts_ms is None else day_name(config.until_ts_ms // _DAY_MS)
    days = listing.up_to(until=until)[-config.days :]
    if not days:
        raise ContractError(
            f"table {TABLE}: wanted at least one day up to {until or 'today'}, got "
            f"{', '.join(listing.days) or 'none'}; run the job item_vectors first"
        )
    return days


@dataclass(kw_only=True, slots=True, eq=False)
class _Lives:
    """The newest segment of each live among those read so far; arrays are [n], ascending by live."""

    live_id: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    author_id: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    first_ms: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """End of its first segment."""
    end_ts_ms: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """End of its newest one."""
    vectors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """[n, D], of its newest one."""

    def joined(self, more: "_Lives") -> "_Lives":
        """With the segments of `more`, each a live of its own, in any order."""
        both = [np.concatenate(pair) for pair in zip(self._columns, more._columns, strict=True)]
        live, author, first, end = both
        lives, where = np.unique(live, return_inverse=True)
        firsts = np.full(len(lives), NO_END)
        np.minimum.at(firsts, where, first)
        rows = newest_segments(live, end, lives, np.full(len(lives), NO_END))[:, 0]
        vectors = np.concatenate([self.vectors, more.vectors]) if len(self.live_id) else more.vectors
        return _Lives(
            live_id=lives, author_id=author[rows], first_ms=firsts, end_ts_ms=end[rows], vectors=vectors[rows]
        )

    @property
    def _columns(self) -> tuple[Ints, ...]:
        return self.live_id, self.author_id, self.first_ms, self.end_ts_ms


class _Read:
    """What was read: lives as of `until_ts_ms`, and what was left out."""

    def __init__(self, towers: str, until_ts_ms: int | None) -> None:
        self.towers, self.until_ts_ms = towers, until_ts_ms
        self.lives = _Lives()
        self.segments = self.refused = 0
        self.others: Counter[str] = Counter()
        """Rows by the version of the towers that made them, where that is another one."""
        self.later = 0
        """Rows that were not known yet."""

    @property
    def width(self) -> int | None:
        """D; None before the first segment."""
        return self.lives.vectors.shape[1] or None

    def add(self, rows: pa.Table) -> pa.Table:
        """Takes rows of item_vectors; returns those that cannot be used."""
        is_own = pc.fill_null(pc.equal(rows["model"], self.towers), False)
        self.others.update(rows["model"].filter(pc.invert(is_own)).to_pylist())
        rows = rows.filter(is_own).combine_chunks()
        if self.until_ts_ms is not None:
            is_known = pc.less_equal(rows["end_ts_ms"], self.until_ts_ms)
            self.later += rows.num_rows - int(pc.sum(is_known).as_py() or 0)
            rows = rows.filter(is_known).combine_chunks()
        vectors, fits = _vectors(rows["embedding"], self.width)
        good = rows.filter(pa.array(fits))
        if good.num_rows:
            self.segments += good.num_rows
            columns = {name: good[name].to_numpy() for name in ("live_id", "author_id", "end_ts_ms")}
            self.lives = self.lives.joined(_Lives(**columns, first_ms=columns["end_ts_ms"], vectors=vectors))
        self.refused += len(fits) - good.num_rows
        return rows.filter(pa.array(~fits))


def _read_day(run: Run, day: str, found: _Read) -> None:
    """A day's rows, batch by batch; what cannot be used lands in `rejections`."""
    bad: list[dict[str, Any]] = []
    for rows in _batches(run, day):
        bad += [_refused(row, day, found.width) for row in found.add(rows).to_pylist()]
    if bad or rejections.of_stage(run.storage, day, KIND).num_rows:
        rejections.replace(run.storage, day, KIND, bad)
    if bad:
        log.warning("index | %s | %d row(s) cannot be used, first: %s", day, len(bad), bad[0]["detail"])


def _batches(run: Run, day: str) -> Iterator[pa.Table]:
    if run.storage.files(TABLE, day):
        yield from run.storage.dataset(TABLE, day).batches(_BATCH_ROWS)


def _vectors(column: pa.ChunkedArray, width: int | None) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Vectors of the rows that can be used [m, D], and which rows those are [n].

    They are as wide as `width`, and where that is not known yet, as most are.
    """
    lengths = pc.list_value_length(column).to_numpy()
    wanted = width or int(np.bincount(lengths, minlength=1).argmax())
    fits = lengths == wanted if wanted else np.zeros(len(lengths), bool)
    flat = column.filter(pa.array(fits)).combine_chunks().flatten()
    # A null among the numbers is none.
    numbers = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, wanted or 1)
    finite = np.isfinite(numbers).all(axis=1)
    fits[fits] = finite
    return numbers[finite], fits


def _refused(row: dict[str, Any], day: str, width: int | None) -> dict[str, Any]:
    key = f"{row['author_id']} {row['live_id']} {row['segment']}"
    values = row["embedding"]
    if len(values) != width:
        got, wanted = f"{len(values)} numbers", f"{width or 'some'} numbers, as of others"
    else:
        at = next(at for at, value in enumerate(values) if value is None or not np.isfinite(value))
        got, wanted = f"{'null' if values[at] is None else values[at]} at place {at}", "finite numbers"
    detail = (
        f"table {TABLE}, day {day}, (author_id, live_id, segment) {key}, column embedding: wanted {wanted}, got {got}; "
        "run the job item_vectors again for that day, or leave the row out"
    )
    return {"key": key, "reason": "bad_row", "detail": detail}


def _index(found: _Read, days: list[str], config: IndexConfig) -> LiveIndex:
    """The index of what was read. Raises ContractError where that is nothing."""
    lives = found.lives
    if not len(lives.live_id):
        others = ", ".join(f"{count} of {model}" for model, count in sorted(found.others.items()))
        raise ContractError(
            f"table {TABLE}, day(s) {', '.join(days)}: wanted rows of the published towers {found.towers}, got none: "
            f"{others or 'no row'} of other towers, {found.refused} refused, {found.later} that end after "
            f"{config.until_ts_ms}; run the job item_vectors"
        )
    until_ms = int(lives.end_ts_ms.max()) if config.until_ts_ms is None else config.until_ts_ms
    is_over = lives.end_ts_ms < until_ms - round(config.silent_s * 1000)
    return LiveIndex(
        live_ids=lives.live_id,
        author_ids=lives.author_id,
        start_ts_ms=lives.first_ms - SEGMENT_MS,
        end_ts_ms=np.where(is_over, lives.end_ts_ms, NO_END),
        vectors=lives.vectors,
        until_ts_ms=until_ms,
    )


def _with_cells(index: LiveIndex, config: IndexConfig, seed: int) -> tuple[LiveIndex, dict[str, Any]]:
    """The index with cells where it holds more lives than are all compared, and their figures."""
    if len(index.live_ids) <= config.exact_up_to:
        return index, {}
    cells, recall = fit(index.vectors, index.on_air(index.until_ts_ms), k=_FOUND, recall=config.recall, seed=seed)
    figures = {"cells": len(cells.centroids), "probes": cells.probes, "recall": round(recall, 4)}
    return replace(index, cells=cells), figures
