"""KuaiLive and KuaiLive-M3 as files, and the one form in which both become tables."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.runtime.config import ConfigError
from pipelines.sources import kuailive_segments
from pipelines.sources.refusals import Bools, Floats, Ints, Refusals
from pipelines.sources.release_file import RUNNING, ReleaseFile
from pipelines.sources.rows import coded
from pipelines.tables import contract
from pipelines.tables.contract import PROFILE, TASKS_COLUMNS, ContractError

log = logging.getLogger(__name__)
_PAIR = ("user_id", "live_id")
_IDS = (*_PAIR, "author_id")
_LIFE = ("start_timestamp", "end_timestamp")
_WATCHED = "milliseconds watched, 0 or more"
_COUNT = "a count, 0 or more"
_ABOUT = {"age_band": "age", "gender": "gender", "region": "country", "device": "device_brand"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A release in the one form that becomes tables."""

    exposures: Mapping[str, pa.Table]
    """What a row is called ("click.csv line") -> user_id, author_id, live_id, ts_ms, labels, watch_time_s, row."""
    rooms: pa.Table
    """live_id (unique, in order), author_id, start_ms, end_ms (RUNNING = not ended), title, category (null = none),
    title_row."""
    users: pa.Table
    """Rows of the contract's `users`: everyone who is listed or was shown something."""
    tags: Mapping[int, str]
    """Operation tag of authors that have one."""
    title_vectors: npt.NDArray[np.float32] | None
    """Embeddings of titles; `rooms` says in its column title_row which one is a room's (-1 = none)."""
    files: Sequence[Refusals]
    """What was read, with the rows that were refused."""
    segment_shards: Sequence[Path] = ()
    """Files with embeddings of segments: see kuailive_segments.py."""


