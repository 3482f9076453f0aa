"""Casts of columns to the contract's types: those that keep every value, whatever tool wrote the file.

Spark, pandas, Polars and DuckDB write the same rows with other types: narrower or wider integers, decimals, bool
labels, dictionaries, large strings and lists, views, a column without a value as type null, times as timestamps. What
would have to be guessed, such as numbers in text or whole numbers in floats, is no cast.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

_LISTS: tuple[Callable[[pa.DataType], bool], ...] = (
    types.is_list,
    types.is_large_list,
    types.is_fixed_size_list,
    types.is_list_view,
    types.is_large_list_view,
)
_BYTES: tuple[Callable[[pa.DataType], bool], ...] = (
    types.is_binary,
    types.is_large_binary,
    types.is_fixed_size_binary,
    types.is_binary_view,
)
_TEXTS: tuple[Callable[[pa.DataType], bool], ...] = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    *_BYTES,  # Arrow sees whether they are UTF-8
    types.is_integer,  # codes of categories
)
_KEEPS: tuple[tuple[Callable[[pa.DataType], bool], tuple[Callable[[pa.DataType], bool], ...]], ...] = (
    (types.is_uint8, (types.is_integer, types.is_decimal, types.is_boolean)),  # labels
    (types.is_integer, (types.is_integer, types.is_decimal)),
    (types.is_floating, (types.is_floating, types.is_integer, types.is_decimal)),
    (types.is_string, _TEXTS),
    (types.is_binary, _BYTES),
    (types.is_date32, (types.is_date, types.is_timestamp)),
)
"""By the type that is wanted, the types whose values it can hold; a single value may still be out of its range."""


def cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """`column` with the type of `field`: a timestamp of any unit and zone becomes milliseconds where it ends in `_ms`.

    A timestamp without a zone counts as UTC; what is finer than a millisecond is cut off. Raises ValueError where the
    cast would have to guess or would lose a value: its text says which value, "" where it is the type.
    """
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if types.is_timestamp(column.type) and field.name.endswith("_ms"):
            # Up to milliseconds Arrow looks for overflow; below them nothing overflows, and losing digits is meant.
            column = column.cast(pa.timestamp("ms"), safe=column.type.unit == "s").cast(pa.int64())
        if not _is_kept(column.type, field.type):
            raise ValueError
        if types.is_decimal(column.type) and types.is_float32(field.type):
            column = column.cast(pa.float64())  # Arrow's own cast makes 1.5000001 of 1.500 (pyarrow 26)
        if types.is_list_view(column.type) or types.is_large_list_view(column.type):
            column = _as_list(column)
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(str(error)) from error


def _is_kept(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type are values of the other, inside lists and structs too."""
    if found == wanted or types.is_null(found):
        return True
    if types.is_dictionary(found):
        return _is_kept(found.value_type, wanted)
    if types.is_list(wanted):
        return any(is_kind(found) for is_kind in _LISTS) and _is_kept(found.value_type, wanted.value_type)
    if types.is_struct(wanted):
        names = {field.name for field in found} if types.is_struct(found) else set()
        return bool(names) and all(_is_kept(found.field(f.name).type, f.type) for f in wanted if f.name in names)
    return any(is_kind(found) for is_wanted, kinds in _KEEPS if is_wanted(wanted) for is_kind in kinds)


def _as_list(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A list view as a list. Arrow's own cast of it loses values (pyarrow 26)."""
    chunks = []
    for chunk in column.chunks:
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).cast(pa.int32())
        ends = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
        chunks.append(pa.ListArray.from_arrays(ends, pc.list_flatten(chunk), mask=chunk.is_null()))
    return pa.chunked_array(chunks, pa.list_(column.type.value_type))
