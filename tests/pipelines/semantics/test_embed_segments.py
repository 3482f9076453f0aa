"""Every segment a vector or a rejection: with the real engine, and with one that dies where the test wants it to."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image
from ray.llm._internal.batch.stages.base import StatefulStageUDF
from transformers import AutoModelForImageTextToText, AutoProcessor

from pipelines.runtime.config import ConfigError
from pipelines.runtime.verdict import JobError
from pipelines.semantics import author_day, embed_segments, engine_pool, prompt, segment_carry, segment_engine
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.checkpoint import STUDENT
from pipelines.semantics.embed_segments import EmbedSegmentsConfig
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.segment_commit import FRAMES_STAGE, STAGE
from pipelines.semantics.segment_engine import VECTORS, Embedding, SegmentPrompts
from pipelines.semantics.segment_slices import SLICE_ROWS, Slice
from pipelines.semantics.segment_staging import TABLE
from pipelines.semantics.watch import Watched
from pipelines.settings import Settings
from pipelines.tables import contract, rejections
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines.jobs import run_job
from tests.pipelines.semantics.test_gather import DAY, jpeg, segment, stored

KEY = ("author_id", "live_id", "segment")


def settings_of(root: Path, **options: Any) -> Settings:
    return Settings(
        seed=21,
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        world=WorldConfig(
            num_days=1, num_authors=50, num_users=10, impressions=False, recorded_segments=4, frames_per_segment=2
        ),
        embed_segments=EmbedSegmentsConfig(**options),
    )


def keys(table: pa.Table) -> list[tuple[int, ...]]:
    return list(zip(*(table[name].to_pylist() for name in KEY), strict=True))


BAD = [
    segment(7, frames=[], comments=[], speech=None),
    segment(8, frames=[{"offset_ms": 0, "jpeg": jpeg()[:200]}], comments=[], speech=None),
    segment(9, frames=[{"offset_ms": 0, "jpeg": b"no picture"}, {"offset_ms": 1, "jpeg": jpeg()}]),
    segment(10, frames=[None]),
    segment(11, speech="a word " * 100_000),
]
"""Of these 9 and 11 can be embedded: one has a good frame too, the other's speech is cut."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[tuple[Settings, dict[str, Any]]]:
    # A step of the engine holds few prompts, so that one computed in pieces would be there, were that not off.
    engine = EngineConfig(max_model_len=256, engine_kwargs={"max_num_batched_tokens": 256})
    settings = settings_of(tmp_path_factory.mktemp("segments"), engine=engine)
    run_job(world, settings)
    storage = Storage.open(settings.storage.root)
    rows = storage.read("segments", DAY).to_pylist()
    shutil.rmtree(storage.folder("segments", DAY))
    stored(Path(settings.storage.root), [*BAD, *rows])
    yield settings, run_job(embed_segments, settings)


@pytest.mark.ray
def test_every_segment_is_a_vector_or_a_rejection(done: tuple[Settings, dict[str, Any]]) -> None:
    settings, figures = done
    storage = Storage.open(settings.storage.root)
    segments, made = storage.read("segments", DAY), storage.read(TABLE, DAY)
    rejected = rejections.of_stage(storage, DAY, STAGE).to_pylist()
    assert figures["rows_in"] == segments.num_rows == figures["embedded"] + figures["rejections"]
    assert {row["key"]: row["reason"] for row in rejected} == {
        "7 live 7 segment 0": "no_frames", "8 live 8 segment 0": "bad_image", "10 live 10 segment 0": "bad_row",
    }  # fmt: skip
    assert keys(made) == [key for key in keys(segments) if key[0] not in (7, 8, 10)]
    frames = rejections.of_stage(storage, DAY, FRAMES_STAGE).to_pylist()
    assert [row["key"].split(" at ")[0] for row in frames] == [
        "8 live 8 segment 0 frame 0",
        "9 live 9 segment 0 frame 0",
    ]


