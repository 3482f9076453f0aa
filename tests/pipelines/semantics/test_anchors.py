"""The daily anchor batch with the real engine: Ray Data and vLLM on the student that ships with the world.

.venv/bin/python -m pytest tests/pipelines/test_anchors.py
"""

import io
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from PIL import Image

from pipelines.pages import report_json
from pipelines.runtime.config import ConfigError
from pipelines.semantics import agreement, anchors, prompt
from pipelines.semantics.anchors import AnchorsConfig
from pipelines.semantics.checkpoint import model_fingerprint
from pipelines.semantics.engine import ANSWERS, processor_kwargs
from pipelines.semantics.engine_config import EngineConfig
from pipelines.settings import Settings
from pipelines.tables import contract, rejections
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines.jobs import run_job

ROOT = Path(__file__).resolve().parents[3]
DAYS = ("2026-01-01", "2026-01-02")
UNREADABLE = 1  # an author with nothing but a truncated JPEG


def small(root: Path, **anchor_options: Any) -> Settings:
    return Settings(
        seed=21,
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        world=WorldConfig(num_days=2, num_authors=90, num_users=10, impressions_per_day=20, impressions=False),
        anchors=AnchorsConfig(**anchor_options),
    )


def add_unreadable_author(storage: Storage, day: str) -> None:
    """An author whose only frame is cut off, and who neither speaks nor is written to."""
    sink = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(sink, "JPEG")
    row = {
        "author_id": UNREADABLE, "live_id": 1, "segment": 0, "start_ts_ms": 0, "speech": None, "comments": [],
        "frames": [{"offset_ms": 0, "jpeg": sink.getvalue()[:200]}], "viewers": 0, "likes": 0, "gifts": 0,
    }  # fmt: skip
    bad = pa.Table.from_pylist([row], schema=contract.spec("segments").schema)
    storage.write("segments", day, [bad, storage.read("segments", day)])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[Settings]:
    """Anchors of two days."""
    settings = small(tmp_path_factory.mktemp("anchors"))
    run_job(world, settings)
    add_unreadable_author(Storage.open(settings.storage.root), DAYS[0])
    run_job(anchors, settings)
    yield settings


@pytest.mark.ray
def test_every_author_of_a_day_is_an_anchor_or_a_rejection(done: Settings) -> None:
    storage = Storage.open(done.storage.root)
    for day in DAYS:
        wanted = set(storage.read("segments", day, ["author_id"])["author_id"].to_pylist())
        written = storage.read("anchors", day)["author_id"].to_pylist()
        rejected = [int(key) for key in rejections.of_stage(storage, day, "anchors")["key"].to_pylist()]
        assert sorted(written + rejected) == sorted(wanted)
    figures = report_json.read(done.run_dir)["anchors"]
    assert figures["rows_in"] == figures["anchors"] + figures["rejections"]


@pytest.mark.ray
def test_an_author_without_a_readable_frame_is_rejected_and_costs_no_other(done: Settings) -> None:
    rows = rejections.of_stage(Storage.open(done.storage.root), DAYS[0], "anchors").to_pylist()
    assert [(row["key"], row["reason"]) for row in rows] == [(str(UNREADABLE), "bad_image")]


@pytest.mark.ray
def test_anchors_say_the_truth_about_unseen_authors(done: Settings) -> None:
    storage = Storage.open(done.storage.root, oracle=True)
    shares = {field: 0.0 for field in contract.FIELDS}
    for day in DAYS:
        truth = agreement.by_author(storage.read("oracle_anchors", day).to_pylist())
        written = agreement.by_author(storage.read("anchors", day).to_pylist())
        for field, share in agreement.agreement(written, truth).items():
            shares[field] += share / len(DAYS)
    assert min(shares["theme"], shares["format"], shares["scene"]) >= 0.9
    assert min(shares["topic"], shares["target_audience"]) >= 0.85
    assert shares["point_of_interest"] >= 0.5


@pytest.mark.ray
def test_a_finished_day_is_not_done_again(done: Settings) -> None:
    storage = Storage.open(done.storage.root)
    before = [storage.commit_of("anchors", day) for day in DAYS]
    assert run_job(anchors, done)["days_done"] == 0
    assert [storage.commit_of("anchors", day) for day in DAYS] == before


