"""What training, evaluation and publishing read: the catalog, the current anchors, a day's batches.

Every worker makes these from storage by itself; the same tables give the same rows and the same order everywhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models import HISTORY
from models.batch import RankingBatch, collate
from models.catalog import Catalog
from pipelines.tables import newest
from pipelines.tables.columns import Columns, to_numpy
from pipelines.tables.contract import PROFILE, ContractError
from pipelines.tables.days import NO_ANCHOR
from pipelines.tables.storage import Storage

Ints = npt.NDArray[np.int64]

_HISTORY = ("history_author_ids", "history_age_s", "history_watch_s")
EXAMPLE = ("impression_id", "user_id", "author_id", "ts_ms", *_HISTORY, "anchor_day")
"""Columns of examples beside their labels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Still:
    """Which ids of a table of newest rows keep a row in a catalog."""

    seen: Ints
    """Ids that were in an example lately, ascending."""
    since: int
    """Rows that were new or changed on this day, or later, count too; in days since 1970."""

    def of(self, rows: pa.Table, key: str) -> pa.Table:
        """The rows that stay."""
        changed = rows["since"].combine_chunks().cast("int32").to_numpy() >= self.since
        return rows.filter(pa.array(changed | np.isin(rows[key].to_numpy(), self.seen)))


def build_catalog(
    storage: Storage, until: str, named: Sequence[str] = (), still: Mapping[str, Still] | None = None
) -> tuple[Catalog, list[str]]:
    """Everyone known up to and including `until`, and the names of the author categories (value c is names[c - 1]).

    Categories of `named` keep their values. With `still`, by table, only those ids count that it says.
    """
    users = newest.read(storage, "users", until=until, columns=["user_id", "since", *PROFILE])
    authors = newest.read(storage, "authors", until=until, columns=["author_id", "since", "category"])
    if still is not None:
        users, authors = still["users"].of(users, "user_id"), still["authors"].of(authors, "author_id")
    category, names = _codes(authors["category"], named)
    catalog = Catalog.build(
        user_ids=users["user_id"].to_numpy(),
        user_profile=np.stack([users[column].to_numpy() for column in PROFILE], axis=1),
        author_ids=authors["author_id"].to_numpy(),
        author_category=category,
    )
    del users, authors
    pa.default_memory_pool().release_unused()  # else Arrow keeps room for all of them
    return catalog, names


def _codes(shown: pa.ChunkedArray, named: Sequence[str]) -> tuple[Ints, list[str]]:
    """The place of each text among `named` and then, sorted, the others that there are; -1 where it is null."""
    others = {name for name in shown.unique().to_pylist() if name is not None} - set(named)
    names = [*named, *sorted(others)]
    places = pc.index_in(shown, pa.array(names, pa.string()))
    return pc.fill_null(places, -1).to_numpy().astype(np.int64), names


def columns_of(labels: Sequence[str], screens: Sequence[str] = ()) -> list[str]:
    """Columns of examples to read: with these labels, and the codes of these tables."""
    return [*EXAMPLE, *labels, *(column for table in screens for column in (table, f"{HISTORY}{table}"))]


def read_examples(storage: Storage, day: str, screens: Sequence[str] = ()) -> Columns:
    """A day's examples in time order, with all their labels, and the codes of the tables `screens`.

    `anchor_day` is in days since 1970, NO_ANCHOR where null.
    """
    table = storage.read("examples", day, columns_of(storage.labels("examples", day), screens))
    return example_columns(table.sort_by([("ts_ms", "ascending"), ("impression_id", "ascending")]))


def example_columns(table: pa.Table) -> Columns:
    """Rows of examples as arrays, with anchor days as `read_examples` gives them."""
    columns = to_numpy(table.drop_columns(["anchor_day"]))
    columns["anchor_day"] = table["anchor_day"].combine_chunks().cast("int32").fill_null(NO_ANCHOR).to_numpy()
    return columns


