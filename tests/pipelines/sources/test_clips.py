"""What was said in a video, in the segments of that video; everything else is counted."""

import gzip
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.sources.rows import stable_id
from tests.pipelines.films import encode, film
from tests.pipelines.sources.folders import ingested


def message(offset_s: float, who: str | None = "ann", text: str = "hello there") -> dict[str, Any]:
    commenter = None if who is None else {"_id": who}
    return {"content_offset_seconds": offset_s, "commenter": commenter, "message": {"body": text}}


def chat(*messages: Any, start: float = 0) -> bytes:
    return json.dumps({"video": {"start": start}, "comments": messages}).encode()


def speech(*lines: tuple[float, float, str]) -> bytes:
    return "\n".join(json.dumps({"start_s": s, "end_s": e, "text": t}) for s, e, t in lines).encode()


def a_live(source: Path, seconds: float = 7, **beside: bytes) -> Path:
    """A video ann/one.mp4 and files beside it; `__` in a name stands for a dot."""
    film(source / "ann" / "one.mp4", seconds=seconds)
    for ending, data in beside.items():
        (source / "ann" / f"one.{ending.replace('__', '.')}").write_bytes(data)
    return source


def test_comments_go_to_the_segment_they_were_written_in(tmp_path: Path):
    messages = message(4.5, "cid"), message(0.25, "bob"), message(1.0, "bob")
    rows, refused, files = ingested(a_live(tmp_path, chat__json=chat(*messages)), segment_s=3)
    assert [[c["offset_ms"] for c in r["comments"]] for r in rows] == [[250, 1000], [1500], []]
    assert [r["viewers"] for r in rows] == [1, 1, 0]
    assert rows[0]["comments"][0]["user_id"] == stable_id("bob")
    assert refused == []
    assert files["ann/one.mp4"] == dict(file="ann/one.mp4", kind="video", found=3, used=3, left_out=0, why="")
    assert files["ann/one.chat.json"] == dict(
        file="ann/one.chat.json", kind="chat", found=3, used=3, left_out=0, why=""
    )


def test_comments_outside_the_video_are_counted_and_rejected(tmp_path: Path):
    messages = [message(offset) for offset in (-600, -0.001, 0, 6.99, 7.0, 35000, 1e300)]
    rows, refused, files = ingested(a_live(tmp_path, chat__json=chat(*messages)), segment_s=3)
    assert [[c["offset_ms"] for c in r["comments"]] for r in rows] == [[0], [], [990]]
    (row,) = refused
    assert (row["key"], row["reason"]) == ("ann/one.chat.json", "bad_chat")
    assert "3 after the end of the video at 7.0 s (the first at 7.0 s)" in row["detail"]
    assert "2 before the start of the video (the first at -600.0 s)" in row["detail"]
    report = files["ann/one.chat.json"]
    assert (report["found"], report["used"], report["left_out"], report["why"]) == (7, 2, 5, row["detail"])


def test_the_chat_of_a_part_of_a_live_lies_in_that_part(tmp_path: Path):
    source = a_live(tmp_path, chat__json__gz=gzip.compress(chat(message(28801), message(28806), start=28800)))
    rows, refused, _ = ingested(source, segment_s=3)
    assert [[c["offset_ms"] for c in r["comments"]] for r in rows] == [[1000], [], [0]]
    assert refused == []


def test_viewers_nobody_knows_are_one(tmp_path: Path):
    rows, refused, _ = ingested(a_live(tmp_path, chat__json=chat(message(1, None), message(2, None), message(2, "bo"))))
    assert (rows[0]["viewers"], len(rows[0]["comments"]), refused) == (2, 3, [])


def test_comments_where_the_video_has_no_segment_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pipelines.sources import clips

    class Gap(clips.Video):
        def slices(self) -> Any:
            return (piece for piece in super().slices() if piece.segment != 1)

    monkeypatch.setattr(clips, "Video", Gap)
    lines = speech((0, 1, "a"), (2, 4, "b"), (4, 5, "c"), (6.5, 9, "d"), (7, 8, "e"))
    source = a_live(tmp_path, chat__json=chat(message(1), message(4), message(6)), transcript__jsonl=lines)
    rows, refused, _ = ingested(source, segment_s=3)
    assert [[c["offset_ms"] for c in r["comments"]] for r in rows] == [[1000], [0]]
    assert [r["speech"] for r in rows] == ["a b", "d"]
    assert [row["detail"] for row in refused] == [
        "1 of 3 comment(s) left out: 1 where the video has no segment (the first at 4.0 s)",
        "2 of 5 line(s) left out: 1 where the video has no segment (the first at 4.0 s), "
        "1 after the end of the video at 7.0 s (the first at 7.0 s)",
    ]


