"""Columns of Arrow tables as arrays."""

from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]


def to_numpy(table: pa.Table) -> dict[str, NDArray[Any]]:
    """Columns as arrays; a list column, whose rows all have one length, as [n, length]."""
    columns: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            columns[name] = flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return columns
