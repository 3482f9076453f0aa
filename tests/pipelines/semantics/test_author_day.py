"""An author's day as the model reads it."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from pipelines.semantics import author_day
from pipelines.semantics.author_day import PromptConfig, gather
from pipelines.tables import contract
from pipelines.tables.storage import Storage


def row(
    segment: int, speech: str | None, *, author_id: int = 1, start: int = 0, broken: bool = False
) -> dict[str, Any]:
    sink = io.BytesIO()
    Image.new("L", (16, 16), 20 * segment).save(sink, "JPEG")
    jpeg = sink.getvalue()[:50] if broken else sink.getvalue()
    return {
        "author_id": author_id,
        "live_id": start,
        "segment": segment,
        "start_ts_ms": start + 30_000 * segment,
        "frames": [{"offset_ms": 0, "jpeg": jpeg}],
        "speech": speech,
        "comments": [
            {"user_id": 1, "offset_ms": 0, "text": f"comment {'abcdefgh'[segment]}", "engagement": 0.1 * segment}
        ],
        "viewers": 1,
        "likes": segment,
        "gifts": 0,
    }


def test_speech_is_that_of_the_chosen_segments_in_time_order():
    day = gather("x", [row(i, f"speech {i}") for i in range(6)], PromptConfig(num_frames=2))
    assert len(day.frames) == 2 and len(day.speech) == 2
    assert list(day.speech) == sorted(day.speech)
    assert day.speech[-1] == "speech 5", "the most liked segment is chosen first"


def test_silence_and_broken_frames_bring_no_speech():
    day = gather("x", [row(0, None), row(1, "  "), row(2, "heard"), row(3, "lost", broken=True)], PromptConfig())
    assert day.speech == ("heard",)
    assert len(day.frames) == 3
    assert len(day.bad_frames) == 1 and day.bad_frames[0].startswith("live 0 segment 3 frame 0 at 0 ms")


def test_everything_is_bounded_and_on_one_line():
    config = PromptConfig(num_frames=1, num_comments=2, max_speech_chars=10)
    day = gather(" Mila \n from\tLopar ", [row(i, "many \n words " * 50) for i in range(4)], config)
    assert day.profile == "Mila from Lopar"
    assert day.speech == ("many words",)
    assert day.comments == ("comment d", "comment c")


def test_the_content_holds_the_chosen_parts():
    day = gather("Mila", [row(1, "said")], PromptConfig())
    first, image, last = day.content()
    assert "Mila" in first["text"] and image["type"] == "image_url"
    assert "said" in last["text"] and "comment b" in last["text"]


def test_where_there_is_no_frame_the_first_segments_are_heard():
    silent = [{**row(number, f"said {number}"), "frames": []} for number in range(3)]
    assert gather("Mila", silent, PromptConfig(num_frames=2)).speech == ("said 0", "said 1")
    assert gather("Mila", silent, PromptConfig(num_frames=0)).speech == ("said 0",)


def test_a_day_is_streamed_author_by_author(tiny_store: Path):
    storage = Storage.open(str(tiny_store / "store"))
    day = storage.days("segments")[0]
    streamed = list(author_day.stream(storage, day))
    whole = storage.read("segments", day)
    assert [author_id for author_id, _ in streamed] == sorted(set(whole["author_id"].to_pylist()))
    assert [r for _, rows in streamed for r in rows] == whole.to_pylist()
    assert list(author_day.group(whole.take(list(range(whole.num_rows))[::-1]))) == streamed


def test_an_authors_rows_are_in_time_order_over_lives():
    rows = [row(1, "late", start=10**6), row(0, "early"), row(0, "other", author_id=2), row(0, "middle", start=10**6)]
    table = pa.Table.from_pylist(rows, schema=contract.spec("segments").schema)
    grouped = dict(author_day.group(table))
    assert [r["speech"] for r in grouped[1]] == ["early", "middle", "late"]
    assert [r["speech"] for r in grouped[2]] == ["other"]
