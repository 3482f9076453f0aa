"""Rows of the contract's tables, as sources make them that bring users, items and their text."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.tables import contract
from pipelines.tables.anchor_text import canonical_text
from pipelines.tables.contract import FIELD_LIMITS, FIELDS

DAY_MS = 86_400_000


def stable_id(name: str) -> int:
    """Positive 63-bit id of a name: the same on every machine and every day."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1 or 1


def to_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as the contract's table `name`; what the first one has beside its columns are further labels."""
    listed, fixed = list(rows), contract.spec(name).schema.names
    further = [key for key in listed[0] if key not in fixed] if listed and name in contract.LABELLED else []
    return pa.Table.from_pylist(listed, schema=contract.schema_with(name, further))


def anchor_row(author_id: int, phrases: Mapping[str, Sequence[str]], source: str) -> dict[str, Any]:
    """A row of `anchors` that no model wrote: phrases by field, of each the first that it may hold."""
    fields = {field: list(phrases.get(field, ()))[: FIELD_LIMITS[field]] for field in FIELDS}
    nobody = {"model": source, "prompt_hash": "", "schema_hash": "", "num_frames": 0, "num_comments": 0}
    return {"author_id": author_id, **fields, "text": canonical_text(fields), **nobody}


def author_row(author_id: int, profile: str, category: str | None, tags: Sequence[str], day: str) -> dict[str, Any]:
    """A row of `authors`."""
    return {
        "author_id": author_id,
        "profile": profile,
        "category": category,
        "tags": list(tags),
        "first_live_day": date.fromisoformat(day),
    }


def coded(values: Sequence[Any]) -> tuple[npt.NDArray[np.int16], list[str]]:
    """Values as codes 0, 1, ... in the order of their text, -1 for None, and the text of each code."""
    names = sorted({str(value) for value in values if value is not None})
    code = {name: index for index, name in enumerate(names)}
    return np.array([-1 if value is None else code[str(value)] for value in values], np.int16), names


def rows_by_day(rows: pa.Table, column: str) -> list[tuple[str, pa.Table]]:
    """The rows of each day (UTC) of a column of milliseconds, days and rows in order."""
    day = rows[column].to_numpy() // DAY_MS
    return [
        (datetime.fromtimestamp(int(d) * 86_400, UTC).date().isoformat(), rows.filter(pa.array(day == d)))
        for d in np.unique(day)
    ]
