"""KuaiLive and KuaiLive-M3, once downloaded, as tables of the contract: real exposures, clicks and gifts.

An exposure belongs to a room that is on air, from its start until before its end; others land in `rejections`, and so
do rows with a cell that cannot be used. KuaiLive has no text, so its anchors hold category and operation tag alone,
and the titles' embeddings that come with it become `anchor_embeddings`; M3's anchors hold the titles, and the
embeddings of its segments become `segment_embeddings`. KuaiLive has no follows: a like stands in their place.
Memory: the exposures of the whole release, about 100 bytes each.
Run: python -m pipelines kuailive --config my.yaml --set kuailive.source=DIR
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.config import PathText
from pipelines.runtime.run import Run
from pipelines.semantics import embed
from pipelines.sources import kuailive_segments
from pipelines.sources.kuailive_files import Release, read_kuailive, read_m3
from pipelines.sources.kuailive_segments import Spool, spooled
from pipelines.sources.refusals import summary
from pipelines.sources.release_file import RUNNING
from pipelines.sources.rows import anchor_row, author_row, rows_by_day, to_table
from pipelines.sources.written import Written
from pipelines.tables import contract
from pipelines.tables.contract import ContractError

log = logging.getLogger(__name__)
STAGE = "kuailive"
RELEASES = {"kuailive": read_kuailive, "m3": read_m3}
TABLES = ("authors", "anchors", embed.TABLE, "users", "impressions", kuailive_segments.TABLE)
"""What it writes beside rejections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KuaiLiveConfig:
    """Where the release lies, and which one it is."""

    source: PathText = ""
    """Folder with the release's files."""
    release: str = "kuailive"
    """kuailive, or m3 for KuaiLive-M3."""
    long_view_s: float = 60.0
    """A view of at least so many seconds is a long one."""
    replace: bool = False
    """Whether a source of far fewer rows (storage.least_share) may replace what an earlier one made."""
    utc_offset_h: float = 0.0
    """Offset from UTC, in hours, of date-times that name no zone, as M3 has them: 0 reads them as the code of its
    authors does, 8 as the time of China. Numbers count from 1970 in UTC, whatever it says."""

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            raise ValueError(f"release: wanted one of {', '.join(RELEASES)}, got {self.release!r}")
        if self.long_view_s <= 0:
            raise ValueError(f"long_view_s: wanted more than 0, got {self.long_view_s}")
        if not abs(self.utc_offset_h) < 24:
            raise ValueError(f"utc_offset_h: wanted hours from -24 to 24, such as 8, got {self.utc_offset_h}")


def run(config: KuaiLiveConfig, run: Run) -> dict[str, Any]:
    """Writes users, authors, anchors, impressions and rejections, and takes away what an earlier run wrote beside them.

    Raises ContractError where a file, or every exposure, cannot be used.
    """
    release = RELEASES[config.release](config.source, config.long_view_s, config.utc_offset_h)
    for line in summary(release.files):
        log.warning("kuailive | %s", line)
    storage, parts = run.storage, [_on_air(rows, release.rooms, place) for place, rows in release.exposures.items()]
    order = [("ts_ms", "ascending"), ("user_id", "ascending"), ("live_id", "ascending")]
    exposures = pa.concat_tables([on_air for on_air, _ in parts]).sort_by(order)
    exposures = exposures.add_column(0, "impression_id", pa.array(np.arange(len(exposures), dtype=np.int64)))
    days = rows_by_day(exposures, "ts_ms")
    if not days:
        why = "".join(f"; {line}" for line in summary(release.files)[:1])
        raise ContractError(f"kuailive.source {config.source}: no exposure falls in a room that is on air{why}")
    refused = {days[0][0]: [row for file in release.files for row in file.refused]}
    for day, rows in rows_by_day(pa.concat_tables([off_air for _, off_air in parts]), "ts_ms"):
        refused.setdefault(day, []).extend(rows.drop_columns(["ts_ms"]).to_pylist())
    written, guard = Written(storage, STAGE), run.guard(STAGE, config.replace)
    with spooled(release.segment_shards, release.rooms, config.utc_offset_h, run.folder) as spool:
        written.check(guard, "impressions", len(exposures))
        written.check(guard, kuailive_segments.TABLE, spool.rows)
        _write_rooms(written, release)
        written.write("users", days[0][0], release.users)
        for day, rows in days:
            written.write("impressions", day, rows)
            log.info("kuailive | %s | %d impressions", day, len(rows))
        embedded, of_segments = _write_segments(written, spool)
    refused[days[0][0]] += of_segments
    written.finish(TABLES, refused)
    return {
        "impressions": len(exposures),
        "segment_embeddings": embedded,
        "rejections": sum(map(len, refused.values())),
        "days": [day for day, _ in days],
    }


