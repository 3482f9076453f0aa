"""Days of item_vectors made by hand, and published towers whose weights nobody reads."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.tables import contract
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage

TOWERS = "t1"
DAY_MS = 1_767_225_600_000
"""2026-01-01."""
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")


def row(live: int, segment: int, end_s: float, vector: list[float] | None, towers: str = TOWERS) -> dict[str, Any]:
    """A segment that ends so many seconds after the first day's beginning."""
    where = {"author_id": 100 + live, "live_id": live, "segment": segment, "end_ts_ms": DAY_MS + round(1000 * end_s)}
    return where | {"embedding": vector, "model": towers}


def write(storage: Storage, day: str, *chunks: list[dict[str, Any]]) -> None:
    """A day, one file per chunk."""
    schema = contract.spec("item_vectors").schema
    storage.write("item_vectors", day, [pa.Table.from_pylist(rows, schema=schema) for rows in chunks])


def publish_towers(storage: Storage, folder: Path, run_id: str = TOWERS) -> None:
    """An artifact of that kind and version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "towers.json").write_text("{}")
    Artifacts(storage).publish("towers", folder, run_id, {})
