"""`python -m pipelines daily` over a platform of 60 authors whose days arrive one after another, with the real engines.

.venv/bin/python -m pytest tests/test_daily.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from models import TASKS
from models.artifacts.manifest import CURRENT
from models.sarm.anchor_tokens import TokenRows
from pipelines import __main__ as door
from pipelines.ranking.published import load
from pipelines.samples.batches import read_examples
from pipelines.serving.offline import example_request
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from serve.schema import RankRequest
from serve.user_sequence import UserSequence
from tests.pipelines.jobs import run_job
from tests.serve.conftest import watcher_of

ROOT = Path(__file__).resolve().parents[1]
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
NEXT = "2026-01-05"
PLATFORM = ("authors", "users", "segments", "events", "impressions")
"""Tables that a platform brings; the jobs make all others."""
COMPARED = 50
DAILY: dict[str, Any] = {
    "seed": 3,
    "vocabulary": {"base_tokenizer": "pipelines/world/student/tokenizer.json", "min_frequency": 5},
    "train": {"epochs": 1, "batch_size": 256, "log_every": 2, "scaling": {"num_workers": 1}},
}
EVALUATED_BANK = f"publish.until='{DAYS[-2]}'"
"""Publishes the bank that evaluation used, to compare served with offline scores."""


@dataclass(frozen=True)
class Daily:
    """A run's folder with its store, and what the newest `daily` over it reported."""

    root: Path
    figures: dict[str, Any]

    @property
    def storage(self) -> Storage:
        return Storage.open(str(self.root / "store"))

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.storage)

    def files(self) -> dict[str, int]:
        """When each file of the store was written."""
        store = self.root / "store"
        return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}

    def served(self) -> np.ndarray:
        """[COMPARED, K] what the published bank answers for impressions of the newest day, without Ray."""
        columns = read_examples(self.storage, self.storage.days("examples")[-1])
        sequence = UserSequence(watcher_of(self.root / "store"))
        answers = []
        for row in range(COMPARED):
            request = RankRequest.model_validate(example_request(columns, row, [columns["author_id"][row]]))
            (candidate,) = sequence.rank(request).candidates
            answers.append([getattr(candidate, task) for task in TASKS])
        return np.array(answers)

    def offline(self) -> np.ndarray:
        """[COMPARED, K] what the job evaluate wrote for the same impressions."""
        columns = read_examples(self.storage, self.storage.days("examples")[-1])
        scores = np.load(self.root / "run" / "scores-sarm.npz", allow_pickle=False)
        assert (scores["impression_id"] == columns["impression_id"]).all()
        return np.asarray(scores["scores"][:COMPARED])


def command(root: Path, *overrides: str) -> list[str]:
    """Arguments of the door for a `daily` below `root`."""
    path = root / "daily.yaml"
    path.write_text(yaml.safe_dump(DAILY | {"run_dir": str(root / "run"), "storage": {"root": str(root / "store")}}))
    return ["daily", "--config", str(path), *(f"--set={override}" for override in overrides)]


def daily(root: Path, *overrides: str) -> Daily:
    """Runs `daily` in this process, on the tests' Ray."""
    assert door.main(command(root, *overrides)) == 0
    return Daily(root, json.loads((root / "run" / "daily.json").read_text()))


def arrive(platform: Storage, root: Path, days: list[str]) -> None:
    """The platform's tables of some days, in the store below `root`."""
    storage = Storage.open(str(root / "store"))
    for table in PLATFORM:
        for day in set(days) & set(platform.days(table)):
            storage.adopt(table, day, platform)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """All five days of a platform, of the first of which nobody was watched."""
    root = tmp_path_factory.mktemp("platform")
    settings = Settings(
        seed=3,
        run_dir=str(root),
        storage=StorageConfig(root=str(root / "store")),
        world=WorldConfig(
            num_days=5, warmup_days=1, num_authors=60, on_air_share=0.6, num_users=40, impressions_per_day=1000
        ),
    )
    run_job(world, settings)
    return Storage.open(settings.storage.root)