@pytest.mark.ray
def test_a_late_segment_asks_the_engine_for_its_author_alone(done: Settings) -> None:
    storage = Storage.open(done.storage.root)
    before, segments = storage.read("anchors", DAYS[0]), storage.read("segments", DAYS[0])
    author = before["author_id"][0].as_py()
    row = segments.filter(pc.equal(segments["author_id"], author)).slice(0, 1).to_pylist()[0]
    late = pa.Table.from_pylist([row | {"segment": 9_999}], schema=segments.schema)
    storage.write("segments", DAYS[0], [segments, late])
    figures = run_job(anchors, done)
    assert (figures["days_done"], figures["rows_in"] - figures["kept"]) == (1, 1)
    others = pc.not_equal(before["author_id"], author)
    assert storage.read("anchors", DAYS[0]).filter(others).equals(before.filter(others))


@pytest.mark.ray
def test_a_changed_prompt_makes_the_days_due(done: Settings) -> None:
    storage = Storage.open(done.storage.root)
    fewer = replace(done.anchors, prompt=replace(done.anchors.prompt, num_frames=2))
    assert storage.is_current("anchors", DAYS[0], anchors.lineage(storage, done.anchors)[DAYS[0]])
    assert not storage.is_current("anchors", DAYS[0], anchors.lineage(storage, fewer)[DAYS[0]])


@pytest.fixture
def orphans_end() -> Iterator[None]:
    """Engines of a job that SIGKILL took away with its local Ray: nobody is left to stop them."""
    before = set(psutil.pids())
    yield
    for process in psutil.process_iter(["name"]):
        if process.pid not in before and process.info["name"].startswith("VLLM::"):
            process.kill()


