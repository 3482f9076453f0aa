"""Which answers still stand where a day is done again: those of authors of whom nothing has changed since.

Beside the anchors of a day lies INPUTS: for each author a hash of the segments and the profile that the answer was made
from. Who has the same hash, model and prompt as then keeps anchor or rejection, and the engine is asked for the others.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipelines.runtime.cluster import is_connected
from pipelines.semantics import prompt
from pipelines.semantics.engine import ANSWERS
from pipelines.tables import contract, newest, rejections
from pipelines.tables.day_rows import DayRows
from pipelines.tables.storage import Storage, batches

log = logging.getLogger(__name__)
INPUTS = "_INPUTS"
"""The file of hashes, in the folder of a day of anchors."""
Inputs = Mapping[int, bytes]
"""By author, the hash of what the answer is made from."""
_HASH_BYTES = 16
_SCHEMA = pa.schema([("author_id", pa.int64()), ("inputs", pa.binary(_HASH_BYTES))])
_MADE_FROM = b"made_from"
_ROWS_READ = 256
"""Segments in memory at a time: each holds its frames."""
_MOST_TASKS = 64


def inputs_of(storage: Storage, day: str) -> dict[int, bytes]:
    """The hash of every author who has segments on a day: of all their columns, frames too, and of the profile then.

    Reads all segments once, by tasks where Ray runs and the day has several files. No order of rows or files matters.
    """
    if not (files := storage.files("segments", day)):
        return {}
    sums = _sums(storage, day, min(len(files), _MOST_TASKS))
    if (carried := newest.carry(storage, "authors", until=day)) is not None:
        profiles = storage.dataset(contract.newest_of("authors"), carried)
        for table in batches(profiles, newest.ROWS_PER_FILE, ["author_id", "profile"]):
            for row in table.to_pylist():
                if row["author_id"] in sums:
                    sums[row["author_id"]] += _number(repr(("profile", row["profile"])))
    return {author: (sums[author] % 256**_HASH_BYTES).to_bytes(_HASH_BYTES, "big") for author in sorted(sums)}


def answers(storage: Storage, day: str, made_from: Mapping[str, str], inputs: Inputs) -> pa.Table:
    """ANSWERS of the day's authors whose hash is the one that their anchor, or rejection, was made from."""
    old = _read(storage, day, made_from)
    same = pa.array([author for author, value in inputs.items() if old.get(author) == value], pa.int64())
    rows: list[dict[str, Any]] = []
    if len(same):
        anchors = storage.read("anchors", day, where=pc.field("author_id").isin(same))
        rows += [row | {"answer": prompt.answer(row), "reason": "", "detail": ""} for row in anchors.to_pylist()]
        rows += _rejected(storage, day, set(same.to_pylist()))
    rows = _once(rows, _bad_frames(storage, day) if rows else {})
    if rows:
        log.info("anchors | day %s | %d of %d authors have not changed and are kept", day, len(rows), len(inputs))
    return pa.Table.from_pylist([{"day": day} | row for row in rows], schema=ANSWERS)


def write(storage: Storage, day: str, made_from: Mapping[str, str], inputs: Inputs) -> None:
    """Keeps the hashes that a day's anchors and rejections are made from; to be called before they are committed."""
    columns = [pa.array(inputs.keys(), pa.int64()), pa.array(inputs.values(), pa.binary(_HASH_BYTES))]
    table = pa.table(columns, schema=_SCHEMA.with_metadata({_MADE_FROM: json.dumps(dict(made_from))}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.filesystem.create_dir(storage.folder("anchors", day), recursive=True)
    storage.put(_path(storage, day), sink.getvalue())


def _path(storage: Storage, day: str) -> str:
    return f"{storage.folder('anchors', day)}/{INPUTS}"


def _read(storage: Storage, day: str, made_from: Mapping[str, str]) -> dict[int, bytes]:
    """The hashes of the committed day; none where it has none, or is of another model or prompt."""
    commit = storage.commit_of("anchors", day)
    if commit is None or beside_segments(commit.made_from) != beside_segments(made_from):
        return {}
    if storage.filesystem.get_file_info(_path(storage, day)).type != pafs.FileType.File:
        return {}
    table = pq.read_table(_path(storage, day), filesystem=storage.filesystem)
    if json.loads(table.schema.metadata[_MADE_FROM]) != dict(commit.made_from):  # of a run that ended before its commit
        return {}
    return dict(zip(table["author_id"].to_pylist(), table["inputs"].to_pylist(), strict=True))


def beside_segments(made_from: Mapping[str, str]) -> dict[str, str]:
    """What a day's anchors are made from, without its segments: model and prompt."""
    return {name: value for name, value in made_from.items() if name != "segments"}


def _rejected(storage: Storage, day: str, authors: set[int]) -> list[dict[str, Any]]:
    rows = rejections.of_stage(storage, day, "anchors").to_pylist()
    empty = {"answer": "", "num_frames": 0, "num_comments": 0}
    return [row | empty | {"author_id": int(row["key"])} for row in rows if int(row["key"]) in authors]


def _once(rows: Iterable[dict[str, Any]], bad_frames: Mapping[int, list[str]]) -> list[dict[str, Any]]:
    """Authors with one result. Who has two, because a run ended between two writes, is asked again."""
    rows = list(rows)
    counts = Counter(row["author_id"] for row in rows)
    return [r | {"bad_frames": bad_frames.get(r["author_id"], [])} for r in rows if counts[r["author_id"]] == 1]


def _bad_frames(storage: Storage, day: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for row in rejections.of_stage(storage, day, "keyframes").to_pylist():
        found.setdefault(int(row["key"].partition(" ")[0]), []).append(row["detail"])
    return found


def _sums(storage: Storage, day: str, parts: int) -> dict[int, int]:
    """By author, the sum of the hashes of its rows."""
    if parts == 1 or not is_connected():
        return _sums_of_part(storage.url, day, 0, 1)
    import ray

    task = ray.remote(num_cpus=1)(_sums_of_part)
    sums: Counter[int] = Counter()
    for each in ray.get([task.remote(storage.url, day, part, parts) for part in range(parts)]):
        sums.update(each)
    return sums


def _sums_of_part(url: str, day: str, part: int, parts: int) -> dict[int, int]:
    """The same of every `parts`-th file."""
    sums: Counter[int] = Counter()
    storage = Storage.open(url)
    files = storage.files("segments", day)[part::parts]
    for table in DayRows(storage.filesystem, files, "segments", day).batches(_ROWS_READ):
        for row in table.to_pylist():
            sums[row["author_id"]] += _row_hash(row)
    return sums


def _row_hash(row: Mapping[str, Any]) -> int:
    """Of all columns; a frame that is null, or without bytes, is one more kind of content."""
    text = repr([value for name, value in row.items() if name != "frames"])
    frames = [frame or {"offset_ms": None, "jpeg": None} for frame in row["frames"] or ()]
    parts = [(f"|{f['offset_ms']} {f['jpeg'] is None} {len(f['jpeg'] or b'')}|", f["jpeg"] or b"") for f in frames]
    return _number(text, *(part for both in parts for part in both))


def _number(*parts: str | bytes) -> int:
    whole = hashlib.blake2b(digest_size=_HASH_BYTES)
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
    return int.from_bytes(whole.digest(), "big")
