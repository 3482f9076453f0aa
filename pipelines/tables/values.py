"""What the values of a table must be: no nulls, finite numbers, times of the day, labels of 0 and 1.

Works on tables that have the contract's types. Rows are checked where they enter: when a job writes them, and when a
job reads what a user brought. `validate` checks all of them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from pipelines.tables import contract
from pipelines.tables.contract import BY_ROW, CLOSED, FIELD_LIMITS, PROFILE, ContractError

_DAY_MS = 86_400_000
_LEAST: Mapping[str, int] = MappingProxyType(
    dict.fromkeys(PROFILE, -1)
    | dict.fromkeys(("watch_time_s", "history_watch_s", "history_age_s"), 0)
    | dict.fromkeys(("viewers", "likes", "gifts", "num_frames", "num_comments", "attempts"), 0)
)
"""By column, the smallest value that means anything."""
_TIMES = ("ts_ms", "start_ts_ms")
"""Columns that hold a moment of the row's day."""
_OWN_TIMES: Mapping[str, tuple[str, ...]] = MappingProxyType({"windows": ("window_end_ms",)})
"""By table, those columns where they are others: an impression may be reported on the day after its exposure."""
_LATE_MS: Mapping[str, int] = MappingProxyType({"events": _DAY_MS, "segments": 7 * _DAY_MS})
"""By table, how long after the day's end a row may be: an exit belongs to the day of its exposure, the segments of a
live to the day on which the live began (its segment 0 has to be of that day)."""
_UNITS = (("seconds", 1000, 1), ("microseconds", 1, 1000), ("nanoseconds", 1, 1_000_000))
"""Name, and factor and divisor to milliseconds."""
_FILL = "fill or drop them"
_DATES = tuple((day - date(1970, 1, 1)).days for day in (date.min, date.max))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with the values of a column: what was wanted, and the first row that is not it."""

    column: str
    wanted: str
    got: str
    row: int
    """Row of the table that was checked."""
    remedy: str

    def error(self, name: str, day: str, first_row: int = 0, file: str = "") -> ContractError:
        """Args: `first_row` is the row of `file` with which the checked table began."""
        where = f"table {name}, day {day}, column {self.column}"
        at = f"(first at row {first_row + self.row}){f' in {file}' if file else ''}"
        return ContractError(f"{where}: wanted {self.wanted}, got {self.got} {at}; {self.remedy}")


def check(data: pa.Table, name: str, day: str) -> None:
    """Raises ContractError for the first fault of what a job is about to write.

    Times are the job's own matter: a period of `movielens` is a day of the tables. Of BY_ROW only nulls are refused, or
    one row would cost the day of all others.
    """
    for fault in faults(data, name, day, times=False, deep=name not in BY_ROW):
        raise fault.error(name, day)


def validate(data: pa.Table, name: str, day: str) -> pa.Table:
    """`contract.conform`, plus: the day is not empty, keys are unique, and there is no fault."""
    data = contract.conform(data, name, day)
    if not data.num_rows:
        raise contract.empty_day(name, day)
    contract.check_keys(data, name, day)
    for fault in faults(data, name, day):
        raise fault.error(name, day)
    return data


def faults(data: pa.Table, name: str, day: str, *, times: bool = True, deep: bool = True) -> Iterator[Fault]:
    """What is wrong with the values of `data`, the first fault of each column.

    Args: `times` asks whether they lie within the day, `deep` for more than that columns hold no nulls.
    """
    for column in data.column_names:
        values, field = data[column], data.schema.field(column)
        if not field.nullable and values.null_count:
            row = pc.index(pc.is_null(values), True).as_py()
            yield Fault(column=column, wanted="no nulls", got="null", row=row, remedy=_FILL)
        elif deep:
            yield from islice(_of_column(data, name, day, column, times), 1)


def _of_column(data: pa.Table, name: str, day: str, column: str, times: bool) -> Iterator[Fault]:
    values = data[column]
    yield from _nested(values, column)
    if contract.is_label(name, column) or contract.is_mask(name, column):
        remedy = "write labels as 0 or 1, and what is none not as uint8"
        yield from _wrong(column, values, pc.less_equal(values, 1), "0 or 1", remedy)
    elif column in CLOSED.get(name, {}):
        allowed = CLOSED[name][column]
        is_one = pc.is_in(values, pa.array(allowed))
        yield from _wrong(column, values, is_one, f"one of {', '.join(allowed)}", "correct those rows")
    elif column in FIELD_LIMITS and types.is_list(values.type):
        lengths, most = pc.list_value_length(values), FIELD_LIMITS[column]
        yield from _wrong(column, lengths, pc.less_equal(lengths, most), f"at most {most} value(s)", "keep the first")
    elif times and column in _OWN_TIMES.get(name, _TIMES):
        yield from _outside_day(data, name, day, column)


def _wrong(
    column: str,
    values: pa.ChunkedArray,
    is_right: pa.ChunkedArray,
    wanted: str,
    remedy: str,
    row_of: Callable[[int], int] = int,
) -> Iterator[Fault]:
    """The first value that is not right; `row_of` gives the row of a value's place."""
    at = pc.index(is_right, False).as_py()
    if at >= 0:
        value = values[at].as_py()
        got = "NaN" if value != value else str(value)
        yield Fault(column=column, wanted=wanted, got=got, row=row_of(at), remedy=remedy)


