"""What an engine is asked, row by row: one author's faults are a rejection of that author."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.semantics import gather, pictures, prompt
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.budget import Budget
from pipelines.semantics.checkpoint import STUDENT, Checkpoint
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.gather import Gathering, Prompts
from pipelines.tables import contract
from pipelines.tables.storage import Storage

DAY = "2026-01-01"


def jpeg(width: int = 64, height: int = 64) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 199)).save(sink, "JPEG")
    return sink.getvalue()


COMMENT = {"user_id": 1, "offset_ms": 0, "text": "so good", "engagement": 1.0}


def segment(
    author_id: int, *, frames: Any = None, comments: Any = None, speech: str | None = "hello"
) -> dict[str, Any]:
    return {
        "author_id": author_id, "live_id": author_id, "segment": 0, "start_ts_ms": 1767225600000, "speech": speech,
        "frames": [{"offset_ms": 0, "jpeg": jpeg()}] if frames is None else frames,
        "comments": [COMMENT] if comments is None else comments,
        "viewers": 0, "likes": 0, "gifts": 0,
    }  # fmt: skip


def stored(root: Path, rows: list[dict[str, Any]]) -> Storage:
    """Segments as a user's own writer leaves them, so that nothing of ours looked at them."""
    storage = Storage.open(str(root))
    folder = Path(storage.folder("segments", DAY))
    folder.mkdir(parents=True)
    schema = contract.spec("segments").schema
    loose = pa.schema([pa.field(f.name, nullable(f.type), True) for f in schema])
    pq.write_table(pa.Table.from_pylist(rows, schema=loose), folder / "a.parquet")
    return storage


def nullable(kind: pa.DataType) -> pa.DataType:
    """The same type, with nulls allowed at every depth."""
    if pa.types.is_list(kind):
        return pa.list_(nullable(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, f.type, True) for f in kind])
    return kind


def rows_of(storage: Storage, authors: list[int], **limits: Any) -> dict[int, dict[str, Any]]:
    prompts = PromptConfig()
    budget = Budget.of(Checkpoint.read(str(STUDENT)), prompts, EngineConfig())
    told = Gathering(root=storage.url, model=str(STUDENT), prompts=prompts, budget=replace(budget, **limits))
    rows = Prompts(told).of([(DAY, author) for author in authors])
    assert pa.Table.from_pylist(rows, schema=gather.GATHERED).num_rows == len(authors)
    return {row["author_id"]: row for row in rows}


@pytest.mark.parametrize(
    ("bad", "reason", "said"),
    [
        (segment(2, frames=[{"offset_ms": 0, "jpeg": jpeg()}, None]), "bad_row", "null"),
        (segment(2, comments=[None]), "bad_row", "null"),
        (segment(2, frames=[{"offset_ms": 0, "jpeg": None}], speech=None, comments=[]), "bad_", ""),
        (
            segment(2, frames=[{"offset_ms": 0, "jpeg": b"\xff\xd8nothing"}]),
            "bad_image",
            "live 2 segment 0 frame 0 at 0 ms",
        ),
        (segment(2, frames=[{"offset_ms": 0, "jpeg": jpeg(1, 3000)}]), "bad_image", "1 x 3000 pixels"),
        (segment(2, frames=[], comments=[], speech=None), "no_frames", "no speech"),
    ],
)
def test_an_author_who_cannot_be_read_is_rejected_alone(tmp_path: Path, bad: dict[str, Any], reason: str, said: str):
    rows = rows_of(stored(tmp_path, [segment(1), bad, segment(3)]), [1, 2, 3])
    assert rows[2]["reason"].startswith(reason) and said in rows[2]["detail"]
    assert rows[2]["prompt"] == ""
    for author in (1, 3):
        assert rows[author]["reason"] == "" and len(rows[author]["frames"]) == 1


def test_a_prompt_is_the_instruction_in_the_checkpoint_s_own_template(tmp_path: Path):
    row = rows_of(stored(tmp_path, [segment(1)]), [1])[1]
    assert row["prompt"].startswith("<|im_start|>user\n[Author Profile]")
    assert row["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert row["prompt"].count("<|image_pad|>") == 1 and prompt.INSTRUCTION in row["prompt"]
    assert "hello" in row["prompt"] and "so good" in row["prompt"] and row["num_comments"] == 1
    assert row["frames"] == [jpeg()], "a frame that fits is not touched"


def test_large_frames_are_sent_at_the_size_that_the_model_reads(tmp_path: Path):
    row = rows_of(stored(tmp_path, [segment(1, frames=[{"offset_ms": 0, "jpeg": jpeg(1280, 1280)}])]), [1])[1]
    assert pictures.decoded(row["frames"][0]).size == (64, 64)  # what the student's processor makes of any frame


def test_a_prompt_that_cannot_fit_says_both_numbers(tmp_path: Path):
    storage = stored(tmp_path, [segment(1), segment(2, speech=None, comments=[])])
    rows = rows_of(storage, [1, 2], max_model_len=345)
    assert {row["reason"] for row in rows.values()} == {"prompt_too_long"}
    assert "max_model_len = 345" in rows[1]["detail"]


def test_a_storage_that_fails_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage = stored(tmp_path, [segment(1)])
    real, failed = Storage.read, []

    def flaky(self: Storage, *args: Any, **kwargs: Any) -> pa.Table:
        if not failed:
            failed.append(1)
            raise OSError("connection reset")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Storage, "read", flaky)
    monkeypatch.setattr(gather.time, "sleep", lambda _: None)
    assert rows_of(storage, [1])[1]["reason"] == ""
