"""What training, evaluation and publishing read: the catalog, the current anchors, a day's batches.

Every worker makes these from storage by itself; the same tables give the same rows and the same order everywhere.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from models.batch import RankingBatch, collate
from models.catalog import Catalog
from pipelines.tables import newest
from pipelines.tables.columns import Columns, to_numpy
from pipelines.tables.contract import PROFILE, ContractError
from pipelines.tables.days import NO_ANCHOR
from pipelines.tables.storage import Storage

Ints = npt.NDArray[np.int64]

_HISTORY = ("history_author_ids", "history_age_s", "history_watch_s")
_EXAMPLE = ("impression_id", "user_id", "author_id", "ts_ms", *_HISTORY, "anchor_day")


def build_catalog(storage: Storage, until: str) -> tuple[Catalog, list[str]]:
    """Everyone known up to and including `until`, and the names of the author categories (value c is names[c - 1])."""
    users, authors = newest.read(storage, "users", until=until), newest.read(storage, "authors", until=until)
    shown = authors["category"].to_pylist()
    names = sorted({name for name in shown if name is not None})
    code = {name: index for index, name in enumerate(names)}
    catalog = Catalog.build(
        user_ids=users["user_id"].to_numpy(),
        user_profile=np.stack([users[column].to_numpy() for column in PROFILE], axis=1),
        author_ids=authors["author_id"].to_numpy(),
        author_category=np.array([-1 if name is None else code[name] for name in shown], dtype=np.int64),
    )
    return catalog, names


def read_examples(storage: Storage, day: str) -> Columns:
    """A day's examples in time order, with all their labels; `anchor_day` in days since 1970, NO_ANCHOR where null."""
    table = storage.read("examples", day, [*_EXAMPLE, *storage.labels("examples", day)])
    table = table.sort_by([("ts_ms", "ascending"), ("impression_id", "ascending")])
    columns = to_numpy(table.drop_columns(["anchor_day"]))
    columns["anchor_day"] = table["anchor_day"].combine_chunks().cast("int32").fill_null(NO_ANCHOR).to_numpy()
    return columns


def require_labels(storage: Storage, days: Iterable[str], tasks: Sequence[str]) -> None:
    """Raises ContractError where a day's examples lack the label of a task."""
    for day in days:
        labels = storage.labels("examples", day)
        if labels and (missing := [task for task in tasks if task not in labels]):
            raise ContractError(
                f"table examples, day {day}: wanted a label column of each task, got {', '.join(labels)} and no "
                f"{', '.join(missing)}; add it to the table impressions as uint8, 0 or 1, and run the job examples "
                "again, or name the tasks that you have labels of in train.ranker.tasks"
            )


def take(columns: Columns, rows: Ints | slice) -> Columns:
    """The chosen rows of every column."""
    return {name: values[rows] for name, values in columns.items()}


def shuffled_requests(columns: Columns, batch_size: int, window: int, rng: np.random.Generator) -> Ints:
    """Rows [n] of a day for `DayBatches` of `batch_size`: blocks in random order, and the requests within each too.

    A block is one stretch of the day, the rows of `window` batches: the authors who are on air then recur in it, and
    are encoded once. The day's last block may be shorter and stays the last. A request is what one user was shown with
    one history in a block: it stays together, for training to read the history once.
    """
    rows = len(columns["user_id"])
    of_time = np.empty(rows, dtype=np.int64)
    of_time[np.argsort(columns["ts_ms"], kind="stable")] = np.arange(rows)
    batch_of = ((of_time + 1) * num_batches(rows, batch_size) - 1) // rows
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


class DayBatches:
    """One worker's share of a day: global batches of consecutive rows, each worker every `world`-th of a batch."""

    def __init__(
        self,
        columns: Columns,
        catalog: Catalog,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        order: Ints | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        """`batch_size` is that of all workers together. A day's batches differ by at most one row in size, so that no
        small rest remains. `order` [n] of the rows is that of the columns where it is None; `tasks` are those whose
        labels the batches hold. Raises ValueError where a worker would get no row."""
        size = len(columns["user_id"])
        self._catalog, self._tasks = catalog, tasks
        count = max(1, -(-size // batch_size))
        bounds = np.arange(count + 1) * size // count
        if size // count < world:
            raise ValueError(f"{size} examples in {count} batches are too few for {world} workers; use fewer workers")
        own_rows = [np.arange(start + rank, end, world) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
        own = np.concatenate(own_rows)
        self._columns = take(columns, own if order is None else order[own])
        self._bounds = np.cumsum([0, *map(len, own_rows)])
        self.global_sizes: list[int] = np.diff(bounds).tolist()
        """Rows of each batch over all workers."""

    def __len__(self) -> int:
        """Batches of the day."""
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[RankingBatch]:
        """Batches in order."""
        for start, end in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            yield collate(take(self._columns, slice(start, end)), self._catalog, self._tasks)


def num_batches(examples: int, batch_size: int) -> int:
    """How many batches a day of so many examples has."""
    return max(1, -(-examples // batch_size))
