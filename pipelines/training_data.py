"""What training, evaluation and publishing read: the catalog, the anchors in force, a day's batches.

Every worker makes these from storage by itself; the same tables give the same rows and the same order everywhere.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from models.batch import RankingBatch, collate
from models.catalog import Catalog
from models.sarm.anchor_tokens import AnchorTokens, TokenRows
from models.sarm.tokenizer import LiveStreamingTokenizer
from pipelines.contract import FIELDS, TASKS_COLUMNS, ContractError
from pipelines.examples import to_numpy
from pipelines.prompt import field_texts
from pipelines.storage import Storage, batches

Ints = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]

NO_ANCHOR = -1
"""Anchor day of an author without one."""
PROFILE = ("age_band", "gender", "region", "device")
"""Columns of `users` that become P columns of the catalog, in this order."""
_HISTORY = ("history_author_ids", "history_age_s", "history_watch_s")
_EXAMPLE = ("impression_id", "user_id", "author_id", "ts_ms", *TASKS_COLUMNS, *_HISTORY, "anchor_day")


def build_catalog(storage: Storage, until: str) -> tuple[Catalog, list[str]]:
    """Everyone known up to and including `until`, and the names of the author categories (value c is names[c - 1])."""
    users, authors = storage.latest("users", until), storage.latest("authors", until)
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


def day_number(day: str) -> int:
    """Days since 1970-01-01."""
    return date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()


class AnchorTable:
    """The newest anchor of every author row as tokens, moved forward day by day."""

    def __init__(
        self, storage: Storage, catalog: Catalog, tokenizer: LiveStreamingTokenizer, *, tokens: str = "base"
    ) -> None:
        """`tokens` is SARMConfig's: live for A'_s alone."""
        self._storage, self._catalog, self._tokenizer = storage, catalog, tokenizer
        self._live_only = tokens == "live"
        self._days_read: list[str] = []
        num_rows = catalog.num_authors + 1
        self.tokens = AnchorTokens.empty(num_rows)
        """Tokens of N + 1 author rows; [CLS] alone where there is no anchor yet."""
        self.anchor_day = np.full(num_rows, NO_ANCHOR, dtype=np.int32)
        """[N+1] day of the anchor in force, days since 1970, NO_ANCHOR where there is none."""
        self.num_truncated = 0
        """Anchors read so far that were longer than the tokenizer's max_tokens."""

    @property
    def rows(self) -> TokenRows:
        """Sizes of the token tables that an encoder of these anchors needs."""
        return self._tokenizer.live_rows if self._live_only else self._tokenizer.rows

    def advance(self, before: str | None = None, until: str | None = None) -> "AnchorTable":
        """Takes in the anchors of all days before `before` (or up to and including `until`) that were not read yet."""
        for day in self._storage.days("anchors"):
            due = (before is None or day < before) and (until is None or day <= until)
            if due and day not in self._days_read:
                self._take(day)
        return self

    def check_examples(self, day: str, columns: Columns) -> None:
        """Raises ContractError where the examples of `day` were joined with other anchors than those in force here."""
        known = self._catalog.author_rows(columns["author_id"])
        here = np.where(known > 0, self.anchor_day[known], NO_ANCHOR)
        differs = np.flatnonzero((known > 0) & (here != columns["anchor_day"]))
        if len(differs):
            row = differs[0]
            raise ContractError(
                f"table examples, day {day}, column anchor_day: wanted {_day_name(here[row])} for author "
                f"{columns['author_id'][row]}, got {_day_name(columns['anchor_day'][row])}; "
                "the anchors changed since: run the job examples again"
            )

    def _take(self, day: str) -> None:
        for chunk in batches(self._storage.dataset("anchors", day), 4096, ["author_id", *FIELDS]):
            rows = self._catalog.author_rows(chunk["author_id"].to_numpy())
            fields = [field_texts(row) for row in chunk.select(list(FIELDS)).to_pylist()]
            known = np.flatnonzero(rows)
            if len(known):
                encode = self._tokenizer.encode_live if self._live_only else self._tokenizer.encode
                self._place(rows[known], encode([fields[index] for index in known]))
                self.anchor_day[rows[known]] = day_number(day)
        self._days_read.append(day)

    def _place(self, rows: Ints, new: AnchorTokens) -> None:
        """Puts anchors over the rows, the table growing in T where they are longer."""
        self.num_truncated += new.num_truncated
        width = max(self.tokens.base.shape[1], new.base.shape[1])
        base, live = _widen(self.tokens.base, width), _widen(self.tokens.live, width)
        base[rows], live[rows] = _widen(new.base, width), _widen(new.live, width)
        self.tokens = AnchorTokens(base=base, live=live)