@pytest.mark.ray
@pytest.mark.usefixtures("orphans_end")
def test_killed_at_random_moments_nothing_is_lost_or_written_twice(tmp_path: Path) -> None:
    """SIGKILL of the job three times: while the engine starts, and at two moments while answers come in."""
    settings = small(tmp_path)
    # So many authors that the kills together leave work to do, even at 60 authors a second.
    settings = replace(settings, world=replace(settings.world, num_authors=300))
    run_job(world, settings)
    config = tmp_path / "anchors.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "seed": settings.seed,
                "run_dir": settings.run_dir,
                "storage": {"root": settings.storage.root},
                "anchors": {"engine": {"batch_size": 8, "max_num_seqs": 8}},
            }
        )
    )
    chance = random.Random(3)
    for parts in (0, 1, 2):
        with (tmp_path / f"killed-{parts}.log").open("w") as log:
            job = subprocess.Popen(
                [sys.executable, "-m", "pipelines", "anchors", "--config", str(config)],
                cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            wait_for_parts(Path(settings.storage.root), parts, job)
            time.sleep(chance.uniform(0.0, 1.0))
            job.send_signal(signal.SIGKILL)
            job.wait()
        assert Storage.open(settings.storage.root).days("anchors") == []
    subprocess.run([sys.executable, "-m", "pipelines", "anchors", "--config", str(config)], cwd=ROOT, check=True)
    storage = Storage.open(settings.storage.root)
    for day in DAYS:
        wanted = set(storage.read("segments", day, ["author_id"])["author_id"].to_pylist())
        rejected = [int(key) for key in rejections.of_stage(storage, day, "anchors")["key"].to_pylist()]
        got = storage.read("anchors", day)["author_id"].to_pylist() + rejected
        assert len(got) == len(set(got))
        assert set(got) == wanted


def wait_for_parts(root: Path, more: int, job: "subprocess.Popen[bytes]") -> None:
    """Until `more` further parts are staged (0: until the job has begun)."""
    before = len(list(root.glob("staging/anchors-*/part-*.parquet")))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and job.poll() is None:
        begun = list(root.glob("staging/anchors-*"))
        if begun and len(list(root.glob("staging/anchors-*/part-*.parquet"))) >= before + more:
            return
        time.sleep(0.05)
    raise AssertionError(f"the job ended or stood still before {more} more parts were staged")


def answer(author_id: int, text: str, **changes: Any) -> dict[str, Any]:
    row = {"day": DAYS[0], "author_id": author_id, "answer": text, "reason": "", "detail": ""}
    return row | {"bad_frames": [], "num_frames": 4, "num_comments": 8} | changes


def test_split_rejects_what_is_no_anchor_with_the_reason() -> None:
    anchor = {field: ["a phrase"] for field in contract.FIELDS}
    rows = [
        answer(1, prompt.answer(anchor)),
        answer(2, '{"theme":["cut'),
        answer(3, '{"theme":[]}'),
        answer(4, "", reason="engine_error", detail="out of memory"),
    ]
    good, bad = anchors.split(pa.Table.from_pylist(rows, schema=ANSWERS), "models/student")
    assert [row["author_id"] for row in good] == [1]
    assert good[0]["text"].startswith("point of interest: a phrase; theme: a phrase")
    assert [(row["key"], row["reason"]) for row in bad] == [
        ("2", "truncated_answer"), ("3", "invalid_json"), ("4", "engine_error"),
    ]  # fmt: skip


def test_attempts_are_told_with_a_rejection() -> None:
    row = answer(4, "", reason="engine_error", detail="died", attempts=3)
    _, ((rejection),) = anchors.split(pa.Table.from_pylist([row], schema=ANSWERS), "m")
    assert rejection["attempts"] == 3


def test_a_day_of_which_the_engine_made_nothing_is_not_committed() -> None:
    bad = [{"reason": "engine_error", "detail": "too long"}]
    bad += [{"reason": reason, "detail": ""} for reason in ("no_frames", "bad_image", "bad_row")]
    said = anchors.nothing_came(DAYS[0], [], bad)
    assert "none of 4 authors" in said and "1 times engine_error" in said and "too long" in said
    assert anchors.nothing_came(DAYS[0], [{}], bad) == ""
    assert anchors.nothing_came(DAYS[0], [], bad[1:]) == "", "nobody could write an anchor of that"
    assert anchors.nothing_came(DAYS[0], [], []) == ""


def test_a_missing_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make distil"):
        model_fingerprint(str(tmp_path))


def test_without_segments_the_job_says_which_job_to_run_first(tmp_path: Path) -> None:
    with pytest.raises(contract.ContractError, match="run ingest or world first"):
        run_job(anchors, small(tmp_path))


def test_the_cpu_engine_is_told_not_to_bind_threads_and_never_to_fetch() -> None:
    told = processor_kwargs("model", AnchorsConfig().prompt, EngineConfig())
    assert told["runtime_env"]["env_vars"]["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert told["runtime_env"]["env_vars"]["HF_HUB_OFFLINE"] == "1"
    assert told["placement_group_config"] == {"bundles": [{"CPU": 1}]}
    assert told["engine_kwargs"]["limit_mm_per_prompt"] == {"image": 4, "video": 0}


def test_a_gpu_engine_asks_for_a_gpu_and_takes_extra_arguments() -> None:
    engine = EngineConfig(use_gpu=True, num_engines=4, engine_kwargs={"gpu_memory_utilization": 0.8})
    told = processor_kwargs("model", AnchorsConfig().prompt, engine)
    assert told["placement_group_config"]["bundles"][0]["GPU"] == 1
    assert told["concurrency"] == (4, 4)
    assert told["engine_kwargs"]["gpu_memory_utilization"] == 0.8
    assert "enforce_eager" not in told["engine_kwargs"]


def test_threads_of_a_cpu_engine_are_those_that_are_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    told = processor_kwargs("model", AnchorsConfig().prompt, EngineConfig(cpus_per_engine=3))
    assert told["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "3"
    assert told["placement_group_config"] == {"bundles": [{"CPU": 3}]}


def test_no_stage_but_the_engine_needs_torch() -> None:
    told = processor_kwargs("model", AnchorsConfig().prompt, EngineConfig())
    stages = ("chat_template_stage", "prepare_multimodal_stage", "tokenize_stage", "detokenize_stage")
    assert [told[stage]["enabled"] for stage in stages] == [False] * 4
