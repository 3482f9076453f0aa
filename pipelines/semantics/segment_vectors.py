"""Segments as vectors: a day's rows in parts of bounded size, and which rows cannot be used, and why.

Parts follow from the rows alone, never from the cluster: what is summed over them has the same bits on any cluster.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.tables import contract
from pipelines.tables.contract import ContractError
from pipelines.tables.day_rows import RowGroup
from pipelines.tables.storage import Storage

TABLE = "segment_embeddings"
JOBS = {TABLE: "embed_segments", "item_vectors": "item_vectors"}
"""The tables of segments as vectors, and which job writes each."""
_NUMBERS = 1 << 24
"""Numbers of a part: 64 MiB as float32."""
_LOOKED_AT = 1024
"""Rows that say what the others should be."""
_ROW = ["author_id", "live_id", "segment", "end_ts_ms"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """What the vectors of one model have in common; those of two do not compare."""

    model: str
    width: int
    """E."""
    table: str = TABLE
    """Where they are: one of JOBS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some rows of a day."""

    day: str
    groups: tuple[RowGroup, ...]

    @property
    def rows(self) -> int:
        """How many."""
        return sum(group.rows for group in self.groups)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vectors:
    """The rows of a part that can be used."""

    rows: pa.Table
    """[n] author_id, live_id, segment, end_ts_ms."""
    values: npt.NDArray[np.float32]
    """[n, E]."""
    refused: list[dict[str, Any]]
    """Of the other rows: key, reason and detail, as `rejections` holds them."""


def none(space: Space) -> Vectors:
    """No rows."""
    kinds = contract.spec(space.table).schema
    rows = pa.schema([kinds.field(name) for name in _ROW]).empty_table()
    return Vectors(rows=rows, values=np.zeros((0, space.width), np.float32), refused=[])


def space_of(storage: Storage, days: Sequence[str], table: str = TABLE) -> Space:
    """That of most rows at the beginning of the newest of `days` that has any. Raises ContractError for none."""
    for day in reversed(days):
        for rows in _batches(storage, day, table):
            widths = pc.list_value_length(rows["embedding"]).to_pylist()
            seen = Counter(pair for pair in zip(rows["model"].to_pylist(), widths, strict=True) if all(pair))
            if seen:
                (model, width), _ = seen.most_common(1)[0]
                return Space(model=model, width=width, table=table)
    raise ContractError(
        f"table {table}, day(s) {', '.join(days)}: wanted at least one row with model and embedding, got none; "
        f"run the job {JOBS[table]} again"
    )


def _batches(storage: Storage, day: str, table: str) -> Iterator[pa.Table]:
    if storage.files(table, day):
        yield from storage.dataset(table, day).batches(_LOOKED_AT, ["embedding", "model"])


def parts(storage: Storage, day: str, space: Space, authors: tuple[int, int] | None = None) -> list[Part]:
    """All rows of a day, in order. A part holds _NUMBERS numbers, or one row group where that has more.

    With `authors`, the least and the greatest id, row groups that say that they have none of these are left out.
    """
    if not storage.files(space.table, day):
        return []
    found: list[list[RowGroup]] = []
    room = 0
    for group in storage.dataset(space.table, day).groups("author_id"):
        if authors is not None and not _may_hold(group, *authors):
            continue
        if group.rows * space.width > room:
            found.append([])
            room = _NUMBERS
        found[-1].append(group)
        room -= group.rows * space.width
    return [Part(day=day, groups=tuple(groups)) for groups in found]


def _may_hold(group: RowGroup, least: int, most: int) -> bool:
    return group.least is None or group.most is None or (group.least <= most and group.most >= least)


def read(storage: Storage, part: Part, space: Space) -> Vectors:
    """The rows of a part, with their vectors. Raises OSError where the storage cannot be read."""
    table = storage.dataset(space.table, part.day).table_of(part.groups, [*_ROW, "embedding", "model"])
    table = table.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(table["embedding"]), -1).to_numpy()
    fits = (lengths == space.width) & pc.fill_null(pc.equal(table["model"], space.model), False).to_numpy()
    fits &= ~_holds_null(table["embedding"])
    values = _flat(table.filter(pa.array(fits))["embedding"]).reshape(-1, space.width)
    finite = np.isfinite(values).all(axis=1)
    usable = fits.copy()
    usable[fits] = finite
    refused = [_refused(row, part.day, space) for row in table.filter(pa.array(~usable)).to_pylist()]
    return Vectors(rows=table.filter(pa.array(usable)).select(_ROW), values=values[finite], refused=refused)


def _flat(embeddings: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    halves = embeddings.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    values: npt.NDArray[np.float32] = halves.astype(np.float32)
    return values


def _holds_null(embeddings: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """[n] whether a list holds a null."""
    lists = embeddings.combine_chunks()
    found = np.zeros(len(lists), bool)
    if lists.flatten().null_count:
        found[pc.list_parent_indices(lists).filter(pc.is_null(lists.flatten())).to_numpy()] = True
    return found


def _refused(row: dict[str, Any], day: str, space: Space) -> dict[str, Any]:
    key = f"{row['author_id']} {row['live_id']} {row['segment']}"
    column, wanted, got = _fault(row, space)
    detail = (
        f"table {space.table}, day {day}, (author_id, live_id, segment) {key}, column {column}: wanted {wanted}, "
        f"got {got}; run the job {JOBS[space.table]} again for that day, or leave the row out"
    )
    return {"key": key, "reason": "bad_row", "detail": detail}


def _fault(row: dict[str, Any], space: Space) -> tuple[str, str, str]:
    """Column, wanted, got."""
    values = row["embedding"]
    if row["model"] != space.model:
        return "model", f"{space.model}, as others are", str(row["model"])
    if values is None or len(values) != space.width:
        got = "null" if values is None else f"{len(values)} numbers"
        return "embedding", f"{space.width} numbers, as others have", got
    at = next(at for at, value in enumerate(values) if value is None or not np.isfinite(value))
    return "embedding", "finite numbers", f"{'null' if values[at] is None else values[at]} at place {at}"