def _nested(
    values: pa.ChunkedArray, column: str, inside: str = "", row_of: Callable[[int], int] = int
) -> Iterator[Fault]:
    """Nulls inside lists and structs, and values that no number or text can be, wherever they are in a column."""
    if inside and values.null_count:
        first = row_of(pc.index(pc.is_null(values), True).as_py())
        yield Fault(column=column, wanted=f"no nulls{inside}", got="null", row=first, remedy=_FILL)
    elif types.is_list(values.type):
        ends = np.cumsum(pc.fill_null(pc.list_value_length(values), 0).to_numpy())

        def row(at: int) -> int:
            return row_of(int(ends.searchsorted(at, "right")))

        yield from _nested(pc.list_flatten(values), column, " in its lists", row)
    elif types.is_struct(values.type):
        for field in values.type:
            yield from _nested(pc.struct_field(values, [field.name]), column, f" in its {field.name}", row_of)
    else:
        yield from _leaf(values, column, inside, row_of)


def _leaf(values: pa.ChunkedArray, column: str, inside: str, row_of: Callable[[int], int]) -> Iterator[Fault]:
    least = _LEAST.get(column)
    bound = "" if least is None else f" >= {least}"
    if types.is_floating(values.type):
        is_right = pc.is_finite(values)
        if least is not None:
            is_right = pc.and_(is_right, pc.greater_equal(values, least))
        remedy = "correct those rows, or leave them out"
        yield from _wrong(column, values, is_right, f"finite numbers{bound}{inside}", remedy, row_of)
    elif least is not None:
        is_right = pc.greater_equal(values, least)
        yield from _wrong(column, values, is_right, f"numbers{bound}", "correct those rows", row_of)
    elif types.is_date32(values.type):
        days = values.cast(pa.int32())
        is_right = pc.and_(pc.greater_equal(days, _DATES[0]), pc.less_equal(days, _DATES[1]))
        wanted = "dates of the years 1 to 9999, as days since 1970"
        yield from _wrong(column, days, is_right, wanted, "correct those rows", row_of)
    elif types.is_string(values.type):
        yield from _not_text(values, column, inside, row_of)


def _not_text(values: pa.ChunkedArray, column: str, inside: str, row_of: Callable[[int], int]) -> Iterator[Fault]:
    """Bytes that are not UTF-8: a Parquet file may hold them in a column of text, and Arrow reads them as they are."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        for at, value in enumerate(values.cast(pa.binary()).to_pylist()):
            try:
                (value or b"").decode()
            except UnicodeDecodeError:
                remedy = "write it as UTF-8"
                yield Fault(
                    column=column, wanted=f"UTF-8 text{inside}", got=repr(value[:40]), row=row_of(at), remedy=remedy
                )
                return


def _outside_day(data: pa.Table, name: str, day: str, column: str) -> Iterator[Fault]:
    """The first moment that is not of the day."""
    values = data[column]
    start, end = _day_ms(day)
    last = end + _LATE_MS.get(name, 0)
    least, most = pc.min_max(values).as_py().values()
    if least is None or (least >= start and most < end):
        return
    is_right = pc.and_(pc.greater_equal(values, start), pc.less(values, last))
    if name == "segments" and "segment" in data.column_names:
        is_right = pc.and_(is_right, pc.or_(pc.greater(data["segment"], 0), pc.less(values, end)))
    at = pc.index(is_right, False).as_py()
    if at >= 0:
        got, remedy = _looks_like(values[at].as_py(), start, last)
        wanted = "milliseconds since 1970 that lie within the day (UTC)"
        yield Fault(column=column, wanted=wanted, got=got, row=at, remedy=remedy)


def _looks_like(value: int, start: int, last: int) -> tuple[str, str]:
    """What a number that is no moment of the day is, as far as it can be told, and what to do."""
    for unit, factor, divisor in _UNITS:
        ms = value * factor // divisor
        if start <= ms < last or (_year(value) in (None, 1970) and 2000 <= (_year(ms) or 0) < 2100):
            how = f"multiply by {factor:,}" if factor > 1 else f"divide by {divisor:,}"
            return f"{value}, which looks like {unit}", f"write ms since 1970 as int64: {how}"
    year = _year(value)
    if year == 1970:
        return f"{value}, which is in 1970", "write the moment of each row, ms since 1970 as int64"
    if year is None:
        return f"{value}, which is no date", "write the moment of each row, ms since 1970 as int64"
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=value)
    return f"{value}, which is {moment:%Y-%m-%dT%H:%M:%S} UTC", "move those rows to the folder of their day"


def _day_ms(day: str) -> tuple[int, int]:
    start = (date.fromisoformat(day) - date(1970, 1, 1)).days * _DAY_MS
    return start, start + _DAY_MS


def _year(ms: int) -> int | None:
    try:
        return (datetime(1970, 1, 1) + timedelta(milliseconds=ms)).year
    except OverflowError:
        return None
