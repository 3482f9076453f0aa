"""What of a day's anchors stands when the day is done again."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.semantics import carried, prompt
from pipelines.sources.rows import to_table
from pipelines.tables import contract, rejections
from pipelines.tables.storage import Storage

DAY = "2026-01-01"
MADE_FROM = {"segments": "s1", "model": "m1", "prompt": "p1"}
LATER = MADE_FROM | {"segments": "s2"}
FIELDS = {name: ["a phrase", "two"][:most] for name, most in contract.FIELD_LIMITS.items()}


def segment(author_id: int, number: int = 0, **changes: Any) -> dict[str, Any]:
    row = {"author_id": author_id, "live_id": author_id, "segment": number, "start_ts_ms": 30_000 * number}
    frames = [{"offset_ms": 0, "jpeg": b"frame %d" % author_id}, {"offset_ms": 9, "jpeg": b"second"}]
    comments = [{"user_id": 1, "offset_ms": 2, "text": "hi", "engagement": 1.0}]
    about = {"frames": frames, "speech": "hello", "comments": comments, "viewers": 1, "likes": 1, "gifts": 0}
    return row | about | changes


def put_segments(storage: Storage, *files: Iterable[dict[str, Any]]) -> None:
    storage.write("segments", DAY, [to_table("segments", list(rows)) for rows in files])


def put_profile(storage: Storage, author_id: int, profile: str) -> None:
    row = {"author_id": author_id, "profile": profile, "category": None, "tags": [], "first_live_day": None}
    row["first_live_day"] = pa.scalar(0, pa.date32()).as_py()
    storage.write("authors", DAY, [to_table("authors", [row])])


def put_anchors(storage: Storage, authors: Iterable[int], made_from: dict[str, str] = MADE_FROM) -> None:
    about = {"text": "t", "model": "m", "prompt_hash": "", "schema_hash": "", "num_frames": 2, "num_comments": 1}
    rows = [{"author_id": author, **FIELDS, **about} for author in authors]
    storage.write("anchors", DAY, [to_table("anchors", rows)], made_from)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A day that is done: anchors of the authors 1, 2 and 3, a rejection of 4, and an unreadable frame of 2."""
    storage = Storage.open(str(tmp_path))
    put_segments(storage, [segment(author) for author in (1, 2, 3, 4)])
    carried.write(storage, DAY, MADE_FROM, carried.inputs_of(storage, DAY))
    rejections.replace(storage, DAY, "anchors", [{"key": "4", "reason": "no_frames", "detail": "none"}])
    frame = {
        "key": "2 live 2 segment 0 frame 0 at 0 ms",
        "reason": "bad_image",
        "detail": "live 2 segment 0 frame 0 at 0 ms: cut",
    }
    rejections.replace(storage, DAY, "keyframes", [frame])
    put_anchors(storage, (1, 2, 3))
    return storage


def kept(storage: Storage, made_from: dict[str, str] = LATER) -> list[dict[str, Any]]:
    rows = carried.answers(storage, DAY, made_from, carried.inputs_of(storage, DAY)).to_pylist()
    return sorted(rows, key=lambda row: row["author_id"])


def test_one_late_segment_costs_one_author(storage: Storage) -> None:
    put_segments(storage, [segment(author) for author in (1, 2, 3, 4)] + [segment(3, 1)])
    assert [row["author_id"] for row in kept(storage)] == [1, 2, 4]


def test_anchors_and_rejections_come_back_as_answers(storage: Storage) -> None:
    first, second, _, rejected = kept(storage)
    assert prompt.parse(first["answer"]) == FIELDS
    assert (first["num_frames"], first["num_comments"], first["reason"], first["bad_frames"]) == (2, 1, "", [])
    assert second["bad_frames"] == ["live 2 segment 0 frame 0 at 0 ms: cut"]
    assert (rejected["reason"], rejected["detail"]) == ("no_frames", "none")


def test_an_author_who_is_new_or_gone_changes_no_other(storage: Storage) -> None:
    put_segments(storage, [segment(author) for author in (2, 3, 5)])
    assert [row["author_id"] for row in kept(storage)] == [2, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"speech": "other"},
        {"speech": None},
        {"likes": 2},
        {"frames": [{"offset_ms": 0, "jpeg": b"frame 1"}, {"offset_ms": 9, "jpeg": b"secone"}]},
        {"frames": [{"offset_ms": 0, "jpeg": b"frame 1second"}, {"offset_ms": 9, "jpeg": b""}]},
        {"comments": []},
    ],
)
def test_any_change_of_a_segment_is_seen(storage: Storage, changes: dict[str, Any]) -> None:
    put_segments(storage, [segment(1, **changes)] + [segment(author) for author in (2, 3, 4)])
    assert [row["author_id"] for row in kept(storage)] == [2, 3, 4]


def test_a_changed_profile_is_seen(storage: Storage) -> None:
    put_profile(storage, 2, "moved to the harbour")
    assert [row["author_id"] for row in kept(storage)] == [1, 3, 4]


@pytest.mark.parametrize("change", [{"model": "m2"}, {"prompt": "p2"}])
def test_another_model_or_prompt_keeps_nothing(storage: Storage, change: dict[str, str]) -> None:
    assert kept(storage, LATER | change) == []


def test_the_order_of_rows_and_files_changes_nothing(storage: Storage) -> None:
    rows = [segment(author, number) for author in (1, 2, 3) for number in (0, 1)]
    put_segments(storage, rows)
    inputs = carried.inputs_of(storage, DAY)
    put_segments(storage, rows[::-1][:1], rows[::-1][1:])
    assert carried.inputs_of(storage, DAY) == inputs


def test_hashes_of_a_run_that_ended_before_its_commit_keep_nothing(storage: Storage) -> None:
    put_segments(storage, [segment(1, likes=7), segment(2)])
    carried.write(storage, DAY, LATER, carried.inputs_of(storage, DAY))
    assert kept(storage) == []


def test_an_author_with_an_anchor_and_a_rejection_is_asked_again(storage: Storage) -> None:
    rows = [{"key": key, "reason": "no_frames", "detail": ""} for key in ("1", "4")]
    rejections.replace(storage, DAY, "anchors", rows)
    assert [row["author_id"] for row in kept(storage)] == [2, 3, 4]


def test_a_day_that_somebody_brought_keeps_nothing(storage: Storage) -> None:
    put_anchors(storage, (1, 2, 3), {})
    assert kept(storage) == []


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_tasks_see_what_one_process_sees(storage: Storage) -> None:
    put_segments(storage, *([segment(author, number)] for author in (1, 2) for number in (0, 1)))
    by_tasks = carried.inputs_of(storage, DAY)
    put_segments(storage, [segment(author, number) for author in (1, 2) for number in (0, 1)])
    assert carried.inputs_of(storage, DAY) == by_tasks
