"""`ingest`: real small videos, made here, and real clips where the checkout has them."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.pages import report_json
from pipelines.runtime import config
from pipelines.settings import Settings
from pipelines.sources import ingest
from pipelines.sources.rows import stable_id
from pipelines.tables import values
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.films import CODECS, Pipe, encode, film, grey, with_cover
from tests.pipelines.jobs import run_job
from tests.pipelines.sources.folders import ingested

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "real_streams"
DAY = date(2026, 1, 1)
MIDNIGHT_MS = 1_767_225_600_000


def message(offset_s: float, who: str = "ann", text: str = "hello there") -> dict[str, Any]:
    return {"content_offset_seconds": offset_s, "commenter": {"_id": who}, "message": {"body": text}}


def talk(video: Path, *messages: Any) -> Path:
    file = video.with_suffix(".chat.json")
    file.write_text(json.dumps({"video": {"length": 2.0}, "comments": messages}))
    return file


def decoded(source: Path, **sampling: int) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """(rows of segments, rejections) of a folder, without Ray."""
    rows, refused, _ = ingested(source, **sampling)
    return rows, refused


@pytest.mark.parametrize("ending", CODECS)
def test_a_short_video_is_one_segment_whatever_the_container(tmp_path: Path, ending: str):
    film(tmp_path / "ann" / f"one{ending}")
    rows, refused = decoded(tmp_path)
    assert refused == []
    assert [(r["segment"], r["start_ts_ms"], len(r["frames"])) for r in rows] == [(0, MIDNIGHT_MS, 4)]


def test_frames_are_evenly_spread_and_show_their_moment(tmp_path: Path):
    film(tmp_path / "ann" / "one.mp4", seconds=64)
    rows, _ = decoded(tmp_path)
    assert [r["segment"] for r in rows] == [0, 1, 2]
    assert [f["offset_ms"] for f in rows[1]["frames"]] == [3750, 11250, 18750, 26250]
    assert [f["offset_ms"] for f in rows[2]["frames"]] == [500, 1500, 2500, 3500]
    for row in rows:
        for frame in row["frames"]:
            level = 4 * (row["segment"] * 30 + frame["offset_ms"] / 1000)
            assert grey(frame["jpeg"]) == pytest.approx(level, abs=5), (row["segment"], frame["offset_ms"])


def test_large_frames_are_scaled_and_small_ones_kept(tmp_path: Path):
    film(tmp_path / "ann" / "large.mp4", size=(640, 320))
    film(tmp_path / "ann" / "small.mkv", size=(64, 48))
    rows, _ = decoded(tmp_path, frame_max_side=128)
    sizes = {Image.open(io.BytesIO(f["jpeg"])).size for r in rows for f in r["frames"]}
    assert sizes == {(128, 64), (64, 48)}


def test_a_recording_that_declares_no_length_is_measured(tmp_path: Path):
    pipe = Pipe()
    with av.open(pipe, "w", format="matroska") as container:
        encode(container, "mpeg4", 7, (64, 48), 8)
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "live.mkv").write_bytes(pipe.getvalue())
    with av.open(str(tmp_path / "ann" / "live.mkv")) as container:
        assert container.duration is None
    rows, refused = decoded(tmp_path, segment_s=3)
    assert ([r["segment"] for r in rows], refused) == ([0, 1, 2], [])


def test_bytes_that_are_no_video_are_rejected_and_cost_nothing_else(tmp_path: Path):
    film(tmp_path / "ann" / "good.mp4")
    (tmp_path / "ann" / "bad.mp4").write_bytes(b"\x00\x01garbage" * 500)
    (tmp_path / "ann" / "empty.webm").touch()
    rows, refused = decoded(tmp_path)
    assert [r["live_id"] for r in rows] == [stable_id("ann/good")]
    assert {(r["key"], r["reason"]) for r in refused} == {
        ("ann/bad", "unreadable_video"),
        ("ann/empty", "unreadable_video"),
    }
    assert all("Invalid data" in r["detail"] for r in refused)


def test_segments_before_the_damage_are_kept(tmp_path: Path):
    path = film(tmp_path / "ann" / "one.ts", seconds=20, gop=8)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    rows, _ = decoded(tmp_path, segment_s=2)
    assert 3 <= len(rows) <= 6
    assert [r["segment"] for r in rows] == list(range(len(rows)))


def test_pictures_that_end_too_early_are_reported(tmp_path: Path):
    path = tmp_path / "ann" / "one.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        encode(container, "libx264", 20, (64, 48), 8)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - len(content) // 3])
    rows, refused = decoded(tmp_path, segment_s=2)
    assert 0 < len(rows) < 10
    assert [(r["key"], r["reason"]) for r in refused] == [("ann/one", "unreadable_video")]
    assert "of 10 segment(s) lost" in refused[0]["detail"]


def test_a_file_without_pictures_is_no_frames(tmp_path: Path):
    (tmp_path / "ann").mkdir()
    with av.open(str(tmp_path / "ann" / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    rows, refused = decoded(tmp_path)
    assert rows == []
    assert [(r["key"], r["reason"]) for r in refused] == [("ann/sound", "no_frames")]


def test_a_file_with_a_cover_alone_is_no_frames(tmp_path: Path):
    with_cover(tmp_path / "ann" / "radio.mp4", seconds=0)
    rows, refused = decoded(tmp_path)
    assert rows == []
    assert refused == [{"key": "ann/radio", "reason": "no_frames", "detail": "only a cover picture"}]


def test_no_transcript_is_null_speech(tmp_path: Path):
    film(tmp_path / "ann" / "one.mp4")
    assert decoded(tmp_path)[0][0]["speech"] is None


def test_two_files_of_one_live_keep_the_first(tmp_path: Path):
    film(tmp_path / "ann" / "one.avi")
    film(tmp_path / "ann" / "one.mp4")
    rows, refused = decoded(tmp_path)
    assert len(rows) == 1
    assert [(r["key"], r["reason"]) for r in refused] == [("ann/one.mp4", "bad_row")]


def test_clips_come_in_the_order_of_the_table(tmp_path: Path):
    for name in ("ann/a", "bob/b", "cid/c", "ann/d"):
        film(tmp_path / f"{name}.mp4", seconds=0.5)
    rows, _ = decoded(tmp_path)
    assert rows == sorted(rows, key=lambda r: (r["author_id"], r["live_id"], r["segment"]))


def test_ids_are_positive_stable_and_63_bit():
    ids = [stable_id(f"author {number}") for number in range(2000)]
    assert len(set(ids)) == 2000
    assert all(0 < i < 2**63 for i in ids)
    assert stable_id("street-watch") == 6352460596380910732


@pytest.mark.parametrize("key", ["segment_s", "frames_per_segment", "frame_max_side", "jpeg_quality", "concurrency"])
def test_settings_are_checked(key: str):
    with pytest.raises(config.ConfigError, match=f"{key}: wanted"):
        config.build(Settings, {"ingest": {key: 0}})


def settings_for(tmp_path: Path, source: Path, **changed: Any) -> Settings:
    return config.build(
        Settings,
        {
            "run_dir": str(tmp_path / "run"),
            "storage": {"root": str(tmp_path / "store")},
            "ingest": {"source": str(source), **changed},
        },
    )


@pytest.mark.parametrize("make", [None, "folder", "author"])
def test_a_source_without_videos_is_a_clear_error(tmp_path: Path, make: str | None):
    source = tmp_path / "in"
    if make:
        (source / "ann" if make == "author" else source).mkdir(parents=True)
    with pytest.raises(config.ConfigError, match=r"ingest.source .*wanted .*, got none"):
        run_job(ingest, settings_for(tmp_path, source))


def test_a_source_of_links_says_that_they_are_left_out(tmp_path: Path):
    (tmp_path / "in" / "ann").mkdir(parents=True)
    (tmp_path / "in" / "ann" / "one.mp4").symlink_to(tmp_path / "away.mp4")
    with pytest.raises(config.ConfigError, match=r"got none \(left out: ann/one.mp4: a link"):
        run_job(ingest, settings_for(tmp_path, tmp_path / "in"))


@pytest.mark.ray
def test_the_job_writes_tables_report_and_rejections_once(
    tmp_path: Path, ray_cluster: None, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "pipelines")
    source = tmp_path / "in"
    talk(film(source / "night-cook" / "one.mp4", seconds=4), message(0.5), message(9))
    film(source / "ann" / "two.mkv")
    (source / "ann" / "notes.txt").write_text("x")
    (source / "broken" / "x.mp4").parent.mkdir()
    (source / "broken" / "x.mp4").write_bytes(b"no video")
    settings = settings_for(tmp_path, source, segment_s=3)
    report_json.merge(settings.run_dir, "anchors", {"kept": 1})
    metrics = run_job(ingest, settings)

    storage = Storage.open(settings.storage.root)
    segments = storage.read("segments", "2026-01-01")
    values.validate(segments, "segments", "2026-01-01")
    keys = segments.select(["author_id", "live_id", "segment"]).to_pylist()
    assert keys == sorted(keys, key=lambda k: tuple(k.values()))
    assert sorted(storage.read("authors", "2026-01-01")["profile"].to_pylist()) == ["ann", "night cook"]
    refused = storage.read("rejections", "2026-01-01").select(["key", "stage", "reason"]).to_pylist()
    assert sorted(tuple(row.values()) for row in refused) == [
        ("broken/x", "ingest", "unreadable_video"),
        ("night-cook/one.chat.json", "ingest", "bad_chat"),
    ]
    report = report_json.read(settings.run_dir)
    assert report["anchors"] == {"kept": 1}
    assert {k: report["ingest"][k] for k in ("clips", "segments", "rejections", "authors")} == {
        "clips": 2,
        "segments": 3,
        "rejections": 2,
        "authors": 2,
    }
    assert metrics["skipped"] is False
    assert report["ingest"]["files"]["chat"] == {"files": 1, "unused": 0, "found": 2, "used": 1, "left_out": 1}
    files = storage.read("ingest_report", "2026-01-01")
    values.validate(files, "ingest_report", "2026-01-01")
    assert files.select(["file", "kind", "found", "used", "left_out"]).to_pylist() == [
        dict(file="ann/notes.txt", kind="other", found=1, used=0, left_out=1),
        dict(file="ann/two.mkv", kind="video", found=1, used=1, left_out=0),
        dict(file="broken/x.mp4", kind="video", found=1, used=0, left_out=1),
        dict(file="night-cook/one.chat.json", kind="chat", found=2, used=1, left_out=1),
        dict(file="night-cook/one.mp4", kind="video", found=2, used=2, left_out=0),
    ]
    assert "1 chat file(s): 1 of 2 comment(s) used" in caplog.text
    assert "nothing was used of 2 file(s), the first broken/x.mp4" in caplog.text
    assert "writes day 2026-01-01 (ingest.day)" in caplog.text

    before = storage.commit_of("segments", "2026-01-01")
    assert run_job(ingest, settings)["skipped"] is True
    assert storage.commit_of("segments", "2026-01-01") == before
    film(source / "ann" / "three.mp4")
    assert run_job(ingest, settings)["clips"] == 3


@pytest.mark.ray
def test_folders_named_after_other_days_are_said(tmp_path: Path, ray_cluster: None, caplog: pytest.LogCaptureFixture):
    film(tmp_path / "in" / "bo" / "2026-02-03" / "b.mp4", seconds=0.5)
    run_job(ingest, settings_for(tmp_path, tmp_path / "in"))
    assert "named after other days, the first bo/2026-02-03/b.mp4 | all are written as day 2026-01-01" in caplog.text


@pytest.mark.ray
def test_joined_recordings_are_both_there_and_the_log_says_so(
    tmp_path: Path, ray_cluster: None, caplog: pytest.LogCaptureFixture
):
    one = film(tmp_path / "one.ts", seconds=20)
    (tmp_path / "in" / "ann").mkdir(parents=True)
    (tmp_path / "in" / "ann" / "two.ts").write_bytes(2 * one.read_bytes())
    caplog.set_level("INFO")
    metrics = run_job(ingest, settings_for(tmp_path, tmp_path / "in"))
    assert (metrics["segments"], metrics["rejections"]) == (2, 0)
    assert "ann/two | 2 segment(s)" in caplog.text
    assert "at 20.0 s the clock goes back by 20.0 s" in caplog.text


@pytest.mark.ray
def test_a_later_day_keeps_what_was_known_of_an_author(tmp_path: Path, ray_cluster: None):
    source = tmp_path / "in"
    film(source / "ann" / "one.mp4", seconds=0.5)
    run_job(ingest, settings_for(tmp_path, source))
    run_job(ingest, settings_for(tmp_path, source, day=date(2026, 1, 5)))
    (row,) = Storage.open(str(tmp_path / "store")).read("authors", "2026-01-05").to_pylist()
    assert row["first_live_day"] == DAY


@pytest.mark.ray
def test_another_folder_does_not_replace_a_day_unless_it_is_said(tmp_path: Path, ray_cluster: None):
    film(tmp_path / "first" / "ann" / "one.mp4", seconds=0.5)
    film(tmp_path / "second" / "bob" / "one.mp4", seconds=0.5)
    run_job(ingest, settings_for(tmp_path, tmp_path / "first"))
    storage = Storage.open(str(tmp_path / "store"))
    before = storage.commit_of("segments", "2026-01-01")
    with pytest.raises(ContractError, match=r"got 0 of them among the 1 new authors.*--set ingest.replace=true"):
        run_job(ingest, settings_for(tmp_path, tmp_path / "second"))
    assert storage.commit_of("segments", "2026-01-01") == before
    run_job(ingest, settings_for(tmp_path, tmp_path / "second", replace=True))
    assert storage.read("segments", "2026-01-01")["author_id"].to_pylist() == [stable_id("bob")]


@pytest.mark.ray
def test_two_ingests_of_one_day_at_once_leave_one_whole(tmp_path: Path, ray_cluster: None):
    film(tmp_path / "in" / "ann" / "one.mp4", seconds=0.5)
    settings, storage = settings_for(tmp_path, tmp_path / "in"), Storage.open(str(tmp_path / "store"))
    with (
        ThreadPoolExecutor(1) as elsewhere,
        storage.lease("segments", "2026-01-01"),
        pytest.raises(ContractError, match="another job is writing it"),
    ):
        elsewhere.submit(run_job, ingest, settings).result()
    assert run_job(ingest, settings)["segments"] == 1


@pytest.mark.ray
def test_a_source_of_nothing_but_bad_videos_is_all_rejections(tmp_path: Path, ray_cluster: None):
    (tmp_path / "in" / "ann").mkdir(parents=True)
    (tmp_path / "in" / "ann" / "x.mp4").write_bytes(b"no video")
    metrics = run_job(ingest, settings_for(tmp_path, tmp_path / "in"))
    assert (metrics["clips"], metrics["segments"], metrics["rejections"]) == (0, 0, 1)
    with pytest.raises(ContractError, match="wanted Parquet files"):
        Storage.open(str(tmp_path / "store")).read("users", "2026-01-01")


@pytest.mark.ray
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real clips are not beside this checkout ({REAL.name} is absent)")
def test_the_real_clips_ingest_as_they_are(tmp_path: Path, ray_cluster: None):
    settings = settings_for(tmp_path, REAL)
    metrics = run_job(ingest, settings)
    assert {k: metrics[k] for k in ("clips", "segments", "rejections", "authors")} == {
        "clips": 12,
        "segments": 18,
        "rejections": 1,
        "authors": 8,
    }
    storage = Storage.open(settings.storage.root)
    (refused,) = storage.read("rejections", "2026-01-01").to_pylist()
    assert (refused["key"], refused["reason"]) == ("broken-upload/corrupted", "unreadable_video")
    segments = storage.read("segments", "2026-01-01").to_pylist()
    assert sum(len(s["comments"]) for s in segments) == 12 * 60
    assert all(grey(frame["jpeg"]) >= 0 for s in segments for frame in s["frames"])