def _write_segments(written: Written, spool: Spool) -> tuple[int, list[dict[str, str]]]:
    """Writes all days of a spool. Returns how many rows, and what was refused."""
    for line in summary(spool.files):
        log.warning("kuailive | %s", line)
    repeated: list[dict[str, str]] = []
    for day in spool.days:
        written.write(kuailive_segments.TABLE, day, spool.read(day, repeated))
        log.info("kuailive | lives of %s | their segments' embeddings are written", day)
    refused = [*spool.off_air, *(row for file in spool.files for row in file.refused), *repeated]
    return spool.rows - len(repeated), refused


def _on_air(exposures: pa.Table, rooms: pa.Table, place: str) -> tuple[pa.Table, pa.Table]:
    """The exposures whose room is on air (start <= t < end), and the others as rows of `rejections` with their time."""
    room_ids, lives, ts = rooms["live_id"].to_numpy(), exposures["live_id"].to_numpy(), exposures["ts_ms"].to_numpy()
    at = np.minimum(np.searchsorted(room_ids, lives), max(len(room_ids) - 1, 0))
    has_room = room_ids[at] == lives if len(room_ids) else np.zeros(len(lives), bool)
    start, end = (rooms[name].to_numpy()[at] if len(room_ids) else ts for name in ("start_ms", "end_ms"))
    inside = has_room & (start <= ts) & (ts < end)
    lost = exposures.filter(pa.array(~inside))
    said = {name: lost[name].cast(pa.string()) for name in ("row", "user_id", "live_id", "ts_ms")}
    said |= {name: pa.array(values[~inside]).cast(pa.string()) for name, values in (("start", start), ("end", end))}
    key = pc.binary_join_element_wise(
        f"{place} ", said["row"], ", user ", said["user_id"], ", live ", said["live_id"], ", at ", said["ts_ms"], ""
    )
    until = pc.if_else(pa.array(end[~inside] == RUNNING), "it ends", said["end"])
    hours = pc.binary_join_element_wise("the room is on air from ", said["start"], " until before ", until, "")
    why = pc.if_else(pa.array(has_room[~inside]), hours, "no such room")
    reason = pa.array(["not_on_air"]).take(pa.array(np.zeros(len(lost), np.int8)))
    refused = pa.table({"ts_ms": lost["ts_ms"], "key": key, "reason": reason, "detail": why})
    return exposures.filter(pa.array(inside)).drop_columns(["row"]), refused


def _write_rooms(written: Written, release: Release) -> None:
    """Authors, anchors and title embeddings on the day their room began; of an author's rooms the newest one."""
    rooms = release.rooms.sort_by([("start_ms", "ascending"), ("live_id", "ascending")])
    for day, rooms_of_day in rows_by_day(rooms, "start_ms"):
        newest = {row["author_id"]: row for row in rooms_of_day.to_pylist()}
        authors = [_author(row, release.tags, day) for row in newest.values()]
        written.write("authors", day, to_table("authors", authors))
        written.write("anchors", day, to_table("anchors", [_anchor(row, release.tags) for row in newest.values()]))
        if release.title_vectors is not None:
            named = [row for row in newest.values() if row["title_row"] >= 0]
            written.write(embed.TABLE, day, _embedded(named, release.title_vectors))


def _author(room: dict[str, Any], tags: Mapping[int, str], day: str) -> dict[str, Any]:
    tag = tags.get(room["author_id"])
    return author_row(room["author_id"], "", room["category"], [tag] if tag else [], day)


def _anchor(room: dict[str, Any], tags: Mapping[int, str]) -> dict[str, Any]:
    topics = (room["category"], tags.get(room["author_id"]))
    phrases = {"theme": [room["title"]] if room["title"] else [], "topic": [text for text in topics if text]}
    return anchor_row(room["author_id"], phrases, "kuailive")


def _embedded(rooms: list[dict[str, Any]], vectors: npt.NDArray[np.float32]) -> pa.Table:
    columns = {
        "author_id": [room["author_id"] for room in rooms],
        "embedding": [np.asarray(vectors[room["title_row"]], np.float32) for room in rooms],
        "model": ["title_embeddings"] * len(rooms),
    }
    return pa.table(columns, schema=contract.spec(embed.TABLE).schema)
