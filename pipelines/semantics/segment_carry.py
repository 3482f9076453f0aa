"""Which vectors still stand where a day is done again: those of slices of which nothing has changed since.

Beside the vectors of a day lies SLICES: the slices that it was made of, in order, and how many vectors each has. Files
of `segments` keep their slices' names as long as they hold the same rows, so that a file more costs its own segments
alone. Slices with anything rejected are asked again.
"""

import json
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from pipelines.semantics.segment_engine import VECTORS
from pipelines.semantics.segment_staging import TABLE, SegmentStaging
from pipelines.tables.storage import Storage, batches

SLICES = "_SLICES"
"""The file of slices, in the folder of a day of vectors."""
_ROWS = 8192
Counts = list[tuple[str, int, bool]]
"""Name of a slice, its vectors, and whether each of its segments has one, and each frame was read."""


def beside_segments(made_from: Mapping[str, str]) -> dict[str, str]:
    """What a day's vectors are made from, without its segments: model, prompt and engine."""
    return {name: value for name, value in made_from.items() if name != "segments"}


def write(storage: Storage, day: str, made_from: Mapping[str, str], counts: Counts) -> None:
    """Keeps the slices that a day is made of; to be called before it is committed."""
    storage.filesystem.create_dir(storage.folder(TABLE, day), recursive=True)
    storage.write_json(_path(storage, day), {"made_from": dict(made_from), "slices": counts})


def carry(storage: Storage, day: str, made_from: Mapping[str, str], staging: SegmentStaging) -> int:
    """Stages the vectors that stand, and returns how many. One pass over the day's vectors, in bounded pieces."""
    counts = _read(storage, day, made_from)
    wanted = {each.name for each in staging.missing() if each.day == day}
    if not any(whole and name in wanted for name, _, whole in counts):
        return 0
    kept, rows = 0, _Rows(batches(storage.dataset(TABLE, day), _ROWS))
    for name, count, whole in counts:
        of_slice = rows.take(count)
        if whole and name in wanted:
            staging.append(_vectors(of_slice, name))
            kept += count
    return kept


def _path(storage: Storage, day: str) -> str:
    return f"{storage.folder(TABLE, day)}/{SLICES}"


def _read(storage: Storage, day: str, made_from: Mapping[str, str]) -> Counts:
    """The slices of the committed day; none where it has none, or is of another model, prompt or engine."""
    commit = storage.commit_of(TABLE, day)
    if commit is None or not commit.files or beside_segments(commit.made_from) != beside_segments(made_from):
        return []
    if storage.filesystem.get_file_info(_path(storage, day)).type != pafs.FileType.File:
        return []
    with storage.filesystem.open_input_stream(_path(storage, day)) as stream:
        told = json.loads(stream.read())
    if told["made_from"] != dict(commit.made_from):  # of a run that ended before its commit
        return []
    return [(name, count, whole) for name, count, whole in told["slices"]]


class _Rows:
    """Rows that come in pieces, taken in other ones."""

    def __init__(self, pieces: Iterator[pa.Table]) -> None:
        self._pieces, self._waiting = pieces, list[pa.Table]()

    def take(self, count: int) -> pa.Table:
        """The next `count` rows."""
        while sum(piece.num_rows for piece in self._waiting) < count:
            self._waiting.append(next(self._pieces))
        if not self._waiting:
            return pa.table({})
        joined = pa.concat_tables(self._waiting)
        self._waiting = [joined.slice(count)]
        return joined.slice(0, count)


def _vectors(rows: pa.Table, name: str) -> pa.Table:
    """Rows of the table as VECTORS of a slice."""
    rows = rows.combine_chunks()
    numbers = rows["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float16)
    vectors = numbers.reshape(rows.num_rows, -1)
    same = {"slice": name, "reason": "", "detail": "", "attempts": 1}
    columns = {column: pa.array([value] * rows.num_rows) for column, value in same.items()}
    columns |= {column: rows[column] for column in ("author_id", "live_id", "segment", "end_ts_ms")}
    columns["embedding"] = pa.array([vector.tobytes() for vector in vectors], pa.binary())
    columns["bad_frames"] = pa.array([[]] * rows.num_rows, pa.list_(pa.string()))
    return pa.table(columns).select(VECTORS.names).cast(VECTORS)
