"""Cells of an Arrow column of any type, and of text, as integers, numbers and times, NaN where they are none."""

from datetime import timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.plain_file import NUMBER, iso_ms
from pipelines.sources.refusals import Bools, Floats, Ints

BLANK = ("", "NULL", "null", "NaN", "nan", "NaT", "<NA>", "None", "\\N")
"""What pandas, Spark and Hive write for a missing cell."""
HOUR_MS = 3_600_000
_INTEGER = r"^[-+]?\d{1,18}(\.0*)?$"
_EXACT = 2.0**53
"""From here on a float no longer holds every integer."""


def text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The cells as text, null where they are blank."""
    cells = column.cast(pa.string())
    is_blank = pc.is_in(pc.utf8_trim_whitespace(cells), pa.array(BLANK))
    return pc.if_else(is_blank, pa.scalar(None, pa.string()), cells)


def blank(column: pa.ChunkedArray) -> Bools:
    """Which cells hold nothing."""
    is_blank: Bools = pc.is_null(column if _is_number(column.type) else text(column), nan_is_null=True).to_numpy()
    return is_blank


def numbers(column: pa.ChunkedArray) -> Floats:
    """The cells as numbers."""
    if _is_number(column.type):
        return _floats(column)
    cells = pc.utf8_trim_whitespace(column.cast(pa.string()))
    fits = pc.fill_null(pc.match_substring_regex(cells, NUMBER), False)
    return _floats(pc.if_else(fits, cells, pa.scalar(None, pa.string())))


def integers(column: pa.ChunkedArray) -> tuple[Ints, Bools]:
    """The cells as integers, also those that were written as 1.0, and which of them are some."""
    if pa.types.is_floating(column.type):
        floats = _floats(column)
        known = (np.rint(floats) == floats) & (np.abs(floats) < _EXACT)
        return np.where(known, floats, 0).astype(np.int64), known
    if not _is_number(column.type) or column.type == pa.uint64():
        cells = pc.utf8_trim_whitespace(column.cast(pa.string()))
        fits = pc.fill_null(pc.match_substring_regex(cells, _INTEGER), False)
        column = pc.replace_substring_regex(pc.if_else(fits, cells, pa.scalar(None, pa.string())), r"^\+|\.0*$", "")
    values = column.cast(pa.int64())
    return values.fill_null(0).to_numpy(), values.is_valid().to_numpy()


def milliseconds(column: pa.ChunkedArray, scale: float, utc_offset_h: float) -> Floats:
    """Milliseconds since 1970 of numbers, of which one is `scale`, and of date-times.

    `utc_offset_h` is the offset of date-times that name no zone.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        zone = column.type.tz if pa.types.is_timestamp(column.type) else None
        ms = _floats(column.cast(pa.timestamp("ms", zone), safe=False).cast(pa.int64()))
        return ms if zone else ms - utc_offset_h * HOUR_MS
    found = numbers(column) * scale
    if not _is_number(column.type):
        words = pc.if_else(pa.array(np.isnan(found)), text(column), pa.scalar(None, pa.string()))
        found = np.where(np.isnan(found), _date_times(words, utc_offset_h), found)
    return found


def _date_times(words: pa.ChunkedArray, utc_offset_h: float) -> Floats:
    """Milliseconds of date-times, of which some name a zone and others are none."""
    try:
        return milliseconds(pc.utf8_trim_whitespace(words).cast(pa.timestamp("ns")), 1.0, utc_offset_h)
    except pa.ArrowInvalid:
        zone = timezone(timedelta(hours=utc_offset_h))
        each = (cell for chunk in words.chunks for cell in chunk.to_pylist())
        ms = np.fromiter((-1 if cell is None else iso_ms(cell.strip(), zone) for cell in each), np.float64, len(words))
        return np.where(ms == -1, np.nan, ms)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def _floats(column: pa.ChunkedArray) -> Floats:
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return values
