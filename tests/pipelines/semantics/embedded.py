"""Days of segment_embeddings made by hand: vectors around a few themes."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.tables import contract
from pipelines.tables.storage import Storage

MODEL = "student"


def themed(authors: int, segments: int, width: int = 8, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of one live per author, who is of theme author_id % 5."""
    rng = np.random.default_rng(seed)
    themes = np.random.default_rng(99).normal(size=(5, width)) * 3
    vectors = themes[np.arange(authors) % 5][:, None] + rng.normal(size=(authors, segments, width))
    return [row(a, s, vectors[a, s]) for a in range(authors) for s in range(segments)]


def row(author: int, segment: int, vector: NDArray[Any] | list[float] | None, model: str = MODEL) -> dict[str, Any]:
    """One segment."""
    where = {"author_id": author, "live_id": 10 * author, "segment": segment, "end_ts_ms": 30_000 * (segment + 1)}
    return where | {"embedding": None if vector is None else np.asarray(vector, np.float16), "model": model}


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """In the contract's types."""
    return pa.Table.from_pylist(rows, schema=contract.spec("segment_embeddings").schema)


def write(
    storage: Storage,
    day: str,
    *chunks: list[dict[str, Any]],
    name: str = "segment_embeddings",
    model: str | None = None,
) -> None:
    """A day of the table `name`, one file per chunk; all rows are of `model` where it says one."""
    rows = [[of if model is None else of | {"model": model} for of in chunk] for chunk in chunks]
    storage.write(name, day, map(table, rows))
