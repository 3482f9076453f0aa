"""KuaiLive-M3's embeddings of segments, `live_emb_128_ts`, as rows of `segment_embeddings`.

Its shards hold live_stream_id, segment_id, feature_128 and timestamp, the end of the segment. A row belongs to the day
on which its live began, as the segments of a live do. Rows come in the order of the shards, so they are spooled by day
on the local disk first, 300 bytes each. Memory: ids and times of a shard, about 100 bytes a row, and the keys of a day.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.sources.refusals import Bools, Ints, Refusals
from pipelines.sources.release_file import ReleaseFile
from pipelines.sources.rows import rows_by_day
from pipelines.tables import contract
from pipelines.tables.contract import SEGMENT_MS, ContractError

TABLE = "segment_embeddings"
FOLDER = "live_emb_128_ts"
WIDTH = 128
_VECTOR = "feature_128"
_ROWS = 65_536
"""Rows in memory at a time with their vectors, and of a file of the table."""
_SPOOLED = contract.spec(TABLE).schema.append(pa.field("start_ms", pa.int64())).append(pa.field("place", pa.string()))
"""Rows of the table, when their live began, and where they were read."""


@dataclass(kw_only=True)
class Spool:
    """The rows that can be used, by day, and what became of the others."""

    folder: Path
    rows: int = 0
    days: tuple[str, ...] = ()
    files: tuple[Refusals, ...] = ()
    """The shards, with the rows that were refused for a cell."""
    off_air: tuple[dict[str, str], ...] = ()
    """Rows for `rejections`: by shard and live, segments that no room holds."""

    def read(self, day: str, refused: list[dict[str, str]]) -> Iterator[pa.Table]:
        """The rows of a day. Of a segment that is there twice the first row is kept, and others go to `refused`."""
        path, names = self.folder / f"{day}.parquet", contract.spec(TABLE).schema.names
        first, at = _first_of_each(pq.read_table(path, columns=["live_id", "segment"])), 0
        for batch in pq.ParquetFile(path).iter_batches(_ROWS):
            rows, kept = pa.Table.from_batches([batch]), pa.array(first[at : at + len(batch)])
            at += len(batch)
            for row in rows.filter(pc.invert(kept)).select(["place", "live_id", "segment"]).to_pylist():
                detail = f"segment {row['segment']} of live {row['live_id']} is in a row above, which is kept"
                refused.append({"key": row["place"], "reason": "bad_row", "detail": detail})
            yield rows.filter(kept).select(names)


@contextmanager
def spooled(shards: Sequence[Path], rooms: pa.Table, utc_offset_h: float, beside: Path) -> Iterator[Spool]:
    """Reads all shards into a folder below `beside`, which is deleted in the end.

    `rooms` are those of a Release. Raises ContractError where a shard cannot be used.
    """
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix="segments-") as folder:
        spool = Spool(folder=Path(folder))
        with ExitStack() as open_files:
            writers: dict[str, pq.ParquetWriter] = {}
            for path in shards:
                for rows in _rows_of(path, rooms, utc_offset_h, spool):
                    for day, of_day in rows_by_day(rows, "start_ms"):
                        if day not in writers:
                            writer = pq.ParquetWriter(spool.folder / f"{day}.parquet", _SPOOLED)
                            writers[day] = open_files.enter_context(writer)
                        writers[day].write_table(of_day)
                        spool.rows += len(of_day)
        spool.days = tuple(sorted(writers))
        yield spool


def _rows_of(path: Path, rooms: pa.Table, utc_offset_h: float, spool: Spool) -> Iterator[pa.Table]:
    """The rows of a shard that can be used, as _SPOOLED; the others are told to the spool."""
    file = ReleaseFile(
        path,
        ["live_stream_id", "segment_id", "timestamp"],
        job="kuailive",
        aliases={"live_stream_id": "live_id"},
        utc_offset_h=utc_offset_h,
    )
    spool.files += (file,)
    segment = file.numbers("segment_id", "the number of a segment, an integer from 0 on", most=2**31 - 1)
    file.refuse(segment != np.rint(segment), "segment_id", "the number of a segment, an integer from 0 on")
    kept = file.kept({"live_id": file.ids("live_stream_id"), "segment": segment, "end_ts_ms": file.times("timestamp")})
    kept = _in_a_room(kept, rooms, path.name, spool)
    row = kept["row"].to_numpy()
    for first, vectors, good in _vectors(path):
        lowest, highest = np.searchsorted(row, [first, first + len(good)])
        rows = kept.slice(lowest, highest - lowest)
        at = rows["row"].to_numpy() - first
        for index in at[~good[at]].tolist():
            file.note(first + index, _VECTOR, f"{WIDTH} numbers that float16 holds", "others, or fewer, or nothing")
        rows, at = rows.filter(pa.array(good[at])), at[good[at]]
        yield _spool_table(rows, vectors[at], path)


def _spool_table(rows: pa.Table, vectors: npt.NDArray[np.float16], path: Path) -> pa.Table:
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * WIDTH
    place = pc.binary_join_element_wise(f"{path.name} row ", rows["row"].cast(pa.string()), "")
    columns = {name: rows[name] for name in ("author_id", "live_id", "end_ts_ms", "start_ms")}
    columns |= {"segment": rows["segment"].cast(pa.int32()), "place": place}
    columns["embedding"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.ravel()))
    columns["model"] = pa.array([FOLDER] * len(rows), pa.string())
    return pa.table(columns).select(_SPOOLED.names).cast(_SPOOLED)


def _in_a_room(kept: pa.Table, rooms: pa.Table, name: str, spool: Spool) -> pa.Table:
    """The rows of a shard that lie within their room, with author_id and start_ms; the others are told by live."""
    room_ids, lives, end = rooms["live_id"].to_numpy(), kept["live_id"].to_numpy(), kept["end_ts_ms"].to_numpy()
    at = np.minimum(np.searchsorted(room_ids, lives), max(len(room_ids) - 1, 0))
    is_listed = room_ids[at] == lives if len(room_ids) else np.zeros(len(lives), bool)
    author, start, over = (
        rooms[column].to_numpy()[at] if len(room_ids) else end for column in ("author_id", "start_ms", "end_ms")
    )
    inside = is_listed & (start < end) & (end - SEGMENT_MS < over)
    for why, is_so in (("no such room", ~is_listed), ("they lie outside the time of the room", is_listed & ~inside)):
        for live, count in zip(*np.unique(lives[is_so], return_counts=True), strict=True):
            detail = f"{count} segment(s): {why}"
            spool.off_air += ({"key": f"{name} live {live}, {why}", "reason": "not_on_air", "detail": detail},)
    kept = kept.append_column("author_id", pa.array(author)).append_column("start_ms", pa.array(start))
    return kept.filter(pa.array(inside))


def _vectors(path: Path) -> Iterator[tuple[int, npt.NDArray[np.float16], Bools]]:
    """(number of the first row, vectors [rows, WIDTH], which of them are some) of a shard in bounded pieces."""
    try:
        source = pq.ParquetFile(path)
        if _VECTOR not in source.schema_arrow.names:
            raise ContractError(f"{path.name}: wanted column {_VECTOR}, got {', '.join(source.schema_arrow.names)}")
        first = 1
        for batch in source.iter_batches(_ROWS, columns=[_VECTOR]):
            vectors, good = _matrix(batch.column(0), path.name)
            yield first, vectors, good
            first += len(good)
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"{path.name}: {' '.join(str(error).split())}; download it again") from error


def _matrix(column: pa.Array, name: str) -> tuple[npt.NDArray[np.float16], Bools]:
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise ContractError(f"{name}, column {_VECTOR}: wanted lists of numbers, got {kind}; write it so")
    lists = column.cast(pa.large_list(kind.value_type))
    lengths: Ints = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    good = lengths == WIDTH
    numbers = lists.filter(pa.array(good)).flatten().cast(pa.float32())
    vectors = np.zeros((len(lists), WIDTH), np.float16)
    with np.errstate(over="ignore"):
        vectors[good] = numbers.fill_null(np.nan).to_numpy(zero_copy_only=False).reshape(-1, WIDTH)
    return vectors, good & np.isfinite(vectors).all(axis=1)


def _first_of_each(keys: pa.Table) -> Bools:
    """[rows] whether no row above is of the same segment."""
    live, segment = (keys[name].to_numpy() for name in ("live_id", "segment"))
    order = np.lexsort((segment, live))  # stable: equal keys stay in the order of the rows
    repeats = (live[order][1:] == live[order][:-1]) & (segment[order][1:] == segment[order][:-1])
    first = np.ones(len(live), bool)
    first[order[1:][repeats]] = False
    return first
