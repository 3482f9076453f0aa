"""KuaiLive and KuaiLive-M3 from small files made to their schemas, with the traps that real copies hold."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipelines.runtime.config import ConfigError
from pipelines.samples import examples
from pipelines.semantics import embed
from pipelines.settings import Settings
from pipelines.sources import kuailive
from pipelines.sources.kuailive import KuaiLiveConfig
from pipelines.tables import rejections
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, StorageConfig
from tests.pipelines.jobs import run_job

DAY = 86_400_000
D1, D2 = 1_746_403_200_000, 1_746_403_200_000 + DAY  # 2025-05-05 and -06, UTC
H = 3_600_000
KEYS = "user_id,live_id,streamer_id,timestamp"


def _table(names: str, *rows: tuple[Any, ...]) -> pa.Table:
    return pa.table(dict(zip(names.split(), map(list, zip(*rows, strict=True)), strict=True)))


def _write(folder: Path, name: str, table: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (pacsv.write_csv if name.endswith(".csv") else pq.write_table)(table, folder / name)


def _kuailive(folder: Path, author: str = "streamer_id") -> str:
    """Rooms 11 (twice, on two dates) and 12 of streamer 1, 21 of streamer 2; user 5 clicks three times."""
    keys = f"user_id live_id {author} timestamp"
    _write(folder, "click.csv", _table(
        f"{keys} watch_live_time",
        (5, 11, 1, D1 + H, 90_000), (5, 11, 1, D1 + 2 * H, 1_000),
        (6, 21, 2, D2 + H, 61_000), (6, 12, 1, D2 + 4 * H, 5),
    ))  # fmt: skip
    _write(folder, "negative.csv", _table(keys, (5, 21, 2, D2 + H), (6, 99, 2, D1)))
    _write(folder, "like.csv", _table(keys, (6, 21, 2, D2 + H + 5)))
    # The first gift comes before any click of its pair; the second between the two clicks.
    _write(folder, "gift.csv", _table(f"{keys} gift_price", (5, 11, 1, D1, 3), (5, 11, 1, D1 + H + 9, 3)))
    _write(folder, "comment.csv", _table(keys, (5, 11, 1, D1 + H)))
    _write(folder, "room.csv", _table(
        f"p_date live_id {author} live_type start_timestamp end_timestamp live_content_category live_name_id",
        (20250506, 11, 1, 1, D1, D1 + 9 * H, "late", 900),
        (20250505, 11, 1, 1, D1, D1 + 9 * H, "shop", 700),
        (20250506, 12, 1, 1, D2, D2 + 4 * H, "chat", -1),
        (20250506, 21, 2, 1, D2, D2 + 9 * H, "game", 300),
    ))  # fmt: skip
    _write(folder, "user.csv", _table(
        "user_id age gender country device_brand", (6, "24-30", "M", "CN", "a"), (5, "18-23", "F", "CN", "b")
    ))  # fmt: skip
    _write(folder, "streamer.csv", _table(f"{author} live_operation_tag", (1, "music"), (2, None)))
    np.save(folder / "title_embeddings.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    return str(folder)


def _settings(root: Path, source: str, release: str = "kuailive", utc_offset_h: float = 0.0) -> Settings:
    return Settings(
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        kuailive=KuaiLiveConfig(source=source, release=release, utc_offset_h=utc_offset_h),
    )


def _labels(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(row[name] for name in ("user_id", "live_id", "click", "follow", "long_view", "gift"))


@pytest.mark.parametrize("author", ["streamer_id", "author_id"])
def test_clicks_and_exposures_become_impressions_with_labels(tmp_path: Path, author: str) -> None:
    settings = _settings(tmp_path, _kuailive(tmp_path / "in", author))
    counts = run_job(kuailive, settings)
    storage = Storage.open(settings.storage.root)
    assert counts == {"impressions": 4, "segment_embeddings": 0, "rejections": 2, "days": ["2025-05-05", "2025-05-06"]}
    rows = storage.read_days("impressions", counts["days"]).to_pylist()
    assert [_labels(row) for row in rows] == [
        (5, 11, 1, 0, 1, 1), (5, 11, 1, 0, 0, 0), (5, 21, 0, 0, 0, 0), (6, 21, 1, 1, 1, 0)
    ]  # fmt: skip
    assert [row["author_id"] for row in rows] == [1, 1, 2, 2]
    assert [row["watch_time_s"] for row in rows] == [90.0, 1.0, 0.0, 61.0]
    assert [row["impression_id"] for row in rows] == [0, 1, 2, 3]


def test_availability_is_half_open_and_unknown_rooms_are_rejected(tmp_path: Path) -> None:
    settings = _settings(tmp_path, _kuailive(tmp_path / "in"))
    run_job(kuailive, settings)
    storage = Storage.open(settings.storage.root)
    (early,) = rejections.of_stage(storage, "2025-05-05", "kuailive").to_pylist()
    (late,) = rejections.of_stage(storage, "2025-05-06", "kuailive").to_pylist()
    assert early["reason"] == late["reason"] == "not_on_air"
    assert "live 99" in early["key"] and early["detail"] == "no such room"
    assert "live 12" in late["key"] and str(D2 + 4 * H) in late["detail"]  # at the very end: no longer on air


def test_a_room_on_two_dates_counts_once_and_users_are_codes(tmp_path: Path) -> None:
    settings = _settings(tmp_path, _kuailive(tmp_path / "in"))
    run_job(kuailive, settings)
    storage = Storage.open(settings.storage.root)
    first = storage.read("authors", "2025-05-05").to_pylist()
    assert [(a["author_id"], a["category"], a["tags"]) for a in first] == [(1, "shop", ["music"])]
    second = {a["author_id"]: a["category"] for a in storage.read("authors", "2025-05-06").to_pylist()}
    assert second == {1: "chat", 2: "game"}
    users = storage.read("users", "2025-05-05").to_pylist()
    assert [(u["user_id"], u["age_band"], u["gender"], u["region"], u["device"]) for u in users] == [
        (5, 0, 0, 0, 1), (6, 1, 1, 0, 0)
    ]  # fmt: skip


def test_titles_are_found_by_the_rank_of_their_id(tmp_path: Path) -> None:
    """Ids 300, 700, 900 have rows 0, 1, 2; room 11 keeps the title of its first date, room 12 has none."""
    settings = _settings(tmp_path, _kuailive(tmp_path / "in"))
    run_job(kuailive, settings)
    storage = Storage.open(settings.storage.root)
    made = {day: storage.read(embed.TABLE, day).to_pylist() for day in ("2025-05-05", "2025-05-06")}
    assert [(r["author_id"], r["embedding"]) for r in made["2025-05-05"]] == [(1, [2.0, 3.0])]
    assert [(r["author_id"], r["embedding"]) for r in made["2025-05-06"]] == [(2, [0.0, 1.0])]
    np.save(tmp_path / "in" / "title_embeddings.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(ContractError, match="wanted 3 rows, one per distinct live_name_id, got 2"):
        run_job(kuailive, settings)


def test_the_next_job_reads_the_tables(tmp_path: Path) -> None:
    settings = _settings(tmp_path, _kuailive(tmp_path / "in"))
    run_job(kuailive, settings)
    run_job(examples, settings)
    rows = Storage.open(settings.storage.root).read("examples", "2025-05-06").to_pylist()
    assert [row["history_author_ids"][-2:] for row in rows] == [[1, 1], [-1, -1]]


def _m3(folder: Path) -> str:
    _write(folder, "live_interaction.csv", _table(
        "user_id author_id live_id live_play_start_timestamp play_duration send_gift_num follow_author_cnt",
        (5, 1, 11, D1 + H, 60_000, 2, 0), (6, 1, 11, D1 + 2 * H, 59_999, 0, 1),
    ))  # fmt: skip
    _write(folder, "live_show.parquet", _table("live_id user_id author_id show_timestamp", (11, 7, 1, D1 + H)))
    rooms = _table(
        "live_id author_id live_name start_timestamp end_timestamp",
        (11, 1, "evening songs", D1, None),
        (12, 3, None, D2, D2),
    )
    _write(folder, "live_room_meta.parquet", rooms)
    return str(folder)


def test_m3_has_follows_of_its_own_titles_as_text_and_rooms_that_still_run(tmp_path: Path) -> None:
    settings = _settings(tmp_path, _m3(tmp_path / "in"), "m3")
    assert run_job(kuailive, settings)["impressions"] == 3
    storage = Storage.open(settings.storage.root)
    rows = {row["user_id"]: _labels(row)[2:] for row in storage.read("impressions", "2025-05-05").to_pylist()}
    assert rows == {5: (1, 0, 1, 1), 6: (1, 1, 0, 0), 7: (0, 0, 0, 0)}
    (anchor,) = storage.read("anchors", "2025-05-05").to_pylist()
    assert anchor["theme"] == ["evening songs"] and "theme: evening songs" in anchor["text"]
    assert storage.read("users", "2025-05-05")["user_id"].to_pylist() == [5, 6, 7]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kuailive.source"):
        run_job(kuailive, _settings(tmp_path, ""))
    source = Path(_kuailive(tmp_path / "in"))
    (source / "gift.csv").unlink()
    with pytest.raises(ContractError, match="gift.csv is missing"):
        run_job(kuailive, _settings(tmp_path, str(source)))
    _write(source, "gift.csv", _table("user_id live_id timestamp", (1, 1, 1)))
    with pytest.raises(ContractError, match="gift.csv: wanted column author_id"):
        run_job(kuailive, _settings(tmp_path, str(source)))
    with pytest.raises(ValueError, match="release"):
        KuaiLiveConfig(release="twitch")


def _change(source: str, file: str, old: str, new: str) -> None:
    path = Path(source) / file
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def _rejected(settings: Settings) -> dict[str, tuple[str, str]]:
    """Key -> reason and detail, of all days."""
    storage = Storage.open(settings.storage.root)
    rows = storage.read_days(rejections.TABLE, storage.days(rejections.TABLE)).to_pylist()
    return {row["key"]: (row["reason"], row["detail"]) for row in rows}


def _text_of(ms: int, offset_h: int) -> str:
    return datetime.fromtimestamp(ms / 1000 + offset_h * 3600, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


@pytest.mark.parametrize("offset_h", [0, 8])
@pytest.mark.parametrize(
    "kind", [pa.timestamp("ms"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.string()], ids=str
)
def test_m3_has_date_times(tmp_path: Path, kind: pa.DataType, offset_h: int) -> None:
    """As its authors write them: text with milliseconds in CSV, timestamps or text in Parquet."""
    source = Path(_m3(tmp_path / "in"))
    for ms in (D1 + H, D1 + 2 * H):
        _change(str(source), "live_interaction.csv", str(ms), _text_of(ms, offset_h))
    for name, columns in {
        "live_show": ["show_timestamp"],
        "live_room_meta": ["start_timestamp", "end_timestamp"],
    }.items():
        table = pq.read_table(source / f"{name}.parquet")
        for column in columns:
            at = table.column_names.index(column)
            values = table[column].to_pylist()
            if kind == pa.string():
                times = pa.array([None if ms is None else _text_of(ms, offset_h) for ms in values])
            else:
                shift = 0 if kind.tz else offset_h * H
                times = pa.array([None if ms is None else ms + shift for ms in values], pa.timestamp("ms", kind.tz))
            table = table.set_column(at, column, times.cast(kind))
        pq.write_table(table, source / f"{name}.parquet")
    settings = _settings(tmp_path, str(source), "m3", utc_offset_h=offset_h)
    counts = run_job(kuailive, settings)
    assert (counts["impressions"], counts["rejections"], counts["days"]) == (3, 0, ["2025-05-05"])
    rows = Storage.open(settings.storage.root).read("impressions", "2025-05-05").to_pylist()
    assert {row["user_id"]: row["ts_ms"] for row in rows} == {5: D1 + H, 6: D1 + 2 * H, 7: D1 + H}


@pytest.mark.parametrize("end", ["", "0", "NaN", "0.0"])
def test_rooms_without_an_end_still_run(tmp_path: Path, end: str) -> None:
    source = _kuailive(tmp_path / "in")
    for ms in (D1 + 9 * H, D2 + 4 * H, D2 + 9 * H):
        _change(source, "room.csv", f",{ms},", f",{end},")
    settings = _settings(tmp_path, source)
    assert run_job(kuailive, settings)["impressions"] == 5
    ((key, (reason, detail)),) = _rejected(settings).items()
    assert "live 99" in key and (reason, detail) == ("not_on_air", "no such room")


def test_a_room_over_two_dates_is_on_air_on_both(tmp_path: Path) -> None:
    """Each date lists its own part: the first one up to midnight, or without an end."""
    for case, (first_end, second_end, last) in enumerate(
        [(D2, D2 + 2 * H, D2 + 2 * H), ("", D2 + 2 * H, D2 + 2 * H), (D2, "", None)]
    ):
        source = _kuailive(tmp_path / str(case))
        rooms = ["p_date,live_id,streamer_id,start_timestamp,end_timestamp,live_content_category,live_name_id"]
        rooms += [f"20250506,11,1,{D2},{second_end},late,900", f"20250505,11,1,{D1},{first_end},shop,700"]
        rooms += [f"20250506,21,2,{D2},{D2 + 9 * H},game,300", f"20250506,12,1,{D2},{D2 + 9 * H},chat,-1"]
        (Path(source) / "room.csv").write_text("\n".join([*rooms, ""]))
        times = (D1, D2 - 1, D2, D2 + 2 * H - 1, D2 + 2 * H)
        shown = "".join(f"{user},11,1,{ts}\n" for user, ts in enumerate(times, 100))
        (Path(source) / "negative.csv").write_text(f"{KEYS}\n{shown}")
        settings = _settings(tmp_path / f"out{case}", source)
        days = run_job(kuailive, settings)["days"]
        storage = Storage.open(settings.storage.root)
        users = {row["user_id"] for row in storage.read_days("impressions", days).to_pylist()}
        assert {user for user in users if user >= 100} == {
            100 + at for at, ts in enumerate(times) if not last or ts < last
        }
        assert [row["category"] for row in storage.read("authors", "2025-05-05").to_pylist()] == ["shop"]


def test_rows_that_cannot_be_used_are_rejections_and_none_is_lost(tmp_path: Path) -> None:
    source = _kuailive(tmp_path / "in")
    click = Path(source, "click.csv")
    bad = [f",11,1,{D1 + H},5", f"5,x,1,{D1 + H},5", f"5,11,1.5,{D1 + H},5", "5,11,1,,5", "5,11,1,yesterday,5"]
    bad += [
        f"5,11,1,{D1 // 1000},5",
        f"5,11,1,{D1 + H},-1",
        f"5,11,1,{D1 + H},",
        f"5,11,1,{D1 + H}",
        f"5,11,1,{D1 + H},5,5",
    ]
    good = [f"7.0,11.0,1,{D1 + 3 * H}.0,5e3", f"9,11,1,{_text_of(D1 + 3 * H, 0)},7"]
    click.write_text(click.read_text() + "\n".join([*bad, *good, ""]))
    _change(source, "like.csv", "6,21", "NULL,21")
    settings = _settings(tmp_path, source)
    counts = run_job(kuailive, settings)
    rejected = _rejected(settings)
    assert [rejected[f"click.csv line {line}"][0] for line in range(6, 16)] == ["bad_row"] * 10
    assert "column timestamp" in rejected["click.csv line 9"][1] and "got nothing" in rejected["click.csv line 9"][1]
    assert rejected["like.csv line 2"][1].startswith(
        "like.csv, line 2, column user_id: wanted an integer id, got nothing"
    )
    assert counts["rejections"] == len(rejected) == 10 + 1 + 2  # and two exposures that are not on air
    exposures = 4 + 2 + len(bad) + len(good)
    assert counts["impressions"] == exposures - (len(rejected) - 1)
    rows = Storage.open(settings.storage.root).read("impressions", "2025-05-05").to_pylist()
    assert {r["user_id"]: (r["ts_ms"], r["watch_time_s"]) for r in rows if r["user_id"] > 6} == {
        7: (D1 + 3 * H, 5.0), 9: (D1 + 3 * H, np.float32(0.007))
    }  # fmt: skip


def test_rooms_and_people_with_bad_or_blank_cells(tmp_path: Path) -> None:
    source = _kuailive(tmp_path / "in")
    _change(source, "room.csv", '"chat",-1', '"",')
    _change(source, "room.csv", f"20250506,21,2,1,{D2}", "20250506,21,2,1,")
    Path(source, "user.csv").write_text(
        "user_id,age,gender,country,device_brand\n6,24-30,,CN,a\n6,x,x,x,x\n,18-23,F,CN,b\n"
    )
    settings = _settings(tmp_path, source)
    counts = run_job(kuailive, settings)
    rejected = _rejected(settings)
    assert sorted(key for key, (reason, _) in rejected.items() if reason == "bad_row") == [
        "room.csv line 5", "user.csv line 3", "user.csv line 4"
    ]  # fmt: skip
    assert "live 21" in " ".join(key for key, (_, detail) in rejected.items() if detail == "no such room")
    storage = Storage.open(settings.storage.root)
    users = storage.read("users", counts["days"][0]).to_pylist()
    assert [(u["user_id"], u["age_band"], u["gender"], u["region"]) for u in users] == [(5, -1, -1, -1), (6, 0, -1, 0)]
    assert [a["category"] for a in storage.read("authors", "2025-05-06").to_pylist()] == [None]


def test_a_later_run_takes_back_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    source = _m3(tmp_path / "in")
    for ms in (D1 + H, D1 + 2 * H):
        _change(source, "live_interaction.csv", str(ms), _text_of(ms, 0))
    first, second = _settings(tmp_path, source, "m3"), _settings(tmp_path, source, "m3", utc_offset_h=-22)
    run_job(kuailive, first)
    storage = Storage.open(first.storage.root)
    assert run_job(kuailive, second)["days"] == storage.days("impressions") == ["2025-05-05", "2025-05-06"]
    Path(source, "live_interaction.csv").write_text(
        "user_id,author_id,live_id,live_play_start_timestamp,play_duration,send_gift_num,follow_author_cnt\n"
        f"5,1,11,{D1 + H},1,,\n,1,11,{D1 + H},1,1,1\n"
    )
    assert run_job(kuailive, first)["days"] == storage.days("impressions") == ["2025-05-05"]
    assert list(_rejected(first)) == ["live_interaction.csv line 3"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("click.csv", f"{KEYS},watch_live_time\n5,11,1,1746406800000,1\n5,11,1", "line 3: .* cut"),
        ("negative.csv", f"{KEYS}\n5,11,1,{D1}\n5,11,1,17464", "negative.csv line 3: .* cut"),
        ("gift.csv", f"{KEYS}\n5,11,1,{D1 // 1000}\n", "gift.csv line 2, .* is seconds"),
        ("like.csv", f"{KEYS}\n5,11,1,{D1 * 1000}\n", "like.csv line 2, .* is microseconds"),
        ("title_embeddings.npy", "<html>", "title_embeddings.npy: .*; download it again"),
        ("user.csv", "", "user.csv is empty; download it again"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, file: str, content: str, said: str) -> None:
    source = _kuailive(tmp_path / "in")
    Path(source, file).write_text(content)
    with pytest.raises(ContractError, match=said) as caught:
        run_job(kuailive, _settings(tmp_path, source))
    assert file in str(caught.value) and "\n" not in str(caught.value)
    assert not Storage.open(str(tmp_path / "store")).days("impressions")


def test_the_first_row_says_why_no_exposure_is_left(tmp_path: Path) -> None:
    source = _m3(tmp_path / "in")
    _change(source, "live_interaction.csv", "5,1,11", "a,1,11")
    pq.write_table(
        pq.read_table(Path(source, "live_room_meta.parquet")).slice(0, 0), Path(source, "live_room_meta.parquet")
    )
    with pytest.raises(ContractError, match=r"no exposure falls in a room that is on air; .*line 2, column user_id"):
        run_job(kuailive, _settings(tmp_path, source, "m3"))
    with pytest.raises(ValueError, match="utc_offset_h"):
        KuaiLiveConfig(utc_offset_h=480)
