"""What a table of the contract is."""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One table of the contract."""

    name: str
    """Folder name under `tables/`."""
    schema: pa.Schema
    """Columns in order; nullable=False columns must hold no null."""
    key: tuple[str, ...]
    """Columns whose combination is unique within a day."""
    row: str
    """What one row is."""
    oracle: bool = False
    """True for the simulator's truth, which no training job may read."""


def strings() -> pa.DataType:
    """A list of texts."""
    return pa.list_(pa.string())


def schema(**columns: pa.DataType | tuple[pa.DataType, str]) -> pa.Schema:
    """Schema from `name=type`, or `name=(type, "null")` for a nullable column."""
    fields = []
    for name, kind in columns.items():
        nullable = isinstance(kind, tuple)
        fields.append(pa.field(name, kind[0] if isinstance(kind, tuple) else kind, nullable=nullable))
    return pa.schema(fields)