@pytest.mark.ray
def test_vectors_are_of_length_one_and_end_when_their_segment_does(done: tuple[Settings, dict[str, Any]]) -> None:
    storage = Storage.open(done[0].storage.root)
    made, segments = storage.read(TABLE, DAY), storage.read("segments", DAY)
    vectors = np.array(made["embedding"].to_pylist(), np.float32)
    assert made.schema.field("embedding").type == pa.list_(pa.float16())
    assert vectors.shape == (made.num_rows, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=2e-3)
    starts = dict(zip(keys(segments), segments["start_ts_ms"].to_pylist(), strict=True))
    assert [starts[key] + 30_000 for key in keys(made)] == made["end_ts_ms"].to_pylist()
    assert set(made["model"].to_pylist()) == {"student"}


@pytest.mark.ray
def test_batched_equals_single(done: tuple[Settings, dict[str, Any]]) -> None:
    """Against transformers, one segment at a time, frames and all, with neither vLLM nor a batch."""
    storage = Storage.open(done[0].storage.root)
    made, segments = storage.read(TABLE, DAY), storage.read("segments", DAY).to_pylist()
    by_key = {tuple(row[name] for name in KEY): row for row in segments}
    processor = AutoProcessor.from_pretrained(STUDENT)
    model = AutoModelForImageTextToText.from_pretrained(STUDENT, dtype=torch.float32).eval()
    chosen = [at for at, key in enumerate(keys(made)) if key[0] > 11][::7]
    assert len(chosen) >= 10
    for at in chosen:
        day = author_day.gather("", [by_key[keys(made)[at]]], PromptConfig())
        assert len(day.frames) == 2 and day.speech and day.comments
        turns = [{"role": "user", "content": prompt.with_marks(day.content(""))}]
        text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        images = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in day.frames]
        with torch.inference_mode():
            states = model.model(**processor(text=[text], images=images, return_tensors="pt")).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()
        np.testing.assert_allclose(np.array(made["embedding"][at].as_py(), np.float32), wanted, atol=1e-3)


class Dies(Exception):
    """The driver's end."""


