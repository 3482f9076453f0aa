"""Source folders of videos as `ingest` reads them, without Ray."""

from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.sources import clips, folder
from pipelines.sources.sampling import Sampling

Rows = list[dict[str, Any]]


def ingested(source: Path, day: date = date(2026, 1, 1), **sampling: int) -> tuple[Rows, Rows, dict[str, Any]]:
    """(rows of segments, rejections, rows of `ingest_report` by file) of a folder."""
    found = folder.find(str(source))
    rows, refused, files = list[Any](), [*found.refused], [*found.left_out]
    for clip in found.clips:
        batch = pa.Table.from_pylist([asdict(clip)], schema=clips.CLIPS)
        for table in clips.decode(batch, Sampling(**sampling), day):
            for row in table.to_pylist():
                if row["done"] is None:
                    rows.append(row)
                else:
                    refused.extend(row["rejected"])
                    files.extend(row["files"])
    by_file = {row["file"]: row for row in files}
    assert len(by_file) == len(files), "a file has one row"
    assert all(row["found"] == row["used"] + row["left_out"] for row in files)
    return rows, refused, by_file
