"""A file of a released data set, CSV or Parquet, as its authors, pandas or Spark wrote it.

Cells keep the type that they were written in, so that a file of many million rows is read fast; what is none of the
numbers or times that are asked for is refused row by row. What is wrong with a whole file is a ContractError.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources import cells
from pipelines.sources.delimited import Dialect, cut, read_rows
from pipelines.sources.plain_file import END_MS, FIRST_MS, header
from pipelines.sources.refusals import Bools, Floats, Ints, Refusals
from pipelines.tables.contract import ContractError

log = logging.getLogger(__name__)
RUNNING = np.iinfo(np.int64).max
"""The end of what had not ended."""
_UNITS = {"seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}
"""Milliseconds in one of each."""
_NO_END_MS = 2 * 86_400_000
"""An end in the first days of 1970 is a zero, in any zone, and means that there is none."""
_ENOUGH, _MOST_REFUSED = 1000, 0.5
_CSV = Dialect()


class ReleaseFile(Refusals):
    """One file. Its rows are told by line where it is text, and by row, from 1 on, where it is Parquet."""

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        *,
        job: str,
        texts: Sequence[str] = (),
        aliases: Mapping[str, str] | None = None,
        dialect: Dialect = _CSV,
        utc_offset_h: float = 0.0,
    ) -> None:
        """Reads `columns` and, as text, `texts`; `aliases` has second names of columns.

        `utc_offset_h` is the offset of times that name no zone. Raises ContractError where the file cannot be used.
        """
        parquet = path.suffix == ".parquet"
        super().__init__(path.name, job, "row" if parquet else "line")
        self._utc_offset_h = utc_offset_h
        self._cut_column: str | None = None
        _check_is_data(path)
        try:
            names = pq.read_schema(path).names if parquet else list(dialect.names) or header(str(path), ",")
            self._named = self._find([*columns, *texts], names, aliases or {})
            if parquet:
                self._table = pq.read_table(path, columns=list(self._named.values()), partitioning=None)
                self.number(np.arange(1, 1 + len(self._table)))
            else:
                self._read_text(path, dialect, texts, names[-1])
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ContractError(f"{path.name}: {' '.join(str(error).split())}; download it again") from error
        self._check_kinds()

    def cell(self, column: str, index: int) -> str | None:
        """The text of a cell, None where it is blank."""
        value = self._column(column)[index].as_py()
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        return None if value is None or str(value).strip() in cells.BLANK else str(value)

    def ids(self, column: str, blank: int | None = None) -> Ints:
        """[rows] integers, also those that were written as 1.0. Refuses other rows; `blank` cells may be a number."""
        values, known = cells.integers(self._column(column))
        if blank is not None:
            values = np.where(known, values, blank)
            known = known | cells.blank(self._column(column))
        self.refuse(~known, column, "an integer id")
        return values

    def numbers(self, column: str, wanted: str, *, most: float = np.inf, blank: float | None = None) -> Floats:
        """[rows] numbers from 0 to `most`. Refuses other rows; `blank` cells may be a number."""
        values = cells.numbers(self._column(column))
        if blank is not None:
            values = np.where(cells.blank(self._column(column)), blank, values)
        self.refuse(~(np.isfinite(values) & (values >= 0) & (values <= most)), column, wanted)
        return values

    def times(self, column: str, unit: str = "milliseconds", *, may_run: bool = False) -> Ints:
        """[rows] in milliseconds since 1970: numbers of that `unit`, or date-times.

        Refuses rows without one. `may_run`: blank and 0 are RUNNING instead. Raises ContractError where all are of
        another unit.
        """
        ms = cells.milliseconds(self._column(column), _UNITS[unit], self._utc_offset_h)
        # Seconds may be few: other units taken for them are far too many. Of milliseconds, few are another unit.
        first, year = (1, 1970) if unit == "seconds" else (FIRST_MS, 1980)
        fits = (ms >= first) & (ms < END_MS)
        running = (cells.blank(self._column(column)) | (ms < _NO_END_MS)) if may_run else np.zeros(len(ms), bool)
        self._check_unit(column, unit, np.where(running, np.nan, ms), fits)
        self.refuse(~fits & ~running, column, f"{unit} since 1970, or a date-time, of the years {year} to 2099")
        return np.where(running, RUNNING, np.rint(np.where(fits, ms, 0)).astype(np.int64))

    def texts(self, column: str) -> pa.ChunkedArray:
        """[rows] text as it is, null where it is blank."""
        return cells.text(self._column(column))

    def refuse(self, bad: Bools, column: str, wanted: str) -> None:
        """Refuses those of the rows that are still good. Raises ContractError where most of many rows are refused."""
        found = np.flatnonzero(bad & self.good)
        if len(self) > _ENOUGH and len(found) > _MOST_REFUSED * len(self):
            raise ContractError(
                f"{self.name}, column {column}: wanted {wanted}, but {len(found)} of {len(self)} rows have none, the "
                f"first {self.cell(column, int(found[0]))!r} in {self.place} {self.row[found[0]]}; download it again"
            )
        super().refuse(bad, column, wanted)

    def kept(self, columns: Mapping[str, Any]) -> pa.Table:
        """The rows that were not refused: `columns`, and their number as `row`. Lets what was read go.

        Raises ContractError where the last row was refused because the file was cut there.
        """
        self._check_last_row()
        self._table = pa.table({})
        rows = pa.table({**columns, "row": self.row})
        return rows if self.good.all() else rows.filter(pa.array(self.good))

    def _column(self, name: str) -> pa.ChunkedArray:
        values = self._table[self._named[name]]
        return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values

    def _find(self, columns: Sequence[str], names: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
        """What the file calls the columns."""
        found = {column: aliases.get(column, column) if column not in names else column for column in columns}
        for column, name in found.items():
            if names.count(name) != 1:
                got = f"{names.count(name)} of that name in " if name in names else ""
                raise ContractError(
                    f"{self.name}: wanted column {column}, got {got}{', '.join(names) or 'an empty first line'}; "
                    "download it again, or name its columns so"
                )
        return found

    def _read_text(self, path: Path, dialect: Dialect, texts: Sequence[str], last_column: str) -> None:
        kinds = {name: pa.string() if column in texts else None for column, name in self._named.items()}
        rows = read_rows(path, dialect, kinds)
        self._table = rows.table
        self.number(rows.line)
        for skipped in rows.skipped:
            self.note(skipped.line, "", f"{skipped.wanted} cells", str(skipped.got))
        if not rows.ended:
            self._cut_column = last_column
            log.warning("%s does not end with a line break; if its download broke off, download it again", self.name)

    def _check_kinds(self) -> None:
        for column, name in self._named.items():
            kind = self._table[name].type
            binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
            if binary or pa.types.is_nested(kind) or pa.types.is_duration(kind):
                wanted = "numbers, times or text in UTF-8"
                raise ContractError(f"{self.name}, column {column}: wanted {wanted}, got {kind}; write it so")

    def _check_last_row(self) -> None:
        """ContractError where the last cell of a file without a last line break was refused."""
        if self._cut_column and not self.good[-1:].all():
            line, column = int(self.row[-1]), self._cut_column
            at_end = [row["detail"] for row in self.refused if row["key"] == f"{self.place} {line}"]
            if f"column {column}: " in at_end[0]:
                raise cut(self.name, line, f"column {column} holds no whole cell")

    def _check_unit(self, column: str, unit: str, ms: Floats, fits: Bools) -> None:
        other = np.flatnonzero(np.isfinite(ms))
        if not len(other) or fits.any():
            return
        at = int(other[0])
        number = ms[at] / _UNITS[unit]
        for name, scale in _UNITS.items():
            if name != unit and FIRST_MS <= number * scale < END_MS:
                raise ContractError(
                    f"{self.place} {self.row[at]}, column {column}: wanted {unit} since 1970, or a date-time, got "
                    f"{self.cell(column, at)}, which is {name}, and no row has one; write the column in {unit}"
                )


def _check_is_data(path: Path) -> None:
    """ContractError where there is no file, or where it is not the data itself."""
    if not path.is_file():
        raise ContractError(f"{path.name} is missing in {path.parent}; download the whole release")
    with path.open("rb") as file:
        start = file.read(40)
    if not start:
        raise ContractError(f"{path.name} is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        raise ContractError(f"{path.name} is a Git LFS pointer and not the data; fetch it with git lfs pull")