def kill_when(is_so: Callable[[], bool], root: Path, *overrides: str) -> None:
    """Starts `daily` as a user does, and sends SIGKILL once `is_so`."""
    with (root / "killed.log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "pipelines", *command(root, *overrides)],
            cwd=ROOT, env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while not is_so():
            assert job.poll() is None and time.monotonic() < deadline, (root / "killed.log").read_text()[-8000:]
            time.sleep(0.1)
        job.send_signal(signal.SIGKILL)
        job.wait()


@pytest.fixture(scope="module")
def first(platform: Storage, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Daily:
    """`daily` over four days: killed while it trains, then run again."""
    root = tmp_path_factory.mktemp("daily")
    arrive(platform, root, DAYS)
    storage = Storage.open(str(root / "store"))
    kill_when(lambda: storage.days("examples") == DAYS[1:], root, EVALUATED_BANK)
    assert not (root / "store" / "artifacts" / "sarm" / CURRENT).exists(), "it was killed too late"
    return daily(root, EVALUATED_BANK)


@pytest.fixture(scope="module")
def following(first: Daily, platform: Storage, tmp_path_factory: pytest.TempPathFactory) -> Daily:
    """`daily` after one more day has arrived, over a copy of the first run's folder."""
    root = tmp_path_factory.mktemp("following") / "daily"
    shutil.copytree(first.root, root)
    arrive(platform, root, [NEXT])
    return daily(root)


@pytest.mark.ray
def test_a_killed_run_goes_on_where_it_stopped(first: Daily) -> None:
    figures = first.figures
    assert figures["anchors"]["days_done"] == 0 and figures["anchors"]["engine_start_s"] is None
    assert figures["vocabulary"]["how"] == "current"
    assert figures["examples"]["days_written"] == []
    assert {trained["how"] for trained in figures["train"]["rankers"].values()} == {"trained"}
    assert figures["publish"]["how"] == "published"


@pytest.mark.ray
def test_it_leaves_all_tables_and_artifacts(first: Daily) -> None:
    storage, artifacts = first.storage, first.artifacts
    assert storage.days("anchors") == DAYS and storage.days("examples") == DAYS[1:]
    for day in DAYS:
        on_air = set(storage.read("segments", day, ["author_id"])["author_id"].to_pylist())
        described = set(storage.read("anchors", day)["author_id"].to_pylist())
        assert described <= on_air and len(described) > 0.9 * len(on_air)
    published = {kind: artifacts.manifest(kind) for kind in ("tokenizer", "sarm", "base", "bank")}
    assert published["bank"].made_from["model"] == published["sarm"].run_id
    assert published["sarm"].made_from["tokenizer"] == published["tokenizer"].run_id
    assert first.figures["evaluate"]["day"] == DAYS[-1] and first.figures["evaluate"]["metrics"].keys() == {
        "sarm",
        "base",
    }


@pytest.mark.ray
def test_served_scores_are_the_offline_scores(first: Daily) -> None:
    np.testing.assert_allclose(first.served(), first.offline(), rtol=0, atol=1e-5)


@pytest.mark.ray
def test_a_second_run_finds_everything_current(first: Daily) -> None:
    before = first.files()
    again = daily(first.root, EVALUATED_BANK)
    assert again.figures["anchors"]["days_done"] == 0
    assert again.figures["examples"]["days_written"] == []
    hows = [again.figures["vocabulary"], again.figures["publish"], *again.figures["train"]["rankers"].values()]
    assert [figures["how"] for figures in hows] == ["current"] * 4
    assert again.files() == before


@pytest.mark.ray
def test_a_new_day_costs_its_own_anchors_and_examples_alone(first: Daily, following: Daily) -> None:
    assert following.figures["anchors"]["days_done"] == 1
    assert following.figures["examples"]["days_written"] == [NEXT]
    assert following.storage.days("anchors") == [*DAYS, NEXT]
    for table, days in (("anchors", DAYS), ("examples", DAYS[1:])):
        for day in days:
            assert following.storage.commit_of(table, day) == first.storage.commit_of(table, day)


@pytest.mark.ray
def test_a_new_day_extends_the_vocabulary_and_trains_on_the_day_before(first: Daily, following: Daily) -> None:
    assert following.figures["vocabulary"]["how"] == "extended"
    for ranker, trained in following.figures["train"]["rankers"].items():
        assert trained["how"] == "trained"
        assert trained["days"] == [*first.figures["train"]["rankers"][ranker]["days"], DAYS[-1]]
    assert following.figures["evaluate"]["day"] == NEXT


@pytest.mark.ray
def test_a_new_day_moves_current_to_a_newer_bank(first: Daily, following: Daily) -> None:
    old, new = first.artifacts.manifest("bank"), following.artifacts.manifest("bank")
    assert following.figures["publish"]["until"] == NEXT
    assert new.run_id == following.figures["publish"]["run_id"] > old.run_id
    assert new.made_from["model"] == following.figures["publish"]["model"] != old.made_from["model"]
    assert watcher_of(following.root / "store").current.version == new.run_id
    assert following.artifacts.manifest("bank", old.run_id) == old, "readers of the old bank lost it"


@pytest.fixture(scope="module")
def followed(first: Daily, platform: Storage, tmp_path_factory: pytest.TempPathFactory) -> Daily:
    """`daily` after one more day has arrived, which goes on with the published ranker."""
    root = tmp_path_factory.mktemp("followed") / "daily"
    shutil.copytree(first.root, root)
    arrive(platform, root, [NEXT])
    return daily(root, "train.each_day=follow", "train.follow.by=windows")


@pytest.mark.ray
def test_a_daily_run_that_follows_learns_the_new_days_alone_and_publishes_what_they_made(
    first: Daily, followed: Daily
) -> None:
    """The day that the first run left out to measure is new, too; and the vocabulary has grown."""
    assert followed.figures["vocabulary"]["how"] == "extended"
    for ranker, of in followed.figures["train"]["rankers"].items():
        assert of["how"] == "followed" and of["days"] == [DAYS[-1], NEXT], ranker
        assert [judged["key"] for judged in of["judged"]] == [DAYS[-1], NEXT]
    assert "evaluate" not in followed.figures
    for job in ("windows", "window_examples"):
        assert followed.figures[job]["days_written"] == [*DAYS[1:], NEXT], job  # of the first day nobody was watched
    trained, sarm = (d.artifacts.manifest("sarm") for d in (first, followed))
    assert sarm.run_id == followed.figures["publish"]["model"] != trained.run_id
    old, new = (tokenizer_rows(d) for d in (first, followed))
    assert new.num_live_rows > old.num_live_rows
    assert followed.figures["publish"]["until"] == NEXT
    assert watcher_of(followed.root / "store").current.version == followed.figures["publish"]["run_id"]


def tokenizer_rows(run: Daily) -> TokenRows:
    """Of the published ranker."""
    (spec,) = load(run.artifacts, "sarm").model.described.specs
    return spec.typed_facts()
