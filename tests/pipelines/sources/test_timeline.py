"""Recording time where the clock of a recording cannot be believed: every picture is there, at a time of its own."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.sources.sampling import Sampling
from pipelines.sources.video import Video
from tests.pipelines.films import encode, film, grey, pictures, restamped, roll, silence, with_cover

SAMPLING = Sampling(segment_s=10, frames_per_segment=2)


def shown(path: Path, sampling: Sampling = SAMPLING) -> tuple[dict[int, list[float]], Video]:
    """{segment: when its pictures were filmed, seconds} of a film, and the video for what it says beside them."""
    video = Video(str(path), sampling)
    pieces = list(video.slices())
    return {piece.segment: [grey(jpeg) / 4 for _, jpeg in piece.frames] for piece in pieces}, video


def near(*filmed_s: float) -> Any:
    return pytest.approx(list(filmed_s), abs=1.3)


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def fragmented(path: Path, seconds: float) -> Path:
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        encode(container, "libx264", seconds, (64, 48), 12)
    return path


def stamped_flv(path: Path, stamp_ms: Callable[[int], int]) -> Path:
    """Changes the time of every packet of an FLV file in place."""
    content = bytearray(path.read_bytes())
    at = 13
    while at < len(content):
        time_ms = int.from_bytes(content[at + 4 : at + 7]) | content[at + 7] << 24
        new = stamp_ms(time_ms)
        content[at + 4 : at + 8] = (new & 0xFFFFFF).to_bytes(3) + (new >> 24).to_bytes(1)
        at += 15 + int.from_bytes(content[at + 1 : at + 4])
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("ending", [".ts", ".flv", ".mkv", ".mpg", ".mp4"])
def test_recordings_that_are_joined_follow_each_other(tmp_path: Path, ending: str):
    one = fragmented(tmp_path / "one.mp4", 20) if ending == ".mp4" else film(tmp_path / f"one{ending}", seconds=20)
    got, video = shown(joined(tmp_path / f"two{ending}", one, one))
    assert list(got) == [0, 1, 2, 3]
    assert got[1] == near(12.5, 17.5)
    assert got[3] == near(12.5, 17.5)
    assert video.damage == ""
    assert video.notes.startswith("at 20.")
    assert "goes back by" in video.notes


def test_pieces_that_overlap_are_both_kept(tmp_path: Path):
    one = film(tmp_path / "one.ts", seconds=20)
    later = restamped(one, lambda _: 15.0)
    got, video = shown(joined(tmp_path / "two.ts", one, later))
    assert list(got) == [0, 1, 2, 3]
    assert got[2] == near(2.5, 7.5)
    assert "goes back by 5.0 s" in video.notes


@pytest.mark.parametrize("ending", [".ts", ".flv", ".mkv", ".mp4"])
def test_a_clock_that_jumps_ten_hours_ahead_invents_no_segments(tmp_path: Path, ending: str):
    one = film(tmp_path / f"one{ending}", seconds=40, gop=8)
    got, video = shown(restamped(one, lambda time_s: 36_000 if time_s >= 20 else 0))
    assert list(got) == [0, 1, 2, 3]
    assert got[2] == near(22.5, 27.5)
    assert "jumps ahead by 3600" in video.notes
    assert video.damage == ""


@pytest.mark.parametrize("ending", [".ts", ".flv", ".mkv", ".mp4"])
def test_a_pause_takes_time_and_makes_no_segments(tmp_path: Path, ending: str):
    one = film(tmp_path / f"one{ending}", seconds=40, gop=8)
    got, video = shown(restamped(one, lambda time_s: 300 if time_s >= 20 else 0))
    assert list(got) == [0, 1, 32, 33]
    assert got[1] == near(12.5, 17.5)
    assert got[32] == near(22.5, 27.5)
    assert video.notes == "no pictures from 20.0 s to 320.0 s"
    assert video.damage == ""


def test_the_clock_of_a_ts_may_run_over(tmp_path: Path):
    one = film(tmp_path / "one.ts", seconds=40)
    got, video = shown(restamped(one, lambda _: 2**33 / 90_000 - 20))
    assert got == shown(one)[0]
    assert (video.notes, video.damage) == ("", "")


def test_the_clock_of_an_encoder_that_has_run_for_a_day_starts_at_0(tmp_path: Path):
    one = film(tmp_path / "one.ts", seconds=40)
    got, video = shown(restamped(one, lambda _: 26 * 3600.0))
    assert got == shown(one)[0]
    assert (video.notes, video.damage) == ("", "")


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_start_time_other_than_0_changes_nothing(tmp_path: Path, ending: str):
    one = film(tmp_path / f"one{ending}", seconds=20)
    later = restamped(one, lambda _: 300.0)
    assert shown(later)[0] == shown(one)[0]


def test_a_clock_that_stands_still_counts_pictures(tmp_path: Path):
    path = stamped_flv(film(tmp_path / "one.flv", seconds=40), lambda time_ms: min(time_ms, 12_000))
    got, video = shown(path)
    assert list(got) == [0, 1, 2, 3]
    assert all(pictures == near(10 * segment + 2.5, 10 * segment + 7.5) for segment, pictures in got.items())
    assert "the clock stands still" in video.notes


def test_a_clock_that_stood_still_and_catches_up_has_lost_nothing(tmp_path: Path):
    path = stamped_flv(film(tmp_path / "one.flv", seconds=60), lambda ms: 12_000 if 12_000 < ms < 40_000 else ms)
    got, _ = shown(path)
    assert list(got) == [0, 1, 2, 3, 4, 5]
    assert got[5] == near(52.5, 57.5)


def test_small_jitter_is_no_jump(tmp_path: Path):
    path = stamped_flv(
        film(tmp_path / "one.flv", seconds=20), lambda ms: max(0, ms - (400 if ms // 125 % 5 == 0 else 0))
    )
    got, video = shown(path)
    assert list(got) == [0, 1]
    assert (video.notes, video.damage) == ("", "")


def test_pictures_without_times_are_counted(tmp_path: Path):
    path = tmp_path / "raw.ts"
    with av.open(str(path), "w", format="h264") as container:
        encode(container, "libx264", 20, (64, 48), 12)
    got, video = shown(path)
    assert got == {0: near(2.5, 7.5), 1: near(12.5, 17.5)}
    assert video.notes == "the pictures have no times; they are counted"


def test_a_picture_that_stays_makes_no_segments_of_its_own(tmp_path: Path):
    path = tmp_path / "slides.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for second in (0, 1, 2, 18, 41):
            level = np.full((48, 64, 3), 4 * second, np.uint8)
            picture = av.VideoFrame.from_ndarray(level, format="rgb24")
            picture.pts = second
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    video = Video(str(path), SAMPLING)
    got = {piece.segment: [(ms, round(grey(jpeg) / 4)) for ms, jpeg in piece.frames] for piece in video.slices()}
    assert got == {0: [(2500, 2)], 1: [(8000, 18)], 4: [(1000, 41)]}
    assert video.damage == ""


def test_pictures_may_change_their_size(tmp_path: Path):
    small, large = (film(tmp_path / f"{size[0]}.ts", seconds=20, size=size) for size in ((64, 48), (128, 96)))
    got, video = shown(joined(tmp_path / "both.ts", small, large))
    assert list(got) == [0, 1, 2, 3]
    assert got[3] == near(12.5, 17.5)
    assert video.damage == ""


def test_a_recording_that_starts_before_its_pictures_keeps_its_time(tmp_path: Path):
    path = tmp_path / "radio.mkv"
    with av.open(str(path), "w") as container:
        sound, stream = container.add_stream("pcm_s16le", rate=8000), pictures(container, "mpeg4")
        silence(container, sound, 40)
        roll(container, [stream], 40, since_s=20)
    got, video = shown(path)
    assert got == {2: near(22.5, 27.5), 3: near(32.5, 37.5)}
    assert video.notes == "no pictures from 0.0 s to 20.0 s"


def test_of_two_programmes_the_larger_is_read(tmp_path: Path):
    path = tmp_path / "both.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        small, large = (pictures(container, "mpeg2video", size) for size in ((64, 48), (128, 96)))
        roll(container, [small, large], 20)
    video = Video(str(path), Sampling())
    (piece,) = video.slices()
    assert {Image.open(io.BytesIO(jpeg)).size for _, jpeg in piece.frames} == {(128, 96)}
    assert video.notes == "1 more video stream(s) not read"


def sound_first(path: Path, seconds: float) -> Path:
    with av.open(str(path), "w", format="mpegts") as container:
        sound, stream = container.add_stream("mp2", rate=32_000), pictures(container, "mpeg2video")
        silence(container, sound, seconds)
        roll(container, [stream], seconds)
    return path


def test_a_recording_joined_to_one_of_other_streams_is_read_on(tmp_path: Path):
    one, two = film(tmp_path / "one.ts", seconds=20), sound_first(tmp_path / "two.ts", 20)
    got, video = shown(joined(tmp_path / "both.ts", one, two))
    assert list(got) == [0, 1, 2, 3]
    assert got[2] == near(2.5, 7.5)
    assert video.damage == ""


def test_pictures_that_cannot_be_read_are_told(tmp_path: Path):
    one, two = sound_first(tmp_path / "one.ts", 20), film(tmp_path / "two.ts", seconds=20)
    got, video = shown(joined(tmp_path / "both.ts", one, two))
    assert list(got) == [0, 1]
    assert video.lost == 2
    assert "2 of 4 segment(s) lost, first 20.0 s of pictures are in a stream that begins as sound" in video.damage


@pytest.mark.parametrize("ending", [".ts", ".flv"])
def test_a_recording_that_was_cut_off_keeps_what_was_joined_to_it(tmp_path: Path, ending: str):
    one = film(tmp_path / f"one{ending}", seconds=20)
    cut = tmp_path / f"cut{ending}"
    cut.write_bytes(one.read_bytes()[:-101])
    got, video = shown(joined(tmp_path / f"both{ending}", cut, one))
    assert list(got) == [0, 1, 2, 3]
    assert got[3] == near(12.5, 17.5)
    assert video.damage == ""


def test_a_cover_picture_is_not_the_video(tmp_path: Path):
    path = with_cover(tmp_path / "one.mp4", seconds=20)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
    got, video = shown(path)
    assert got == {0: near(2.5, 7.5), 1: near(12.5, 17.5)}
    assert (video.notes, video.damage) == ("", "")


def test_sound_with_a_cover_has_no_pictures(tmp_path: Path):
    got, video = shown(with_cover(tmp_path / "radio.mp4", seconds=0))
    assert (got, video.damage, video.no_pictures) == ({}, "", "only a cover picture")


def test_a_single_picture_beside_a_film_is_its_cover_whatever_it_is_called(tmp_path: Path):
    path = tmp_path / "one.mkv"
    with av.open(str(path), "w") as container:
        cover, stream = pictures(container, "mjpeg", (640, 480)), pictures(container, "libx264")
        roll(container, [cover], 1 / 8)
        roll(container, [stream], 8)
    got, _ = shown(path)
    assert got == {0: near(2.0, 6.0)}
