"""The table `ingest_report`: one row for each file of the source folder, and the sums that a log and a report show."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.beside import names
from pipelines.tables import contract
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
TABLE = "ingest_report"
UNITS = {"video": "segment", "chat": "comment", "transcript": "line", "other": "file"}


def write(storage: Storage, day: str, rows: Sequence[Mapping[str, Any]], made_from: Mapping[str, str]) -> None:
    """Makes `rows` the day's report, in the order of the files."""
    table = pa.Table.from_pylist(list(rows), schema=contract.spec(TABLE).schema).sort_by("file")
    storage.write(TABLE, day, [table], made_from)


def sums(storage: Storage, day: str) -> dict[str, dict[str, int]]:
    """{files, unused, found, used, left_out} by kind of file; `unused` are files of which nothing was used."""
    table = storage.read(TABLE, day, ["kind", "found", "used", "left_out"])
    result = {}
    for kind in UNITS:
        rows = table.filter(pc.equal(table["kind"], kind))
        unused = pc.sum(pc.and_(pc.equal(rows["used"], 0), pc.greater(rows["left_out"], 0))).as_py() or 0
        counts = {name: pc.sum(rows[name]).as_py() or 0 for name in ("found", "used", "left_out")}
        result[kind] = {"files": rows.num_rows, "unused": unused, **counts}
    return result


def say(storage: Storage, day: str) -> None:
    """Logs the sums of a day, and a warning that names the first file of data of which nothing was used."""
    parts = [
        f"{of['files']} {kind} file(s): {of['used']} of {of['found']} {UNITS[kind]}(s) used"
        for kind, of in sums(storage, day).items()
        if of["files"]
    ]
    log.info("ingest | day %s | %s", day, " | ".join(parts))
    table = storage.read(TABLE, day)
    unused = table.filter(pc.and_(pc.equal(table["used"], 0), pc.greater(table["left_out"], 0)))
    data = unused.filter(pc.not_equal(unused["kind"], "other"))
    first = next(iter((data if data.num_rows else unused).slice(0, 1).to_pylist()), None)
    if first is not None:
        log.log(
            logging.WARNING if data.num_rows else logging.INFO,
            "ingest | nothing was used of %d file(s), the first %s: %s | wanted beside a video: %s | all are in the "
            "table %s",
            unused.num_rows,
            first["file"],
            first["why"],
            names.WANTED,
            TABLE,
        )


def first_reasons(rows: Iterable[Mapping[str, Any]], most: int = 3) -> str:
    """The first few files that were left out, with the reasons, for an error message."""
    listed = [f"{row['file']}: {row['why']}" for row in rows]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return "; ".join(listed[:most]) + more
