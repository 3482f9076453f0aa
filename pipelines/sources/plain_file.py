"""A plain file, CSV or Parquet, as columns of text, and as numbers, times and ids where its rows hold some.

A row that cannot be used is refused once, with the first cell that is wrong and what to write there; the others go on.
"""

import csv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipelines.runtime.config import ConfigError
from pipelines.sources.refusals import Floats, Ints, Refusals
from pipelines.sources.rows import stable_id
from pipelines.tables.contract import ContractError

TIME_UNITS = ("s", "ms", "iso")
ID_KINDS = ("integer", "text")
LISTS = "|"
"""Between the values of a list column of a Parquet file, once it is text."""
_INTEGER, NUMBER = r"^-?\d{1,18}$", r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
FIRST_MS, END_MS = 315_532_800_000, 4_102_444_800_000  # 1980 to 2100: seconds taken for ms, or ms for s, fall outside
_WANTED_TIME = {
    "s": "seconds since 1970, from the years 1980 to 2099",
    "ms": "milliseconds since 1970, from the years 1980 to 2099",
    "iso": "a time such as 2026-01-31T18:30:00 (UTC where it names no zone), from the years 1980 to 2099",
}


class PlainFile(Refusals):
    """One file of a platform. Row numbers are those of a spreadsheet: in a CSV the header is row 1."""

    def __init__(self, key: str, path: str, columns: Sequence[str], delimiter: str) -> None:
        """Reads the `columns` as text, blanks as null. `key` is how the configuration calls the file.

        Raises ConfigError where there is no such file, and ContractError where it cannot be read or lacks a column.
        """
        if not path or not Path(path).is_file():
            raise ConfigError(
                f"{key}: wanted a CSV or Parquet file, got {path!r}; name it in the YAML file or by --set"
            )
        super().__init__(Path(path).name, "csv")
        skipped: list[int] = []
        parquet = path.endswith(".parquet")
        try:
            names = pq.read_schema(path).names if parquet else header(path, delimiter)
            wanted = list(dict.fromkeys(columns))
            if missing := [name for name in wanted if name not in names]:
                raise ContractError(
                    f"{key} {path}: wanted column(s) {', '.join(missing)}, got {', '.join(names)}; "
                    "correct the names in the section csv of the YAML file"
                )
            table = _parquet(path, wanted) if parquet else self._csv(path, wanted, delimiter, skipped)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ContractError(f"{key} {path}: {error}; write it as UTF-8 CSV with a header, or as Parquet") from error
        self._text = {name: _trimmed(table[name]) for name in wanted}
        numbers = np.arange(len(table) + len(skipped), dtype=np.int64) + (1 if parquet else 2)
        self.number(numbers[~np.isin(numbers, skipped)])

    def cell(self, column: str, index: int) -> str | None:
        """The text of a cell, None where it is blank."""
        text: str | None = self._text[column][index].as_py()
        return text

    def text(self, column: str) -> list[str | None]:
        """[rows] of a column, None where it is blank."""
        values: list[str | None] = self._text[column].to_pylist()
        return values

    def ids(self, column: str, kind: str) -> Ints:
        """[rows] integers as they are, or stable ids of texts. Refuses rows without one."""
        values = self._text[column]
        if kind == "integer":
            return self._parsed(column, _INTEGER, pa.int64(), "an integer id (or csv.ids: text)")
        self.refuse(pc.is_null(values).to_numpy(), column, "an id")
        coded = values.fill_null("").combine_chunks().dictionary_encode()
        ids = np.array([stable_id(name) for name in coded.dictionary.to_pylist()], np.int64)
        return ids[coded.indices.to_numpy()] if len(ids) else np.zeros(len(self), np.int64)

    def numbers(self, column: str, wanted: str = "a number", least: float | None = None) -> Floats:
        """[rows] of a column; true is 1 and false is 0. Refuses rows without a number, or with one below `least`."""
        lower = pc.utf8_lower(self._text[column])
        lower = pc.if_else(pc.equal(lower, "true"), "1", pc.if_else(pc.equal(lower, "false"), "0", lower))
        values = self._parsed(column, NUMBER, pa.float64(), wanted, lower)
        self.refuse(~np.isfinite(values) | (values < (-np.inf if least is None else least)), column, wanted)
        return values

    def times(self, column: str, unit: str) -> Ints:
        """[rows] in milliseconds since 1970. Refuses rows without a time, or with one that no platform has seen."""
        wanted = f"{_WANTED_TIME[unit]} (csv.interactions.time_unit: {unit})"
        if unit == "iso":
            ms = _each(self._text[column], iso_ms, -1)
        else:
            numbers = self._parsed(column, NUMBER, pa.float64(), wanted)
            scaled = np.round(numbers * (1000 if unit == "s" else 1))
            ms = np.where(np.abs(scaled) < END_MS, scaled, -1).astype(np.int64)
        self.refuse((ms < FIRST_MS) | (ms >= END_MS), column, wanted)
        return ms

    def _parsed(
        self, column: str, pattern: str, kind: pa.DataType, wanted: str, values: Any = None
    ) -> npt.NDArray[Any]:
        values = self._text[column] if values is None else values
        fits = pc.fill_null(pc.match_substring_regex(values, pattern), False)
        self.refuse(~fits.to_numpy(), column, wanted)
        numbers: npt.NDArray[Any] = pc.if_else(fits, values, "0").cast(kind).to_numpy()
        return numbers

    def _csv(self, path: str, columns: Sequence[str], delimiter: str, skipped: list[int]) -> pa.Table:
        """The file's rows with the header's number of cells; the others are refused, and `skipped`."""

        def skip(row: pacsv.InvalidRow) -> str:
            cells = f"{row.expected_columns} cells as in the header (quote a cell that holds {delimiter!r})"
            skipped.append(row.number)
            self.note(row.number, "", cells, f"{row.actual_columns}")
            return "skip"

        return pacsv.read_csv(
            path,
            read_options=pacsv.ReadOptions(use_threads=False),  # so that refused rows have a number
            parse_options=pacsv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip, ignore_empty_lines=True
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True
            ),
        )


def header(path: str, delimiter: str) -> list[str]:
    """The cells of a file's first row, none where it is empty."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file, delimiter=delimiter), [])


def _parquet(path: str, columns: Sequence[str]) -> pa.Table:
    """The columns as text."""
    table = pq.read_table(path, columns=list(columns))
    return pa.table({name: _as_text(table[name].combine_chunks()) for name in table.column_names})


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), LISTS)
    return column.cast(pa.string())


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _each(column: pa.ChunkedArray, parse: Callable[[str], int], otherwise: int) -> Ints:
    return np.array([otherwise if text is None else parse(text) for text in column.to_pylist()], np.int64)


def iso_ms(text: str, zone: tzinfo = UTC) -> int:
    """Milliseconds since 1970 of an ISO time, -1 where it is none; `zone` is that of a time which names none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return -1
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return round(moment.timestamp() * 1000)