class FakeEngine:
    """Vectors that tell what was read, in batches that do not follow slices; dies after some of them."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.dies_after, self.asked = dies_after, list[Slice]()

    def __call__(self, told: Embedding, slices: Sequence[Slice], config: EngineConfig) -> Iterator[pa.Table]:
        prompts, rows = SegmentPrompts(told), []
        for each in slices:
            self.asked.append(each)
            rows += prompts.of(prompts.open(each))
        for number, first in enumerate(range(0, len(rows), 40)):
            if number == self.dies_after:
                raise Dies
            yield pa.Table.from_pylist([self.answer(row) for row in reversed(rows[first : first + 40])], schema=VECTORS)

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        vector = np.array([crc32(row["prompt"].encode()) % 997, len(row["frames"])], np.float16)
        return {name: row[name] for name in VECTORS.names if name != "embedding"} | {
            "embedding": b"" if row["reason"] else vector.tobytes()
        }


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(embed_segments, "connected", lambda _: nullcontext())
    monkeypatch.setattr(embed_segments, "check_room", lambda *_, **__: None)
    return monkeypatch


def store(settings: Settings, *chunks: list[dict[str, Any]]) -> Storage:
    storage = Storage.open(settings.storage.root)
    schema = contract.spec("segments").schema
    storage.write("segments", DAY, [pa.Table.from_pylist(rows, schema=schema) for rows in chunks])
    return storage


def live(author: int, count: int) -> list[dict[str, Any]]:
    return [segment(author, frames=[], speech=f"{author} says {n}") | {"segment": n} for n in range(count)]


def test_a_killed_run_goes_on_with_the_slices_that_are_missing(tmp_path: Path, without_ray: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path / "killed")
    storage = store(settings, live(1, 150), live(2, 150))
    for dies_after in (0, 2, 3):
        without_ray.setattr(segment_engine, "vectors", FakeEngine(dies_after))
        with pytest.raises(Dies):
            run_job(embed_segments, settings)
        assert not storage.days(TABLE)
    last = FakeEngine()
    without_ray.setattr(segment_engine, "vectors", last)
    figures = run_job(embed_segments, settings)
    assert figures["embedded"] == 300 and 0 < len(last.asked) < 6
    undisturbed = settings_of(tmp_path / "undisturbed")
    store(undisturbed, live(1, 150), live(2, 150))
    run_job(embed_segments, undisturbed)
    wanted = Storage.open(undisturbed.storage.root)
    assert storage.read(TABLE, DAY).equals(wanted.read(TABLE, DAY)) and keys(storage.read(TABLE, DAY))[150] == (2, 2, 0)
    assert storage.fingerprint(TABLE, DAY) == wanted.fingerprint(TABLE, DAY)
    assert not [*(tmp_path / "killed" / "store" / "staging").iterdir()]


def test_a_file_that_came_late_costs_a_killed_run_nothing_of_the_others(
    tmp_path: Path, without_ray: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path)
    store(settings, live(5, SLICE_ROWS), live(6, SLICE_ROWS))
    without_ray.setattr(segment_engine, "vectors", FakeEngine(dies_after=2))
    with pytest.raises(Dies):
        run_job(embed_segments, settings)
    storage = store(settings, live(4, 3), live(5, SLICE_ROWS), live(6, SLICE_ROWS))
    last = FakeEngine()
    without_ray.setattr(segment_engine, "vectors", last)
    assert run_job(embed_segments, settings)["embedded"] == 2 * SLICE_ROWS + 3
    assert [each.rows for each in last.asked] == [3, SLICE_ROWS]
    assert Counter(storage.read(TABLE, DAY)["author_id"].to_pylist()) == {4: 3, 5: SLICE_ROWS, 6: SLICE_ROWS}


def test_a_late_file_asks_the_engine_for_its_own_segments_alone(
    tmp_path: Path, without_ray: pytest.MonkeyPatch
) -> None:
    settings, first, last = settings_of(tmp_path / "late"), FakeEngine(), FakeEngine()
    bad = segment(3, frames=[], comments=[], speech=None)
    chunks = [live(2, 100), [*live(3, 3)[1:], bad], live(4, 30)]
    store(settings, *chunks)
    without_ray.setattr(segment_engine, "vectors", first)
    assert run_job(embed_segments, settings)["kept"] == 0
    without_ray.setattr(segment_engine, "vectors", last)
    storage = store(settings, live(1, 10), *chunks[:2])
    figures = run_job(embed_segments, settings)
    assert (figures["rows_in"], figures["embedded"], figures["rejections"], figures["kept"]) == (113, 112, 1, 100)
    assert [each.rows for each in last.asked] == [10, 3], "of a slice with a rejection all is asked"
    anew = settings_of(tmp_path / "anew")
    wanted = store(anew, live(1, 10), *chunks[:2])
    run_job(embed_segments, anew)
    assert storage.read(TABLE, DAY).equals(wanted.read(TABLE, DAY))
    assert rejections.of_stage(storage, DAY, STAGE).equals(rejections.of_stage(wanted, DAY, STAGE))


def test_vectors_of_another_prompt_are_not_kept(tmp_path: Path, without_ray: pytest.MonkeyPatch) -> None:
    without_ray.setattr(segment_engine, "vectors", FakeEngine())
    settings = settings_of(tmp_path)
    store(settings, live(1, 5))
    run_job(embed_segments, settings)
    asked = replace(settings, embed_segments=replace(settings.embed_segments, instruction="What is on screen?"))
    assert run_job(embed_segments, asked)["kept"] == 0
    (Path(settings.storage.root, "tables", TABLE, f"day={DAY}", segment_carry.SLICES)).unlink()
    store(settings, live(1, 5), live(2, 5))
    assert run_job(embed_segments, asked)["kept"] == 0


def test_what_is_done_is_not_done_again_until_something_changes(
    tmp_path: Path, without_ray: pytest.MonkeyPatch
) -> None:
    without_ray.setattr(segment_engine, "vectors", FakeEngine())
    settings = settings_of(tmp_path)
    store(settings, live(1, 5))
    assert run_job(embed_segments, settings)["days_done"] == 1
    assert run_job(embed_segments, settings)["days_done"] == 0
    asked = replace(settings, embed_segments=replace(settings.embed_segments, instruction="What is on screen?"))
    assert run_job(embed_segments, asked)["days_done"] == 1


def test_a_day_of_which_the_engine_made_nothing_is_left_as_it_was(
    tmp_path: Path, without_ray: pytest.MonkeyPatch
) -> None:
    class Refuses(FakeEngine):
        def answer(self, row: dict[str, Any]) -> dict[str, Any]:
            return super().answer(row | {"reason": "engine_error", "detail": "no room"})

    settings = settings_of(tmp_path)
    storage = store(settings, live(1, 5))
    without_ray.setattr(segment_engine, "vectors", Refuses())
    with pytest.raises(JobError, match="none of 5 segments has a vector; 5 times engine_error, the first: no room"):
        run_job(embed_segments, settings)
    assert not storage.holds(TABLE, DAY)
    without_ray.setattr(segment_engine, "vectors", FakeEngine())
    assert run_job(embed_segments, settings)["embedded"] == 5


def test_embeddings_that_came_with_the_data_are_kept(tmp_path: Path, without_ray: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path)
    storage = store(settings, live(1, 1))
    theirs = {"author_id": 1, "live_id": 1, "segment": 0, "end_ts_ms": 0, "embedding": [np.float16(0.5)], "model": "m3"}
    storage.write(TABLE, DAY, [pa.Table.from_pylist([theirs], schema=contract.spec(TABLE).schema)])
    assert run_job(embed_segments, settings)["days_done"] == 0
    assert storage.read(TABLE, DAY)["model"].to_pylist() == ["m3"]


def test_what_cannot_be_used_is_said_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_segments, "connected", lambda _: pytest.fail("Ray was to be started"))
    settings = settings_of(tmp_path)
    with pytest.raises(ContractError, match="run ingest or world first"):
        run_job(embed_segments, settings)
    store(settings, live(1, 1))
    short = replace(settings.embed_segments, engine=EngineConfig(max_model_len=20))
    with pytest.raises(ConfigError, match=r"^embed_segments.engine.max_model_len: wanted at least"):
        run_job(embed_segments, replace(settings, embed_segments=short))
    nowhere = replace(settings.embed_segments, model="nowhere")
    with pytest.raises(ConfigError, match="nowhere"):
        run_job(embed_segments, replace(settings, embed_segments=nowhere))


class Stub(StatefulStageUDF):
    """Answers like vLLM's stage, at once; what it does to a row is written in the row's prompt."""

    def __init__(self, data_column: str, expected_input_keys: list[str], **_: Any) -> None:
        super().__init__(data_column, expected_input_keys)

    async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: Any) -> dict[str, Any]:
        if "KILLS" in row["prompt"]:
            os._exit(1)
        vector = np.array([np.nan if "NAN" in row["prompt"] else 1.0, len(row["prompt"])], np.float32)
        return {"__idx_in_batch": row["__idx_in_batch"], "__inference_error__": "", "embeddings": vector}


class WatchedStub(Watched, Stub):
    """The same, watched."""


@pytest.mark.ray
def test_a_segment_that_kills_the_engine_costs_no_other(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "ENGINE", f"{__name__}:{WatchedStub.__name__}")
    settings = settings_of(tmp_path)
    rows = live(1, 100)
    rows[30]["speech"], rows[70]["speech"] = "KILLS", "NAN"
    storage = store(settings, rows)
    figures = run_job(embed_segments, settings)
    rejected = {row["key"]: row for row in rejections.of_stage(storage, DAY, STAGE).to_pylist()}
    assert (figures["embedded"], figures["rejections"]) == (98, 2)
    killer, nan = rejected["1 live 1 segment 30"], rejected["1 live 1 segment 70"]
    assert (killer["reason"], killer["attempts"]) == ("engine_error", 3) and "died at each of 3" in killer["detail"]
    assert nan["reason"] == "engine_error" and "float16" in nan["detail"]
    made = storage.read(TABLE, DAY)
    assert pc.sum(pc.is_in(made["segment"], pa.array([30, 70], pa.int32()))).as_py() == 0
