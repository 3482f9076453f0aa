"""A day of segments in slices of a few rows: what is read, asked and kept at a time. A slice is read as a stream is.

A slice is named by what its file holds, so that it stands as long as the file does, whichever others come and go.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipelines.tables import contract
from pipelines.tables.contract import SEGMENT_MS
from pipelines.tables.day_rows import damaged
from pipelines.tables.fingerprint import digest
from pipelines.tables.listing import content_of, is_brought
from pipelines.tables.storage import Storage

TABLE = "segments"
SLICE_ROWS = 64
"""Most rows of a slice. A killed job loses the slices that the engine has in hand."""
KEY = contract.spec(TABLE).key
_COLUMNS = contract.spec(TABLE).schema.names
_TRIES = 3
"""Times that a slice is read from a storage that fails."""

SegmentKey = tuple[int, int, int]
"""Author, live, segment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Rows of one row group."""

    day: str
    path: str
    content: str
    """Hash of what the file holds."""
    group: int
    """Number of the row group."""
    first: int
    """First row, counted from the group's."""
    rows: int

    @property
    def name(self) -> str:
        """Equal for slices of equal rows."""
        return f"{self.content}-{self.group:05d}-{self.first:08d}-{self.rows:03d}"


SLICES = pa.schema(
    [("day", pa.string()), ("path", pa.string()), ("content", pa.string())]
    + [(name, pa.int64()) for name in ("group", "first", "rows")]
)
"""Slices, as a table."""


def slices_of(storage: Storage, day: str) -> Iterator[Slice]:
    """The slices of a day, in the order of its rows; from the files' footers. Equal files follow one another once."""
    if not (files := storage.files(TABLE, day)):
        return
    contents = [digest(_content(info)) for info in storage.filesystem.get_file_info(files)]
    for group in storage.dataset(TABLE, day).groups(KEY[0]):
        for first in range(0, group.rows, SLICE_ROWS):
            yield Slice(
                day=day,
                path=files[group.file],
                content=contents[group.file],
                group=group.group,
                first=first,
                rows=min(SLICE_ROWS, group.rows - first),
            )


def _content(file: pafs.FileInfo) -> str:
    """What a file holds, wherever in the day it stands."""
    name = str(file.base_name)
    return content_of(file) if is_brought(name) else name.rpartition("-")[2]


def check_keys(storage: Storage, day: str) -> int:
    """The number of a day's segments. Raises ContractError where a key is missing or there twice, before anybody works.

    Holds the key columns of the day, 20 bytes a segment.
    """
    if not storage.files(TABLE, day):
        return 0
    keys = storage.read(TABLE, day, list(KEY))
    contract.check_keys(keys, TABLE, day)
    return int(keys.num_rows)


class SliceReader:
    """Reads slices of a storage; the next one of the same row group costs no second look at those before it."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._open: tuple[str, int, int] | None = None
        self._rows: Iterator[pa.Table] = iter(())
        self._at = 0

    def read(self, wanted: Slice) -> dict[SegmentKey, dict[str, Any] | ValueError]:
        """The rows by their key, in order; a ValueError in place of one that cannot be read.

        Rows have the columns of the contract but `start_ts_ms`, and `end_ts_ms`. Raises what Arrow raises where the
        storage keeps failing, for keys too.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return _by_key(self._raw(wanted, _COLUMNS), wanted.day)
            except (OSError, pa.ArrowException) as error:
                self._open, fault = None, damaged(TABLE, wanted.day, error)
                if attempt < _TRIES:
                    time.sleep(attempt)
        # Of damaged pages what lies in them is lost, and whose it was is not.
        return dict.fromkeys(_keys(self._raw(wanted, KEY), wanted.day), fault)

    def _raw(self, wanted: Slice, columns: Sequence[str]) -> pa.Table:
        """A slice with the types of its file."""
        source = (wanted.path, wanted.group, len(columns))
        if self._open != source or wanted.first < self._at:
            self._open, self._rows, self._at = source, self._stream(wanted, columns), 0
        for rows in self._rows:
            first, self._at = self._at, self._at + SLICE_ROWS
            if first == wanted.first:
                return rows
        raise AssertionError(f"{wanted}: the row group holds {self._at} rows")

    def _stream(self, wanted: Slice, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of a row group, SLICE_ROWS at a time."""
        columns = list(columns)
        with self._storage.filesystem.open_input_file(wanted.path) as source:
            file = pq.ParquetFile(source)
            waiting = file.schema_arrow.empty_table().select(columns)
            for batch in file.iter_batches(SLICE_ROWS, row_groups=[wanted.group], columns=columns):
                rows = pa.Table.from_batches([batch]).select(columns)
                waiting = pa.concat_tables([waiting, rows])
                while waiting.num_rows >= SLICE_ROWS:
                    yield waiting.slice(0, SLICE_ROWS)
                    waiting = waiting.slice(SLICE_ROWS)
            if waiting.num_rows:
                yield waiting


def _by_key(raw: pa.Table, day: str) -> dict[SegmentKey, dict[str, Any] | ValueError]:
    try:
        rows: list[dict[str, Any] | ValueError] = [*_rows(raw, day)]
    except (ValueError, TypeError):  # one row that cannot be read, among others
        rows = [_row(raw.slice(at, 1), day) for at in range(raw.num_rows)]
    return dict(zip(_keys(raw, day), rows, strict=True))


def _keys(raw: pa.Table, day: str) -> list[SegmentKey]:
    keys = contract.conform(raw.select(list(KEY)), TABLE, day, list(KEY))
    return list(zip(*(keys[name].to_pylist() for name in KEY), strict=True))


def _rows(raw: pa.Table, day: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = contract.conform(raw, TABLE, day, list(raw.column_names)).to_pylist()
    for row in rows:
        if (start := row.pop("start_ts_ms")) is None:
            raise ValueError("column start_ts_ms: wanted ms since 1970, got null")
        row["end_ts_ms"] = start + SEGMENT_MS
    return rows


def _row(raw: pa.Table, day: str) -> dict[str, Any] | ValueError:
    try:
        (row,) = _rows(raw, day)
        return row
    except (ValueError, TypeError) as error:
        return ValueError(str(error))
