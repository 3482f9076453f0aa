"""Tasks of other names, from label columns to served probabilities, and what does not fit together."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.artifacts.manifest import ArtifactError
from pipelines.ranking import evaluate, publish
from pipelines.ranking.plan import make_plan
from pipelines.ranking.published import load
from pipelines.samples import examples
from pipelines.samples.batches import read_examples
from pipelines.serving.offline import example_request
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from serve.schema import RankRequest
from serve.user_sequence import UserSequence
from tests.pipelines.conftest import tiny_settings, train_here
from tests.pipelines.jobs import run_job
from tests.serve.conftest import watcher_of

TASKS = {"click": "inter", "subscribe": "inter", "stay": "watch"}
DAY = "2026-01-03"


def _with_tasks(settings: Settings, **tasks: str) -> Settings:
    ranker = replace(settings.train.ranker, tasks=tasks)
    return replace(settings, train=replace(settings.train, ranker=ranker))


@pytest.fixture(scope="module")
def relabelled(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The tiny store, whose follows are called subscribe and whose long views are the booleans stay; no gifts."""
    root = tmp_path_factory.mktemp("tasks") / "tiny"
    shutil.copytree(tiny_store, root)
    settings = _with_tasks(tiny_settings(root), **TASKS)
    storage = Storage.open(settings.storage.root)
    for day in storage.days("impressions"):
        shown = storage.read("impressions", day)
        stay = shown["long_view"].cast(pa.bool_())
        made = shown.append_column("subscribe", shown["follow"]).append_column("stay", stay)
        storage.write("impressions", day, [made.drop_columns(["follow", "long_view", "gift"])])
    run_job(examples, settings)
    settings = replace(settings, publish=replace(settings.publish, until="2026-01-02"))
    train_here(settings)
    return settings


def test_the_job_examples_passes_labels_on(relabelled: Settings) -> None:
    storage = relabelled.open().storage
    shown, rows = storage.read("impressions", DAY), storage.read("examples", DAY)
    assert storage.labels("examples", DAY) == list(TASKS)
    of = dict(zip(shown["impression_id"].to_pylist(), shown.select(list(TASKS)).to_pylist(), strict=True))
    found = zip(rows["impression_id"].to_pylist(), rows.select(list(TASKS)).to_pylist(), strict=True)
    assert all(of[impression] == labels for impression, labels in found)


def test_rankers_are_trained_measured_and_served_with_these_tasks(relabelled: Settings) -> None:
    assert load(Artifacts(relabelled.open().storage), "sarm").tasks == tuple(TASKS)
    metrics = run_job(evaluate, relabelled)["metrics"]
    assert {name: list(of) for name, of in metrics.items()} == dict.fromkeys(("sarm", "base"), list(TASKS))
    run_job(publish, relabelled)
    sequence = UserSequence(watcher_of(Path(relabelled.storage.root)))
    columns = read_examples(relabelled.open().storage, DAY)
    with np.load(Path(relabelled.run_dir) / "scores-sarm.npz") as file:
        wanted = file["scores"]
    for task, scores in zip(TASKS, wanted.T, strict=True):
        assert metrics["sarm"][task] == pytest.approx(evaluate.measure(columns, scores[:, None], [task])[task])
    for row in range(0, len(wanted), 100):
        request = RankRequest.model_validate(example_request(columns, row, [columns["author_id"][row]]))
        answer = sequence.rank(request).candidates[0]
        np.testing.assert_allclose([getattr(answer, task) for task in TASKS], wanted[row], atol=1e-5)


def test_a_task_without_a_column_is_named_before_anything_is_trained(relabelled: Settings) -> None:
    settings = _with_tasks(relabelled, click="inter", buy="trade")
    run = settings.open()
    with pytest.raises(ContractError, match="2026-01-01: .* got click, subscribe, stay and no buy; add"):
        make_plan(settings.train, run, Artifacts(run.storage), ())


def test_tasks_in_another_order_are_another_plan(relabelled: Settings) -> None:
    run, turned = relabelled.open(), _with_tasks(relabelled, **dict(reversed(TASKS.items())))
    made = [make_plan(of.train, run, Artifacts(run.storage), ())[1]["config"] for of in (relabelled, turned)]
    assert made[0] != made[1]


def test_rankers_of_different_tasks_are_not_compared(relabelled: Settings, tmp_path: Path) -> None:
    shutil.copytree(Path(relabelled.storage.root).parent, tmp_path / "tiny")
    settings = _with_tasks(tiny_settings(tmp_path / "tiny"), click="inter", stay="watch")
    shutil.rmtree(tmp_path / "tiny" / "store" / "artifacts" / "base")
    train_here(replace(settings, train=replace(settings.train, sources=())))
    with pytest.raises(ArtifactError, match="sarm has click subscribe stay, base has click stay; train them again"):
        run_job(evaluate, settings)