class _Folder:
    """The files of a release, in the order in which they were opened."""

    def __init__(self, source: str, utc_offset_h: float) -> None:
        self._path, self._utc_offset_h = Path(source), utc_offset_h
        self.opened: list[ReleaseFile] = []
        if not source or not self._path.is_dir():
            raise ConfigError(f"kuailive.source: wanted the folder of a release, got {source!r}; name it by --set")

    def open(self, name: str, columns: Sequence[str], texts: Sequence[str] = ()) -> ReleaseFile:
        """A file of which those columns are wanted; `author_id` may be called streamer_id."""
        if not (self._path / name).is_file():
            raise ContractError(
                f"kuailive.source: {name} is missing in {self._path}; download the whole release, or correct "
                "kuailive.release (kuailive, or m3)"
            )
        file = ReleaseFile(
            self._path / name,
            columns,
            job="kuailive",
            texts=texts,
            aliases={"author_id": "streamer_id"},
            utc_offset_h=self._utc_offset_h,
        )
        self.opened.append(file)
        return file

    def shards(self, name: str) -> list[Path]:
        """The Parquet files of a folder that a download may lack, in order."""
        return sorted((self._path / name).glob("*.parquet"))

    def vectors(self, name: str) -> npt.NDArray[np.float32]:
        """An array file, mapped. Raises ContractError where it is missing or cannot be read."""
        if not (self._path / name).is_file():
            raise ContractError(f"kuailive.source: {name} is missing in {self._path}; download the whole release")
        try:
            mapped: npt.NDArray[np.float32] = np.load(self._path / name, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ContractError(f"{name}: {' '.join(str(error).split())}; download it again") from error
        if mapped.ndim != 2:
            raise ContractError(f"{name}: wanted one row per title, got shape {mapped.shape}; download it again")
        return mapped


def read_kuailive(source: str, long_view_s: float, utc_offset_h: float) -> Release:
    """KuaiLive. Raises ConfigError or ContractError where a file cannot be used."""
    folder = _Folder(source, utc_offset_h)
    file = folder.open("click.csv", [*_IDS, "timestamp", "watch_live_time"])
    clicks = file.kept(_moments(file, "timestamp") | {"watched_s": file.numbers("watch_live_time", _WATCHED) / 1000})
    clicks = clicks.sort_by([(name, "ascending") for name in (*_PAIR, "ts_ms")])
    exposures = {
        file.place: _entered(
            clicks, _followed_by(clicks, folder, "like.csv"), _followed_by(clicks, folder, "gift.csv"), long_view_s
        )
    }
    shown = folder.open("negative.csv", [*_IDS, "timestamp"])
    exposures[shown.place] = _not_entered(shown.kept(_moments(shown, "timestamp")))
    vectors = folder.vectors("title_embeddings.npy")
    return Release(
        exposures=exposures,
        rooms=_rooms_of_dates(folder, len(vectors)),
        users=_users(exposures, folder.open("user.csv", ["user_id"], list(_ABOUT.values()))),
        tags=_tags(folder.open("streamer.csv", ["author_id"], ["live_operation_tag"])),
        title_vectors=vectors,
        files=folder.opened,
    )


def read_m3(source: str, long_view_s: float, utc_offset_h: float) -> Release:
    """KuaiLive-M3. Raises ConfigError or ContractError where a file cannot be used."""
    folder = _Folder(source, utc_offset_h)
    started, follows, gifts = "live_play_start_timestamp", "follow_author_cnt", "send_gift_num"
    file = folder.open("live_interaction.csv", [*_IDS, started, "play_duration", follows, gifts])
    entered = file.kept(
        _moments(file, started)
        | {"watched_s": file.numbers("play_duration", _WATCHED) / 1000}
        | {column: file.numbers(column, _COUNT, blank=0) for column in (follows, gifts)}
    )
    shown = folder.open("live_show.parquet", [*_IDS, "show_timestamp"])
    exposures = {
        file.place: _entered(entered, entered[follows].to_numpy() > 0, entered[gifts].to_numpy() > 0, long_view_s),
        shown.place: _not_entered(shown.kept(_moments(shown, "show_timestamp"))),
    }
    rooms = folder.open("live_room_meta.parquet", ["live_id", "author_id", *_LIFE], ["live_name"])
    listed = rooms.kept(_lives(rooms) | {"title": rooms.texts("live_name")})
    return Release(
        exposures=exposures,
        rooms=_joined(listed.sort_by([("live_id", "ascending"), ("start_ms", "ascending")])),
        users=_users(exposures),
        tags={},
        title_vectors=None,
        files=folder.opened,
        segment_shards=folder.shards(kuailive_segments.FOLDER),
    )


def _moments(file: ReleaseFile, time: str) -> dict[str, Any]:
    """Who, where and when, in the file's rows."""
    return {name: file.ids(name) for name in _IDS} | {"ts_ms": file.times(time)}


def _followed_by(clicks: pa.Table, folder: _Folder, name: str) -> Bools:
    """For each click, whether an event of that file came before the same user's next click on the same live.

    An event before the first click of its pair belongs to none.
    """
    file = folder.open(name, [*_IDS, "timestamp"])
    later = file.kept(_moments(file, "timestamp"))
    both = pa.concat_tables([rows.select([*_PAIR, "ts_ms"]) for rows in (clicks, later)])
    user, live, ts = (np.unique(both[name].to_numpy(), return_inverse=True)[1] for name in both.column_names)
    pair = np.unique(user * (live.max(initial=0) + 1) + live, return_inverse=True)[1]
    # One sortable number per (pair, time); both are dense, so that it stays below 2 ** 63.
    key = pair * (ts.max(initial=0) + 1) + ts
    click_key, event_key = key[: len(clicks)], key[len(clicks) :]
    order = np.argsort(click_key, kind="stable")
    at = np.searchsorted(click_key[order], event_key, side="right") - 1
    result = np.zeros(len(clicks), bool)
    if len(clicks):
        newest = order[np.maximum(at, 0)]
        result[newest[(at >= 0) & (pair[newest] == pair[len(clicks) :])]] = True
    return result


def _entered(rows: pa.Table, follow: Bools, gift: Bools, long_view_s: float) -> pa.Table:
    watched_s = rows["watched_s"].to_numpy()
    labels = {"click": np.ones(len(rows), bool), "follow": follow, "long_view": watched_s >= long_view_s, "gift": gift}
    return _labelled(rows, watched_s, labels)


def _not_entered(rows: pa.Table) -> pa.Table:
    return _labelled(rows, np.zeros(len(rows)), dict.fromkeys(TASKS_COLUMNS, np.zeros(len(rows), bool)))


def _labelled(rows: pa.Table, watched_s: Floats, labels: Mapping[str, Bools]) -> pa.Table:
    impressions = contract.schema_with("impressions", TASKS_COLUMNS[1:])
    schema = pa.schema([field for field in impressions if field.name != "impression_id"]).append(
        pa.field("row", pa.int64())
    )
    columns = {name: rows[name] for name in (*_IDS, "ts_ms", "row")} | {"watch_time_s": watched_s.astype(np.float32)}
    columns |= {name: values.astype(np.uint8) for name, values in labels.items()}
    return pa.table(columns).select(schema.names).cast(schema)


def _lives(file: ReleaseFile) -> dict[str, Any]:
    start, end = _LIFE
    ids = {name: file.ids(name) for name in ("live_id", "author_id")}
    return ids | {"start_ms": file.times(start), "end_ms": file.times(end, may_run=True)}


def _rooms_of_dates(folder: _Folder, titles: int) -> pa.Table:
    columns, texts = ["live_id", "author_id", *_LIFE, "live_name_id"], ["p_date", "live_content_category"]
    file = folder.open("room.csv", columns, texts)
    more = {"p_date": file.texts("p_date"), "category": file.texts("live_content_category")}
    rows = _title_rows(file.ids("live_name_id", blank=-1), titles)
    rooms = file.kept(_lives(file) | more | {"title_row": rows})
    return _joined(rooms.sort_by([("live_id", "ascending"), ("p_date", "ascending")]))


def _title_rows(name_ids: Ints, count: int) -> Ints:
    """Row of each room's title among the vectors: the k-th smallest id has row k, and -1 means no title."""
    distinct = np.unique(name_ids[name_ids != -1])
    if len(distinct) != count:
        raise ContractError(
            f"title_embeddings.npy: wanted {len(distinct)} rows, one per distinct live_name_id, got {count}; "
            "download it and room.csv again"
        )
    return np.where(name_ids == -1, -1, np.searchsorted(distinct, name_ids))


def _joined(rooms: pa.Table) -> pa.Table:
    """One row per live. A room that is listed on several dates is on air from its first start to its last end.

    It still runs where what is listed of its last start has no end. Its texts are those of the first date. `rooms` are
    sorted by live, then by date.
    """
    live, start, end = (rooms[name].to_numpy() for name in ("live_id", "start_ms", "end_ms"))
    is_first = np.ones(len(live), bool)
    is_first[1:] = live[1:] != live[:-1]
    at = np.flatnonzero(is_first)
    last_start = np.maximum.reduceat(start, at)[np.cumsum(is_first) - 1] if len(at) else start
    has_ended = np.logical_or.reduceat((end != RUNNING) & (start == last_start), at)
    last_end = np.maximum.reduceat(np.where(end == RUNNING, 0, end), at)
    none = pa.nulls(len(at), pa.string())
    first = rooms.take(pa.array(at))
    columns = {name: first[name] for name in ("live_id", "author_id")}
    columns |= {"start_ms": np.minimum.reduceat(start, at), "end_ms": np.where(has_ended, last_end, RUNNING)}
    columns |= {name: first[name] if name in first.column_names else none for name in ("title", "category")}
    rows = first["title_row"] if "title_row" in first.column_names else np.full(len(at), -1)
    return pa.table(columns | {"title_row": rows})


def _users(exposures: Mapping[str, pa.Table], people: ReleaseFile | None = None) -> pa.Table:
    """`users` with each column's values as codes, in the order of the values; -1 where there is none."""
    everyone = np.unique(np.concatenate([rows["user_id"].to_numpy() for rows in exposures.values()]))
    profile = {name: np.full(len(everyone), -1, np.int16) for name in PROFILE}
    if people:
        ids = people.ids("user_id")
        people.refuse_repeated(ids, "user_id")
        listed = people.kept({"user_id": ids} | {name: people.texts(column) for name, column in _ABOUT.items()})
        shown, everyone = everyone, np.union1d(everyone, listed["user_id"].to_numpy())
        if unknown := len(everyone) - len(listed):
            log.warning("%s does not list %d of %d user(s): nothing is known of them", people.name, unknown, len(shown))
        at = np.searchsorted(everyone, listed["user_id"].to_numpy())
        for name in PROFILE:
            profile[name] = np.full(len(everyone), -1, np.int16)
            profile[name][at], _ = coded(listed[name].to_pylist())
    return pa.table({"user_id": everyone, **profile})


def _tags(file: ReleaseFile) -> dict[int, str]:
    """Operation tag of authors that have one."""
    rows = file.kept({"author_id": file.ids("author_id"), "tag": file.texts("live_operation_tag")}).to_pylist()
    return {row["author_id"]: row["tag"] for row in rows if row["tag"]}
