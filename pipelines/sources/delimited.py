"""A delimited text file as columns of the types that its cells have, and the line that each row stands on.

A file in which all is well is read at once, on all cores. Otherwise it is read again, slower and with care: rows with
too few or too many cells are left out and told, empty lines are passed over, and a file that ends within a row was cut.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from pipelines.sources.refusals import Ints
from pipelines.tables.contract import ContractError

_NEWLINE, _RETURN = 10, 13
_BLOCK = 1 << 24
_STAND_IN = "\x1f"
"""Takes the place of a delimiter of several characters, which Arrow does not know."""
_NONE = ["", "NULL", "null", "NaN", "nan", "NaT", "<NA>", "NA", "N/A", "n/a", "#N/A", "None", "\\N"]
"""A missing number or time, as pandas, Spark and Hive write it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How cells stand in a file."""

    delimiter: str = ","
    """Between the cells."""
    names: tuple[str, ...] = ()
    """Columns of a file whose first line is a row; empty = the first line names them."""
    plain: bool = True
    """UTF-8, with cells in quotes where they need it. False: no quotes, and Latin-1 where it is not UTF-8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A row that was left out, as it has too few or too many cells."""

    line: int
    wanted: int
    got: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What a file holds."""

    table: pa.Table
    line: Ints
    """[rows] the line of each row; the first one is 1."""
    skipped: list[Skipped] = field(default_factory=list)
    ended: bool = True
    """Whether the last line has a line break."""


def read_rows(path: Path, dialect: Dialect, columns: Mapping[str, pa.DataType | None]) -> Rows:
    """The `columns`, of the type that is given, or else of the one that fits all their cells.

    Raises ContractError where the file was cut, or cannot be told apart into rows.
    """
    content = _content(path, dialect)
    lines, ended = _count(content)
    convert = pacsv.ConvertOptions(
        include_columns=list(columns),
        column_types={name: kind for name, kind in columns.items() if kind is not None},
        null_values=_NONE,
    )
    header = 0 if dialect.names else 1
    try:
        table = pacsv.read_csv(
            pa.BufferReader(content),
            read_options=pacsv.ReadOptions(column_names=list(dialect.names)),
            parse_options=_parse_options(dialect),
            convert_options=convert,
        )
    except pa.ArrowInvalid:
        return _with_care(path.name, content, dialect, convert)
    if header + len(table) != lines:
        return _with_care(path.name, content, dialect, convert)
    return Rows(table=table, line=np.arange(1 + header, 1 + lines, dtype=np.int64), ended=ended)


def _with_care(name: str, content: pa.Buffer, dialect: Dialect, convert: pacsv.ConvertOptions) -> Rows:
    invalid: list[tuple[int, int, int]] = []

    def skip(row: pacsv.InvalidRow) -> str:
        invalid.append((row.number, row.expected_columns, row.actual_columns))
        return "skip"

    try:
        table = pacsv.read_csv(
            pa.BufferReader(content),
            read_options=pacsv.ReadOptions(column_names=list(dialect.names), use_threads=False),  # else: no row numbers
            parse_options=_parse_options(dialect, invalid_row_handler=skip),
            convert_options=convert,
        )
    except pa.ArrowInvalid as error:
        raise ContractError(f"{name}: {' '.join(str(error).split())}; download it again, as UTF-8") from error
    lines, ended = _filled_lines(content)
    header = 0 if dialect.names else 1
    if header + len(table) + len(invalid) != len(lines):
        raise ContractError(f"{name} line {_open_quote(content)}: a cell has a quote that the line does not close")
    skipped = [Skipped(line=int(lines[number - 1]), wanted=wanted, got=got) for number, wanted, got in invalid]
    if skipped and not ended and skipped[-1].line == lines[-1]:
        raise cut(name, int(lines[-1]), f"wanted {skipped[-1].wanted} cells, got {skipped[-1].got}")
    rest = lines[header:]
    return Rows(table=table, line=rest[~np.isin(rest, [row.line for row in skipped])], skipped=skipped, ended=ended)


def cut(name: str, line: int, why: str) -> ContractError:
    """The error for a file that ends within a row."""
    return ContractError(f"{name} line {line}: {why}, and there the file ends: it was cut; download it again")


def _parse_options(dialect: Dialect, **more: object) -> pacsv.ParseOptions:
    delimiter = dialect.delimiter if len(dialect.delimiter) == 1 else _STAND_IN
    return pacsv.ParseOptions(delimiter=delimiter, quote_char='"' if dialect.plain else False, **more)


def _content(path: Path, dialect: Dialect) -> pa.Buffer:
    if dialect.plain:
        with pa.memory_map(str(path)) as file:
            return file.read_buffer()
    raw = path.read_bytes()
    try:
        raw.decode()
    except UnicodeDecodeError:
        raw = raw.decode("latin-1").encode()
    return pa.py_buffer(raw.replace(dialect.delimiter.encode(), _parse_options(dialect).delimiter.encode()))


def _count(content: pa.Buffer) -> tuple[int, bool]:
    """Lines, and whether the last one has a line break."""
    signs = np.frombuffer(content, np.uint8)
    breaks = sum(int(np.count_nonzero(signs[at : at + _BLOCK] == _NEWLINE)) for at in range(0, len(signs), _BLOCK))
    ended = bool(signs[-1] == _NEWLINE)
    return breaks + (not ended), ended


def _filled_lines(content: pa.Buffer) -> tuple[Ints, bool]:
    """Numbers of the lines that are not empty, and whether the last line has a line break."""
    signs = np.frombuffer(content, np.uint8)
    found = [at + np.flatnonzero(signs[at : at + _BLOCK] == _NEWLINE) for at in range(0, len(signs), _BLOCK)]
    ended = bool(signs[-1] == _NEWLINE)
    ends = np.concatenate([*found, np.array([] if ended else [len(signs)], np.int64)])
    length = np.diff(ends, prepend=-1) - 1
    empty = (length == 0) | ((length == 1) & (signs[np.maximum(ends - 1, 0)] == _RETURN))
    return np.flatnonzero(~empty) + 1, ended


def _open_quote(content: pa.Buffer) -> int:
    return next((n for n, line in enumerate(io.BytesIO(content), 1) if line.count(b'"') % 2), 1)
