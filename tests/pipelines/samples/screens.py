"""Tables of codes made by hand."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.tables import contract
from pipelines.tables.storage import Storage

DAY_MS = 86_400_000


def code_row(live: int, segment: int, end_ms: int, codes: list[int], codebook: str = "v1") -> dict[str, Any]:
    """One segment."""
    row = {"author_id": live // 10, "live_id": live, "segment": segment, "end_ts_ms": end_ms}
    return row | {"codes": codes, "codebook": codebook}


def write_codes(storage: Storage, day: str, rows: Iterable[dict[str, Any]], table: str = "segment_codes") -> None:
    """A day, in files of 40 rows."""
    whole = pa.Table.from_pylist(list(rows), schema=contract.spec(table).schema)
    chunks = [whole.slice(start, 40) for start in range(0, whole.num_rows, 40)] or [whole]
    storage.write(table, day, chunks)


def code_the_lives(
    storage: Storage, clusters: tuple[int, ...], table: str = "segment_codes", codebook: str = "v1"
) -> None:
    """Codes of every live that was shown: segments of 30 s, the first of which ends after its first impression."""
    rng = np.random.default_rng(len(table))
    for day in storage.days("impressions"):
        shown = storage.read("impressions", day, ["author_id", "live_id", "ts_ms"])
        first = shown.group_by(["author_id", "live_id"]).aggregate([("ts_ms", "min"), ("ts_ms", "max")]).to_pylist()
        rows = []
        for live in sorted(first, key=lambda of: of["live_id"]):
            ends = range(live["ts_ms_min"] + 10_000, live["ts_ms_max"] + 60_000, 30_000)
            for segment, end in enumerate(list(ends)[:60]):
                codes = rng.integers(0, clusters).tolist()
                rows.append(code_row(live["live_id"], segment, end, codes, codebook) | {"author_id": live["author_id"]})
        write_codes(storage, day, rows, table)
