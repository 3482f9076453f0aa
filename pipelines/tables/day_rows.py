"""The rows of one day, with the contract's types whatever types its files hold. The one way in which tables are read.

The files that our jobs wrote were cast and checked when they were written, and are read as they are. Files that a user
brought, which may differ in their types from one another, are cast where they need it and checked as they are read.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipelines.tables import contract, values
from pipelines.tables.contract import ContractError
from pipelines.tables.listing import UNCOMMITTED

_FORMAT = pads.ParquetFileFormat()
_OPENED_AT_ONCE = 16
_ROWS_AT_ONCE = 131_072


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroup:
    """A piece of a file that is read as a whole."""

    file: int
    """Place of its file in the day."""
    group: int
    """Its number in the file."""
    rows: int
    least: Any
    """Of the column asked for; None where the file does not say."""
    most: Any


@dataclass(frozen=True, kw_only=True)
class DayFile:
    """One Parquet file of a day."""

    table: str
    day: str
    path: str
    filesystem: pafs.FileSystem
    fragment: Any
    """The file as a piece of a dataset."""
    schema: pa.Schema
    """As the file says."""

    @classmethod
    def open(cls, filesystem: pafs.FileSystem, path: str, table: str, day: str) -> "DayFile":
        """Reads the file's footer. Raises ContractError where it is none, or names a column of the contract twice."""
        fragment = _FORMAT.make_fragment(path, filesystem)
        try:
            schema = fragment.physical_schema
        except (OSError, pa.ArrowException) as error:
            raise ContractError(
                f"table {table}, day {day}: wanted a Parquet file, got {path}: {error}; replace the damaged file"
            ) from error
        twice = [name for name in contract.spec(table).schema.names if schema.names.count(name) > 1]
        if twice:
            raise ContractError(
                f"table {table}, day {day}: wanted one column {twice[0]}, got {schema.names.count(twice[0])} in "
                f"{path}; leave the others out"
            )
        return cls(table=table, day=day, path=path, filesystem=filesystem, fragment=fragment, schema=schema)

    @property
    def name(self) -> str:
        """Without its folder."""
        return PurePosixPath(self.path).name

    @property
    def is_ours(self) -> bool:
        """True for a file that a job wrote."""
        return self.name.startswith(UNCOMMITTED)

    def raw(self, columns: Sequence[str], batch_size: int) -> Iterator[tuple[int, pa.Table]]:
        """(first row, rows) in bounded pieces, with the types of the file. Raises ContractError for damaged pages."""
        first, wanted = 0, [column for column in columns if column in self.schema.names]
        try:
            with self.filesystem.open_input_file(self.path) as source:
                for batch in pq.ParquetFile(source).iter_batches(batch_size, columns=wanted):
                    yield first, pa.Table.from_batches([batch])
                    first += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.table, self.day, error) from error


def damaged(table: str, day: str, error: Exception) -> ContractError:
    """The error for a day that Arrow cannot read."""
    return ContractError(f"table {table}, day {day}: {error}; replace the damaged file")


def all_columns(files: Sequence[DayFile]) -> pa.Schema:
    """The columns of a day's files together; one that holds labels in any of them is of a label's type."""
    found: dict[str, pa.Field] = {}
    for file in files:
        for field in file.schema:
            if field.name not in found or field.type in (pa.uint8(), pa.bool_()):
                found[field.name] = field
    return pa.schema(found.values())