def require_labels(storage: Storage, days: Iterable[str], tasks: Sequence[str], table: str = "examples") -> None:
    """Raises ContractError where a day's examples lack the label of a task."""
    for day in days:
        labels = storage.labels(table, day)
        if labels and (missing := [task for task in tasks if task not in labels]):
            if table != "examples":
                raise ContractError(
                    f"table {table}, day {day}: wanted a label of each task, got {', '.join(labels)} and no "
                    f"{', '.join(missing)}; name it in windows.tasks, and run the jobs windows and {table} again"
                )
            raise ContractError(
                f"table examples, day {day}: wanted a label column of each task, got {', '.join(labels)} and no "
                f"{', '.join(missing)}; add it to the table impressions as uint8, 0 or 1, and run the job examples "
                "again, or name the tasks that you have labels of in train.ranker.tasks"
            )


def require_screens(storage: Storage, days: Iterable[str], screens: Sequence[str], table: str = "examples") -> None:
    """Raises ContractError where a day's examples do not carry the codes of a table."""
    for day in days if screens else ():
        there = storage.dataset(table, day).schema.names if storage.holds(table, day) else list(screens)
        if missing := [name for name in screens if name not in there]:
            job = "examples" if table == "examples" else f"examples and {table}"
            raise ContractError(
                f"table {table}, day {day}: wanted the codes of what was on screen, {', '.join(missing)}, as a source "
                f"of the ranker reads them, got columns {', '.join(there)}; name them in examples.codes and run the "
                f"job {job} again, or leave that source out of train.sources, and remove what is published of it"
            )


def take(columns: Columns, rows: Ints | slice) -> Columns:
    """The chosen rows of every column."""
    return {name: values[rows] for name, values in columns.items()}


def shuffled_requests(columns: Columns, batches: int, window: int, rng: np.random.Generator) -> Ints:
    """Rows [n] for `Batches` of this number: blocks in random order, and the requests within each too.

    A block is one stretch of time, the rows of `window` batches: the authors who are on air then recur in it, and are
    encoded once. The last block may be shorter and stays the last. A request is what one user was shown with one
    history in a block: it stays together, for training to read the history once.
    """
    rows = len(columns["user_id"])
    of_time = np.empty(rows, dtype=np.int64)
    of_time[np.argsort(columns["ts_ms"], kind="stable")] = np.arange(rows)
    batch_of = ((of_time + 1) * batches - 1) // rows
    block = batch_of // window
    order = np.lexsort((of_time, columns["user_id"], block))
    user, history = columns["user_id"][order], columns["history_author_ids"][order]
    starts = np.ones(rows, dtype=bool)
    starts[1:] = (user[1:] != user[:-1]) | (history[1:] != history[:-1]).any(axis=1) | (np.diff(block[order]) != 0)
    request = np.cumsum(starts) - 1
    last = int(block.max())
    place = np.append(rng.permutation(last), last)[block[order]]
    shuffled: Ints = order[np.lexsort((rng.permutation(int(request[-1]) + 1)[request], place))]
    return shuffled


class Batches:
    """Consecutive batches of examples, which differ by at most one row in size, so that no small rest remains."""

    def __init__(
        self,
        columns: Columns,
        catalog: Catalog,
        count: int,
        order: Ints | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        """`order` [n] of the rows is that of the columns where it is None; `tasks` are those whose labels the batches
        hold. Raises ValueError where a batch would have no row."""
        rows = len(columns["user_id"])
        if rows < count:
            raise ValueError(f"wanted a row for each of {count} batches, got {rows}; use fewer workers")
        self._catalog, self._tasks = catalog, tasks
        self._columns = columns if order is None else take(columns, order)
        self._bounds = batch_bounds(rows, count)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[RankingBatch]:
        """Batches in order."""
        for start, end in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            yield collate(take(self._columns, slice(start, end)), self._catalog, self._tasks)


def batch_bounds(rows: int, count: int) -> Ints:
    """Where each of so many batches of rows begins, and where the last one ends."""
    bounds: Ints = np.arange(count + 1) * rows // count
    return bounds


def num_batches(examples: int, batch_size: int) -> int:
    """How many batches a day of so many examples has."""
    return max(1, -(-examples // batch_size))