def read_examples(storage: Storage, day: str) -> Columns:
    """A day's examples in time order; `anchor_day` in days since 1970, NO_ANCHOR where null."""
    table = storage.read("examples", day, list(_EXAMPLE))
    table = table.sort_by([("ts_ms", "ascending"), ("impression_id", "ascending")])
    columns = to_numpy(table.drop_columns(["anchor_day"]))
    columns["anchor_day"] = table["anchor_day"].combine_chunks().cast("int32").fill_null(NO_ANCHOR).to_numpy()
    return columns


def take(columns: Columns, rows: Ints | slice) -> Columns:
    """The chosen rows of every column."""
    return {name: values[rows] for name, values in columns.items()}


class DayBatches:
    """One worker's share of a day: global batches of consecutive impressions, each worker every `world`-th row."""

    def __init__(self, columns: Columns, catalog: Catalog, batch_size: int, rank: int = 0, world: int = 1) -> None:
        """`batch_size` is that of all workers together. A day's batches differ by at most one row in size, so that no
        small rest remains. Raises ValueError where a worker would get no row."""
        size = len(columns["user_id"])
        self._catalog = catalog
        count = max(1, -(-size // batch_size))
        bounds = np.arange(count + 1) * size // count
        if size // count < world:
            raise ValueError(f"{size} examples in {count} batches are too few for {world} workers; use fewer workers")
        mine = [np.arange(start + rank, end, world) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
        self._columns = take(columns, np.concatenate(mine))
        self._bounds = np.cumsum([0, *map(len, mine)])
        self.global_sizes: list[int] = np.diff(bounds).tolist()
        """Rows of each batch over all workers."""

    def __len__(self) -> int:
        """Batches of the day."""
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[RankingBatch]:
        """Batches in time order."""
        for start, end in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            yield collate(take(self._columns, slice(start, end)), self._catalog)


def num_batches(examples: int, batch_size: int) -> int:
    """How many batches a day of so many examples has."""
    return max(1, -(-examples // batch_size))


def histories(storage: Storage, days: Sequence[str], length: int) -> Columns:
    """Every user's newest `length` clicks of `days`: user_id [U], author_ids, ts_ms, watch_s [U, length]."""
    from pipelines.examples import PAD, read_clicks

    clicks = read_clicks(storage, list(days))
    end = np.searchsorted(clicks.user, np.arange(len(clicks.user_ids)), side="right")
    start = np.searchsorted(clicks.user, np.arange(len(clicks.user_ids)), side="left")
    index = end[:, None] + np.arange(-length, 0)
    real = index >= start[:, None]
    source = index[real]
    result: Columns = {"user_ids": clicks.user_ids}
    for name, values, empty in (
        ("author_ids", clicks.author_id, PAD),
        ("ts_ms", clicks.ts_ms, 0),
        ("watch_s", clicks.watch_time_s, 0),
    ):
        column = np.full(index.shape, empty, dtype=values.dtype)
        column[real] = values[source]
        result[name] = column
    return result


def _widen(tokens: npt.NDArray[np.int32], width: int) -> npt.NDArray[np.int32]:
    wide = np.zeros((len(tokens), width), dtype=np.int32)
    wide[:, : tokens.shape[1]] = tokens
    return wide


def _day_name(number: int) -> str:
    if number == NO_ANCHOR:
        return "no anchor"
    return date.fromordinal(int(number) + date(1970, 1, 1).toordinal()).isoformat()