class DayRows:
    """The rows of one day of a table."""

    def __init__(self, filesystem: pafs.FileSystem, paths: Sequence[str], table: str, day: str) -> None:
        """Opens the files that have to be looked at. Raises ContractError for one that is no Parquet file."""
        self._table, self._day, self._filesystem = table, day, filesystem
        self._fragments = [_FORMAT.make_fragment(path, filesystem) for path in paths]
        self._files = [DayFile.open(filesystem, path, table, day) for path in paths[:1]]
        self._is_ours = all(f.is_ours and _is_typed(f, contract.schema_of(table, f.schema)) for f in self._files)
        if not self._is_ours:
            with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
                self._files += pool.map(lambda path: DayFile.open(filesystem, path, table, day), paths[1:])
            self._fragments = [file.fragment for file in self._files]
        self._found = all_columns(self._files)
        self.schema = contract.schema_of(table, self._found)
        """Its columns, as they are read."""

    def count_rows(self) -> int:
        """Rows of the day, from the files' footers."""
        return int(self._dataset(self.schema).count_rows())

    def table(self, columns: Sequence[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """All rows, or those of `where`, in the order of the files."""
        wanted = list(columns or self.schema.names)
        asked = _asked_by(where, self.schema.names)
        schema, filtered = self._schema(dict.fromkeys([*wanted, *asked])), self._schema(asked)
        if all(_is_typed(file, schema) for file in self._files):
            rows = self._scanned(self._dataset(schema), wanted, where)
        else:
            parts = [self._cast_file(file, schema, filtered, where).select(wanted) for file in self._files]
            rows = pa.concat_tables(parts)
        if not self._is_ours and (wrong := self._fault(rows)):
            for _ in self.batches(_ROWS_AT_ONCE, wanted):
                pass  # finds the same, and says in which row of which file
            raise wrong
        return pa.table(rows.columns, schema=self._schema(wanted))

    def batches(self, batch_size: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows in bounded pieces, in the order of the files."""
        schema = self._schema(columns or self.schema.names)
        if self._is_ours:
            yield from self._streamed(schema, batch_size)
            return
        for file in self._files:
            for first_row, raw in file.raw(schema.names, batch_size):
                rows = self._conformed(raw, schema)
                if wrong := self._fault(rows, first_row, file.name):
                    raise wrong
                yield rows

    def groups(self, column: str) -> list[RowGroup]:
        """The row groups of the day in the order of the files, with what their footers say of a column."""
        with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
            infos = list(pool.map(self._row_groups, self._fragments))
        groups = []
        for file, of_file in enumerate(infos):
            for info in of_file:
                said = (info.statistics or {}).get(column, {})
                groups.append(
                    RowGroup(file=file, group=info.id, rows=info.num_rows, least=said.get("min"), most=said.get("max"))
                )
        return [group for group in groups if group.rows]

    def _row_groups(self, fragment: Any) -> Any:
        try:
            return fragment.row_groups
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._table, self._day, error) from error

    def table_of(self, groups: Sequence[RowGroup], columns: Sequence[str]) -> pa.Table:
        """The rows of some row groups, one after another, on one thread."""
        schema, numbers = self._schema(columns), itertools.groupby(groups, key=lambda group: group.file)
        subsets = [(f, self._fragments[f].subset(row_group_ids=[of.group for of in part])) for f, part in numbers]
        if self._is_ours:
            source = pads.FileSystemDataset([subset for _, subset in subsets], schema, _FORMAT, self._filesystem)
            return pa.table(self._scanned(source, columns, None, use_threads=False).columns, schema=schema)
        parts = []
        for file, subset in subsets:
            rows = self._conformed(self._scanned(subset, columns, None, use_threads=False), schema)
            if wrong := self._fault(rows, 0, self._files[file].name):
                raise wrong
            parts.append(rows)
        return pa.concat_tables(parts)

    def _streamed(self, schema: pa.Schema, batch_size: int) -> Iterator[pa.Table]:
        read_ahead = {"batch_readahead": 1, "fragment_readahead": 1}
        try:
            for batch in self._dataset(schema).to_batches(batch_size=batch_size, columns=schema.names, **read_ahead):
                if batch.num_rows:
                    yield pa.table(batch.columns, schema=schema)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._table, self._day, error) from error

    def _cast_file(
        self, file: DayFile, schema: pa.Schema, filtered: pa.Schema, where: pc.Expression | None
    ) -> pa.Table:
        """The rows of one file, cast. Arrow filters them as it reads where the columns of `filtered` need no cast.

        Of types that views are it cannot leave rows out.
        """
        has_views = any(_holds_view(file.schema.field(name).type) for name in schema.names)
        if where is None or (_is_typed(file, filtered) and not has_views):
            return self._conformed(self._scanned(file.fragment, schema.names, where), schema)
        return self._conformed(self._scanned(file.fragment, schema.names, None), schema).filter(where)

    def _scanned(
        self, source: Any, columns: Sequence[str], where: pc.Expression | None, use_threads: bool = True
    ) -> pa.Table:
        try:
            return source.to_table(columns=list(columns), filter=where, use_threads=use_threads)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self._table, self._day, error) from error

    def _conformed(self, raw: pa.Table, schema: pa.Schema) -> pa.Table:
        return contract.conform(raw, self._table, self._day, schema.names).select(schema.names)

    def _schema(self, columns: Iterable[str]) -> pa.Schema:
        """Of the columns asked for, in that order. Raises ContractError where a file lacks one."""
        for file in self._files:
            if missing := [name for name in columns if name not in file.schema.names]:
                raise contract.missing_columns(self._table, self._day, missing, file.schema.names)
        schema = contract.schema_of(self._table, self._found, list(columns))
        return pa.schema([schema.field(name) for name in columns])

    def _dataset(self, schema: pa.Schema) -> pads.FileSystemDataset:
        return pads.FileSystemDataset(self._fragments, schema, _FORMAT, self._filesystem)

    def _fault(self, rows: pa.Table, first_row: int = 0, file: str = "") -> ContractError | None:
        """The first thing that is wrong with the values of rows that were cast."""
        if self._table in contract.BY_ROW:
            key = contract.spec(self._table).key
            rows = rows.select([name for name in rows.column_names if name in key])
        times = not self._files[0].is_ours
        for fault in values.faults(rows, self._table, self._day, times=times):
            return fault.error(self._table, self._day, first_row, file)
        return None


def _is_typed(file: DayFile, schema: pa.Schema) -> bool:
    """Whether a file holds the columns of `schema` with just its types."""
    return all(field.name in file.schema.names and file.schema.field(field.name).type == field.type for field in schema)


def _holds_view(kind: pa.DataType) -> bool:
    """True for string_view, binary_view and list_view, and for what is made of them."""
    inner = [kind.field(at).type for at in range(kind.num_fields)]
    return str(kind).partition("<")[0].endswith("_view") or any(map(_holds_view, inner))


def _asked_by(where: pc.Expression | None, names: Sequence[str]) -> list[str]:
    """The columns that a filter asks for, and maybe more: Arrow names them in its text alone."""
    return [] if where is None else [name for name in names if re.search(rf"\b{re.escape(name)}\b", str(where))]
