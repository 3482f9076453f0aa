"""A day's finished slices as rows of `segment_embeddings` and of `rejections`."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runtime.verdict import JobError
from pipelines.semantics import segment_carry
from pipelines.semantics.segment_staging import TABLE, SegmentStaging
from pipelines.tables import contract, rejections
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
STAGE = "embed_segments"
FRAMES_STAGE = "segment_frames"
"""Rejects single frames of segments that have a vector all the same."""
_OF_THE_DATA = ("no_frames", "bad_image", "bad_row")
"""Reasons that say nothing of the engine."""
_FILE_BYTES = 64 * 2**20
"""Vectors of a file of the table."""


@dataclass(kw_only=True)
class Split:
    """What became of the segments of a day."""

    embedded: int = 0
    bad: list[dict[str, Any]] = field(default_factory=list)
    """Rejections of segments."""
    bad_frames: list[dict[str, Any]] = field(default_factory=list)
    """Rejections of single frames."""
    slices: segment_carry.Counts = field(default_factory=list)

    @classmethod
    def of(cls, staging: SegmentStaging, day: str) -> "Split":
        """Reads the slices of a day, one at a time."""
        split = cls()
        for rows in staging.read(day):
            is_good = pc.equal(rows["reason"], "")
            is_whole = pc.and_(is_good, pc.equal(pc.list_value_length(rows["bad_frames"]), 0))
            good = int(pc.sum(is_good).as_py())
            split.embedded += good
            split.slices.append((rows["slice"][0].as_py(), good, bool(pc.all(is_whole).as_py())))
            for row in rows.filter(pc.invert(is_whole)).drop_columns(["embedding"]).to_pylist():
                split._tell(row)
        return split

    def _tell(self, row: dict[str, Any]) -> None:
        place = f"live {row['live_id']} segment {row['segment']}"
        key = f"{row['author_id']} {place}"
        if row["reason"]:
            self.bad.append({"key": key} | {name: row[name] for name in ("reason", "detail", "attempts")})
        for message in row["bad_frames"]:
            frame = message.partition(":")[0].removeprefix(place).strip()
            self.bad_frames.append({"key": f"{key} {frame}", "reason": "bad_image", "detail": message})


def commit(
    storage: Storage, model: str, day: str, staging: SegmentStaging, made_from: Mapping[str, str]
) -> Counter[str]:
    """Writes a day and counts its rows; embeddings are committed last, as they mark the day done.

    Raises JobError where the engine made nothing of a day: no earlier vectors are to be replaced by none.
    """
    split = Split.of(staging, day)
    reasons = Counter(row["reason"] for row in split.bad if row["reason"] not in _OF_THE_DATA)
    if reasons and not split.embedded:
        staging.forget(day)
        reason, count = reasons.most_common(1)[0]
        detail = next(row["detail"] for row in split.bad if row["reason"] == reason)
        raise JobError(
            f"embed_segments: day {day} is left as it was, since none of {len(split.bad)} segments has a vector; "
            f"{count} times {reason}, the first: {detail}"
        )
    rejections.replace(storage, day, STAGE, split.bad)
    rejections.replace(storage, day, FRAMES_STAGE, split.bad_frames)
    segment_carry.write(storage, day, made_from, split.slices)
    storage.write(TABLE, day, _tables(staging, day, model), made_from)
    log.info("embed_segments | day %s committed | %d embedded | %d rejections", day, split.embedded, len(split.bad))
    return Counter(embedded=split.embedded, rejections=len(split.bad))


def _tables(staging: SegmentStaging, day: str, model: str) -> Iterator[pa.Table]:
    """The vectors of a day, in files of bounded size. Raises RuntimeError where they are of two widths."""
    waiting: list[pa.Table] = []
    widths = set[int]()
    for rows in staging.read(day):
        if (rows := rows.filter(pc.equal(rows["reason"], ""))).num_rows:
            waiting.append(_embeddings(rows, model))
            widths |= set(pc.unique(pc.list_value_length(waiting[-1]["embedding"])).to_pylist())
        if len(widths) > 1:
            raise RuntimeError(f"embed_segments: day {day}: wanted vectors of one width, got {sorted(widths)}")
        if sum(table.nbytes for table in waiting) >= _FILE_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _embeddings(rows: pa.Table, model: str) -> pa.Table:
    """Rows of VECTORS as rows of the table."""
    numbers = rows["embedding"].to_pylist()
    ends = np.cumsum([0, *(len(each) // 2 for each in numbers)], dtype=np.int32)
    vectors = np.frombuffer(b"".join(numbers), np.float16)
    columns = {name: rows[name] for name in ("author_id", "live_id", "segment", "end_ts_ms")}
    columns["embedding"] = pa.ListArray.from_arrays(pa.array(ends), pa.array(vectors))
    columns["model"] = pa.array([model] * rows.num_rows, pa.string())
    return pa.table(columns, schema=contract.spec(TABLE).schema)
