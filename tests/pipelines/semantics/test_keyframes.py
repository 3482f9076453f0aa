"""Which frames are chosen, and that no frame, however broken, stops the job."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.semantics.keyframes import select, thumbnail


def picture(shade: int, size: int = 32) -> bytes:
    """A smooth grey JPEG."""
    sink = io.BytesIO()
    Image.new("L", (size, size), shade).save(sink, "JPEG")
    return sink.getvalue()


def segment(number: int, *jpegs: bytes, likes: int = 0, gifts: int = 0, comments: int = 0) -> dict[str, Any]:
    frames = [{"offset_ms": 1000 * i, "jpeg": jpeg} for i, jpeg in enumerate(jpegs)]
    return {
        "live_id": 1,
        "segment": number,
        "frames": frames,
        "likes": likes,
        "gifts": gifts,
        "comments": [{}] * comments,
    }


def places(segments: list[dict[str, Any]], count: int) -> list[tuple[int, int]]:
    chosen, bad = select(segments, count)
    assert bad == []
    for frame in chosen:
        assert {"offset_ms": frame.offset_ms, "jpeg": frame.jpeg} in segments[frame.segment]["frames"]
    return [(frame.segment, frame.offset_ms) for frame in chosen]


@pytest.mark.parametrize(("count", "wanted"), [(3, [1, 1, 1]), (6, [2, 2, 2]), (4, [1, 1, 2])])
def test_segments_get_equal_shares(count: int, wanted: list[int]):
    segments = [segment(i, *(picture(20 * i + 60 * j) for j in range(4))) for i in range(3)]
    chosen = [place for place, _ in places(segments, count)]
    assert sorted(np.bincount(chosen, minlength=3)) == wanted


def test_a_segment_with_few_frames_leaves_its_share_to_others():
    assert places([segment(0, picture(0)), segment(1, *(picture(60 * j) for j in range(4)))], 4)[0] == (0, 0)
    assert len(places([segment(0, picture(0)), segment(1, *(picture(60 * j) for j in range(4)))], 4)) == 4


def test_frames_come_in_time_order():
    segments = [segment(i, *(picture((97 * i + 53 * j) % 256) for j in range(3))) for i in range(4)]
    for count in range(1, 13):
        assert places(segments, count) == sorted(places(segments, count))
        assert len(set(places(segments, count))) == count


def test_unlike_frames_are_preferred():
    # The first frame is the most engaging; then black, which is farthest from white.
    segments = [
        segment(0, picture(255), likes=9),
        segment(1, picture(250)),
        segment(2, picture(0)),
        segment(3, picture(240)),
    ]
    assert [place for place, _ in places(segments, 2)] == [0, 2]


def test_within_a_segment_the_frame_unlike_the_chosen_comes_next():
    assert places([segment(0, picture(10), picture(12), picture(200), picture(100))], 2) == [(0, 0), (0, 2000)]


@pytest.mark.parametrize("liked", [{"likes": 5}, {"gifts": 1}, {"comments": 5}])
def test_of_equal_frames_those_that_viewers_liked_are_chosen(liked: dict[str, int]):
    segments = [segment(i, picture(80), **(liked if i in (1, 4) else {})) for i in range(6)]
    assert [place for place, _ in places(segments, 2)] == [1, 4]


def test_a_gift_counts_more_than_a_like():
    assert places([segment(0, picture(80), likes=5), segment(1, picture(80), gifts=1)], 1) == [(1, 0)]


def test_fewer_frames_than_asked_are_all_chosen():
    assert places([segment(0, picture(1)), segment(1), segment(2, picture(2))], 8) == [(0, 0), (2, 0)]
    assert select([], 4) == ([], []) == select([segment(0)], 4)
    assert places([segment(0, picture(1))], 0) == []


def test_the_choice_is_deterministic():
    segments = [segment(i, picture(80), picture(80)) for i in range(5)]
    assert select(segments, 3) == select(segments, 3)


@pytest.mark.parametrize("broken", [b"", b"not a JPEG", picture(9)[:200], picture(9)[: len(picture(9)) // 2]])
def test_a_broken_frame_is_reported_and_left_out(broken: bytes):
    chosen, (message,) = select([segment(7, broken, picture(1)), segment(8, picture(2))], 3)
    assert [(frame.segment, frame.offset_ms) for frame in chosen] == [(0, 1000), (1, 0)]
    assert message.startswith("live 1 segment 7 frame 0 at 0 ms: ")


def test_a_frame_cut_off_in_its_pixels_is_broken():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "JPEG")
    chosen, bad = select([segment(0, sink.getvalue()[:-500])], 1)
    assert chosen == [] and len(bad) == 1 and "truncated" in bad[0]


def test_a_decompression_bomb_is_reported(monkeypatch: pytest.MonkeyPatch):
    bomb = picture(9, size=128)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 32)
    chosen, bad = select([segment(0, bomb, picture(1))], 2)
    assert [frame.offset_ms for frame in chosen] == [1000]
    assert len(bad) == 1 and bad[0].startswith("live 1 segment 0 frame 0 at 0 ms: ") and "bomb" in bad[0]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=30), st.integers(0, 5000))
def test_no_damage_is_raised(changes: list[tuple[int, int]], length: int):
    damaged = bytearray(picture(100))
    for place, value in changes:
        damaged[place % len(damaged)] = value
    frame = bytes(damaged[: length or None])
    chosen, bad = select([segment(0, frame)], 1)
    assert len(chosen) + len(bad) == 1


def test_a_thumbnail_is_64_grey_values():
    assert thumbnail(picture(51)) == pytest.approx(np.full(64, 0.2), abs=0.01)
    with pytest.raises(OSError):
        thumbnail(b"no picture")