def test_speech_is_the_lines_that_overlap(tmp_path: Path):
    lines = speech((-2.0, -1.0, "x"), (0.0, 1.0, "a"), (2.5, 3.5, "b"), (3.5, 4.0, "c"), (3.0, 3.0, "d"), (1, 9e9, "e"))
    rows, refused, files = ingested(a_live(tmp_path, transcript__jsonl=lines), segment_s=3)
    assert [r["speech"] for r in rows] == ["a e b", "e b d c", "e"]
    assert [(r["key"], r["reason"]) for r in refused] == [("ann/one.transcript.jsonl", "bad_transcript")]
    assert files["ann/one.transcript.jsonl"]["used"] == 5


def test_a_bad_file_costs_only_what_it_holds(tmp_path: Path):
    rows, refused, files = ingested(
        a_live(tmp_path, chat__json=b"{", srt=b"1\n00:00:00,0 --> 00:00:01,0\nhi", vtt=b"{")
    )
    assert [(r["comments"], r["speech"]) for r in rows] == [([], "hi")]
    assert [(r["key"], r["reason"]) for r in refused] == [("ann/one.chat.json", "bad_chat")]
    assert files["ann/one.vtt"]["why"] == "ann/one.srt is used, which comes before it"


def test_a_file_that_holds_nothing_leaves_the_place_to_the_next(tmp_path: Path):
    source = a_live(
        tmp_path, chat__json=b"[]", json=chat(message(1)), transcript__jsonl=b"", srt=b"0:01,0 --> 0:02,0\nhi"
    )
    rows, refused, files = ingested(source)
    assert ([c["text"] for c in rows[0]["comments"]], rows[0]["speech"], refused) == (["hello there"], "hi", [])
    assert {file: (row["kind"], row["found"], row["used"]) for file, row in files.items()} == {
        "ann/one.mp4": ("video", 1, 1),
        "ann/one.chat.json": ("chat", 0, 0),
        "ann/one.json": ("chat", 1, 1),
        "ann/one.transcript.jsonl": ("transcript", 0, 0),
        "ann/one.srt": ("transcript", 1, 1),
    }


def test_nothing_said_is_not_the_same_as_no_transcript(tmp_path: Path):
    assert [r["speech"] for r in ingested(a_live(tmp_path / "a", transcript__jsonl=b""))[0]] == [""]
    assert [r["speech"] for r in ingested(a_live(tmp_path / "b", transcript__jsonl=b"{"))[0]] == [None]


def test_what_lies_beside_a_video_without_pictures_is_counted_and_not_rejected_again(tmp_path: Path):
    source = a_live(tmp_path, chat__json=chat(message(1), message(2)))
    (source / "ann" / "one.mp4").write_bytes(b"no video")
    rows, refused, files = ingested(source)
    assert (rows, [(r["key"], r["reason"]) for r in refused]) == ([], [("ann/one", "unreadable_video")])
    assert (files["ann/one.chat.json"]["found"], files["ann/one.chat.json"]["left_out"]) == (2, 2)
    assert (files["ann/one.mp4"]["found"], files["ann/one.mp4"]["left_out"]) == (1, 1)


def test_segments_that_are_lost_are_counted(tmp_path: Path):
    path = tmp_path / "ann" / "one.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        encode(container, "libx264", 20, (64, 48), 8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    rows, refused, files = ingested(tmp_path, segment_s=2)
    report = files["ann/one.mp4"]
    assert (report["found"], report["used"]) == (10, len(rows))
    assert 0 < report["left_out"] < 10
    assert refused[0]["detail"] in report["why"]


def test_a_comment_written_while_the_sound_goes_on_belongs_to_the_last_segment(tmp_path: Path):
    path = tmp_path / "ann" / "one.mkv"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        encode(container, "mpeg4", 4, (64, 48), 8)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * 43 // 10), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    path.with_suffix(".chat.json").write_bytes(chat(message(3.5), message(4.25), message(4.4)))
    rows, refused, _ = ingested(tmp_path, segment_s=3)
    assert [[c["offset_ms"] for c in r["comments"]] for r in rows] == [[], [500, 1250]]
    assert "1 after the end of the video at 4.3 s" in refused[0]["detail"]
