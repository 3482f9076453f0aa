"""KuaiLive and KuaiLive-M3, once downloaded, as tables of the contract: real exposures, clicks and gifts.

Both end as one form: exposures with their labels, and rooms. An exposure belongs to a room that is on air, from its
start until before its end; others land in `rejections`. KuaiLive has no text, so its anchors hold category and
operation tag alone, and the titles' embeddings that come with it become `anchor_embeddings`; M3's anchors hold the
titles. KuaiLive has no follows: a like stands in their place.
Memory: the exposures of the whole release, about 100 bytes each.
Run: python -m pipelines kuailive --config my.yaml --set kuailive.source=DIR
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from models.config import PathText
from pipelines.runtime.config import ConfigError
from pipelines.runtime.run import Run
from pipelines.semantics import embed
from pipelines.sources.rows import anchor_row, author_row, coded, rows_by_day, to_table
from pipelines.tables import contract, rejections
from pipelines.tables.contract import PROFILE, TASKS_COLUMNS, ContractError
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
RELEASES = ("kuailive", "m3")
_PAIR = ("user_id", "live_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class KuaiLiveConfig:
    """Where the release lies, and which one it is."""

    source: PathText = ""
    """Folder with the release's files."""
    release: str = "kuailive"
    """kuailive, or m3 for KuaiLive-M3."""
    long_view_s: float = 60.0
    """A view of at least so many seconds is a long one."""

    def __post_init__(self) -> None:
        if self.release not in RELEASES:
            raise ValueError(f"release: wanted one of {', '.join(RELEASES)}, got {self.release!r}")
        if self.long_view_s <= 0:
            raise ValueError(f"long_view_s: wanted more than 0, got {self.long_view_s}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release in the one form that becomes tables."""

    exposures: pa.Table
    """user_id, author_id, live_id, ts_ms, the four labels, watch_time_s."""
    rooms: pa.Table
    """live_id (unique), author_id, start_ms, end_ms (null = running), title, category (null = none), title_row."""
    users: pa.Table
    """Rows of the contract's `users`."""
    tags: dict[int, str]
    """Operation tag of authors that have one."""
    title_vectors: npt.NDArray[np.float32] | None = None
    """Embeddings of titles; `rooms` says in its column title_row which one is a room's (-1 = none)."""


def run(config: KuaiLiveConfig, run: Run) -> dict[str, Any]:
    """Writes users, authors, anchors, impressions and rejections."""
    release = {"kuailive": _kuailive, "m3": _m3}[config.release](_Folder(config.source), config)
    storage = run.storage
    exposures, refused = _on_air(release)
    order = [("ts_ms", "ascending"), ("user_id", "ascending"), ("live_id", "ascending")]
    exposures = exposures.sort_by(order)
    exposures = exposures.add_column(0, "impression_id", pa.array(np.arange(len(exposures), dtype=np.int64)))
    days = rows_by_day(exposures, "ts_ms")
    if not days:
        raise ContractError(f"kuailive.source {config.source}: no exposure falls in a room that is on air")
    _write_rooms(storage, release)
    storage.write("users", days[0][0], [release.users])
    for day, rows in days:
        storage.write("impressions", day, [rows])
        log.info("kuailive | %s | %d impressions", day, len(rows))
    for day, rows in rows_by_day(refused, "ts_ms"):
        rejections.replace(storage, day, "kuailive", rows.drop_columns(["ts_ms"]).to_pylist())
    return {"impressions": len(exposures), "rejections": len(refused), "days": [day for day, _ in days]}


class _Folder:
    """The release's files, with their columns checked."""

    def __init__(self, source: str) -> None:
        self._path = Path(source)
        if not source or not self._path.is_dir():
            raise ConfigError(f"kuailive.source: wanted the folder of a release, got {source!r}; name it by --set")

    def vectors(self, name: str) -> npt.NDArray[np.float32]:
        """An array file, mapped. Raises ContractError where it is missing."""
        if not (self._path / name).is_file():
            raise ContractError(f"kuailive.source: {name} is missing in {self._path}; download the whole release")
        mapped: npt.NDArray[np.float32] = np.load(self._path / name, mmap_mode="r", allow_pickle=False)
        return mapped

    def read(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Those columns; `author_id` may be called streamer_id. Raises ContractError where something is missing."""
        path = self._path / name
        if not path.is_file():
            raise ContractError(f"kuailive.source: {name} is missing in {self._path}; download the whole release")
        table = pacsv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
        if "author_id" in columns and "author_id" not in table.column_names:
            names = ["author_id" if column == "streamer_id" else column for column in table.column_names]
            table = table.rename_columns(names)
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            raise ContractError(f"{name}: wanted column {missing[0]}, got {', '.join(table.column_names)}")
        return table.select(list(columns))


def _kuailive(folder: _Folder, config: KuaiLiveConfig) -> Release:
    keys = ["user_id", "live_id", "author_id", "timestamp"]
    clicks = folder.read("click.csv", [*keys, "watch_live_time"]).sort_by([(k, "ascending") for k in (*_PAIR, keys[3])])
    shown = folder.read("negative.csv", keys)
    watched_s = clicks["watch_live_time"].to_numpy() / 1000
    labels = {
        "click": np.ones(len(clicks), np.uint8),
        "follow": _followed_by(clicks, folder.read("like.csv", keys)),
        "long_view": (watched_s >= config.long_view_s).astype(np.uint8),
        "gift": _followed_by(clicks, folder.read("gift.csv", keys)),
    }
    people = folder.read("user.csv", ["user_id", "age", "gender", "country", "device_brand"])
    streamers = folder.read("streamer.csv", ["author_id", "live_operation_tag"]).to_pylist()
    rooms = folder.read(
        "room.csv",
        [
            *("p_date", "live_id", "author_id", "start_timestamp", "end_timestamp"),
            *("live_content_category", "live_name_id"),
        ],
    ).sort_by([("live_id", "ascending"), ("p_date", "ascending")])
    vectors = folder.vectors("title_embeddings.npy")
    title_row = _title_rows(rooms["live_name_id"].to_numpy(), len(vectors))
    return Release(
        exposures=pa.concat_tables([_labelled(clicks, labels, watched_s), _not_entered(shown, "timestamp")]),
        rooms=_rooms(
            rooms, "start_timestamp", "end_timestamp", category=rooms["live_content_category"], title_row=title_row
        ),
        users=_users(people, age_band="age", gender="gender", region="country", device="device_brand"),
        tags={row["author_id"]: row["live_operation_tag"] for row in streamers if row["live_operation_tag"]},
        title_vectors=vectors,
    )


def _m3(folder: _Folder, config: KuaiLiveConfig) -> Release:
    entered = folder.read(
        "live_interaction.csv",
        [
            *("user_id", "author_id", "live_id", "live_play_start_timestamp"),
            *("play_duration", "send_gift_num", "follow_author_cnt"),
        ],
    )
    entered = entered.rename_columns([*entered.column_names[:3], "timestamp", *entered.column_names[4:]])
    shown = folder.read("live_show.parquet", ["live_id", "user_id", "author_id", "show_timestamp"])
    watched_s = entered["play_duration"].to_numpy() / 1000
    labels = {
        "click": np.ones(len(entered), np.uint8),
        "follow": (entered["follow_author_cnt"].to_numpy() > 0).astype(np.uint8),
        "long_view": (watched_s >= config.long_view_s).astype(np.uint8),
        "gift": (entered["send_gift_num"].to_numpy() > 0).astype(np.uint8),
    }
    rooms = folder.read(
        "live_room_meta.parquet", ["live_id", "author_id", "live_name", "start_timestamp", "end_timestamp"]
    )
    rooms = rooms.sort_by([("live_id", "ascending"), ("start_timestamp", "ascending")])
    ids = pa.table({"user_id": pc.unique(pa.chunked_array([*entered["user_id"].chunks, *shown["user_id"].chunks]))})
    return Release(
        exposures=pa.concat_tables([_labelled(entered, labels, watched_s), _not_entered(shown, "show_timestamp")]),
        rooms=_rooms(rooms, "start_timestamp", "end_timestamp", title=rooms["live_name"]),
        users=_users(ids),
        tags={},
    )


def _followed_by(clicks: pa.Table, later: pa.Table) -> npt.NDArray[np.uint8]:
    """For each click, whether such an event came before the same user's next click on the same live.

    An event before the first click of its pair belongs to none.
    """
    both = pa.concat_tables([clicks.select([*_PAIR, "timestamp"]), later.select([*_PAIR, "timestamp"])])
    user, live = (np.unique(both[name].to_numpy(), return_inverse=True)[1] for name in _PAIR)
    pair = np.unique(user * (live.max(initial=0) + 1) + live, return_inverse=True)[1]
    ts = both["timestamp"].to_numpy()
    first = ts.min(initial=0)
    # One sortable number per (pair, time); pairs are dense, so that it stays below 2 ** 63.
    key = pair * (ts.max(initial=0) - first + 1) + (ts - first)
    click_key, event_key = key[: len(clicks)], key[len(clicks) :]
    order = np.argsort(click_key, kind="stable")
    at = np.searchsorted(click_key[order], event_key, side="right") - 1
    newest = order[np.maximum(at, 0)]
    has_click = (at >= 0) & (pair[newest] == pair[len(clicks) :]) if len(clicks) else np.zeros(len(later), bool)
    result = np.zeros(len(clicks), np.uint8)
    result[newest[has_click]] = 1
    return result


def _labelled(entered: pa.Table, labels: dict[str, Any], watched_s: npt.NDArray[np.float64]) -> pa.Table:
    columns = {"user_id": entered["user_id"], "author_id": entered["author_id"], "live_id": entered["live_id"]}
    columns |= {"ts_ms": entered["timestamp"]}
    schema = _exposure_schema()
    return pa.table(columns | labels | {"watch_time_s": watched_s.astype(np.float32)}).select(schema.names).cast(schema)


def _not_entered(shown: pa.Table, timestamp: str) -> pa.Table:
    nothing = np.zeros(len(shown), np.uint8)
    renamed = pa.table(
        {name: shown[name] for name in ("user_id", "author_id", "live_id")} | {"timestamp": shown[timestamp]}
    )
    return _labelled(renamed, dict.fromkeys(TASKS_COLUMNS, nothing), nothing.astype(np.float64))


def _exposure_schema() -> pa.Schema:
    fields = contract.schema_with("impressions", TASKS_COLUMNS[1:])
    return pa.schema([fields.field(name) for name in fields.names if name != "impression_id"])


def _title_rows(name_ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Row of each room's title among the vectors: the k-th smallest id has row k, and -1 means no title."""
    distinct = np.unique(name_ids[name_ids != -1])
    if len(distinct) != count:
        raise ContractError(
            f"title_embeddings.npy: wanted {len(distinct)} rows, one per distinct live_name_id, got {count}"
        )
    return np.where(name_ids == -1, -1, np.searchsorted(distinct, name_ids))


def _rooms(rooms: pa.Table, start: str, end: str, **texts: Any) -> pa.Table:
    """One row per live: of a room that is listed on several dates the first one. Sorted by live_id before."""
    ids = rooms["live_id"].to_numpy()
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    none = pa.nulls(len(rooms), pa.string())
    table = pa.table(
        {
            "live_id": rooms["live_id"],
            "author_id": rooms["author_id"],
            "start_ms": rooms[start],
            "end_ms": rooms[end],
            "title": texts.get("title", none),
            "category": texts.get("category", none),
            "title_row": texts.get("title_row", np.full(len(rooms), -1)),
        }
    )
    return table.filter(pa.array(first))


def _users(people: pa.Table, **columns: str) -> pa.Table:
    """`users` with each column's values as codes, in the order of the values; -1 where there is none."""
    people = people.sort_by("user_id")
    rows: dict[str, Any] = {"user_id": people["user_id"]}
    for name in PROFILE:
        shown = people[columns[name]].to_pylist() if name in columns else [None] * len(people)
        rows[name], _ = coded(shown)
    return pa.table(rows)


def _on_air(release: Release) -> tuple[pa.Table, pa.Table]:
    """The exposures whose room is on air (start <= t < end), and the others as rows of `rejections`."""
    rooms, exposures = release.rooms, release.exposures
    room_ids, lives, ts = rooms["live_id"].to_numpy(), exposures["live_id"].to_numpy(), exposures["ts_ms"].to_numpy()
    at = np.minimum(np.searchsorted(room_ids, lives), max(len(room_ids) - 1, 0))
    has_room = room_ids[at] == lives if len(room_ids) else np.zeros(len(lives), bool)
    start = rooms["start_ms"].to_numpy()[at]
    end = pc.fill_null(rooms["end_ms"], np.iinfo(np.int64).max).to_numpy()[at]
    inside = has_room & (start <= ts) & (ts < end)
    lost = exposures.filter(pa.array(~inside)).to_pylist()
    rows = []
    for row, index in zip(lost, np.flatnonzero(~inside).tolist(), strict=True):
        why = f"the room is on air from {start[index]} until before {end[index]}" if has_room[index] else "no such room"
        key = f"user {row['user_id']}, live {row['live_id']}, at {row['ts_ms']}, row {index}"
        rows.append({"ts_ms": row["ts_ms"], "key": key, "reason": "not_on_air", "detail": why})
    schema = pa.schema([("ts_ms", pa.int64()), *((name, pa.string()) for name in ("key", "reason", "detail"))])
    return exposures.filter(pa.array(inside)), pa.Table.from_pylist(rows, schema=schema)


def _write_rooms(storage: Storage, release: Release) -> None:
    """Authors, anchors and title embeddings on the day their room began; of an author's rooms the newest one."""
    rooms = release.rooms.sort_by([("start_ms", "ascending"), ("live_id", "ascending")])
    for day, rooms_of_day in rows_by_day(rooms, "start_ms"):
        newest = {row["author_id"]: row for row in rooms_of_day.to_pylist()}
        authors = [_author(row, release.tags, day) for row in newest.values()]
        storage.write("authors", day, [to_table("authors", authors)])
        storage.write("anchors", day, [to_table("anchors", [_anchor(row, release.tags) for row in newest.values()])])
        if release.title_vectors is not None:
            named = [row for row in newest.values() if row["title_row"] >= 0]
            storage.write(embed.TABLE, day, [_embedded(named, release.title_vectors)])


def _author(room: dict[str, Any], tags: dict[int, str], day: str) -> dict[str, Any]:
    tag = tags.get(room["author_id"])
    return author_row(room["author_id"], "", room["category"], [tag] if tag else [], day)


def _anchor(room: dict[str, Any], tags: dict[int, str]) -> dict[str, Any]:
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
