"""Two sources stacked, by a line of the configuration: trained, evaluated, published, served."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import TASKS
from models.artifacts import bank
from pipelines.ranking import evaluate, publish
from pipelines.samples.batches import read_examples
from pipelines.serving.offline import example_request
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from serve.schema import RankRequest
from serve.user_sequence import UserSequence
from tests.pipelines.conftest import tiny_settings, tiny_train, train_here
from tests.pipelines.jobs import run_job
from tests.serve.conftest import watcher_of

NAME, DAY = "sarm+tags", "2026-01-03"


@pytest.fixture(scope="module")
def stacked(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("stacked") / "tiny"
    shutil.copytree(tiny_store, root)
    tiny = tiny_settings(root)
    train = tiny_train(("sarm", "tags"))
    settings = replace(tiny, train=train, publish=replace(tiny.publish, until="2026-01-02"))
    train_here(settings)
    return settings


@pytest.fixture(scope="module")
def metrics(stacked: Settings) -> dict[str, dict[str, dict[str, float]]]:
    found = run_job(evaluate, stacked)["metrics"]
    run_job(publish, stacked)
    return found


def test_it_is_measured_beside_base(stacked: Settings, metrics: dict[str, dict[str, dict[str, float]]]) -> None:
    assert list(metrics) == [NAME, "base", "oracle"]
    assert metrics[NAME]["click"]["auc"] != metrics["base"]["click"]["auc"]


def test_the_bank_holds_a_state_of_each_source(stacked: Settings, metrics: object) -> None:
    artifacts = Artifacts(stacked.open().storage)
    states = bank.read(artifacts.fetch("bank")).states
    made_from = artifacts.manifest("bank").made_from
    assert {name: (state.dtype.name, state.ndim) for name, state in states.items()} == {
        "sarm": ("float32", 3),
        "tags": ("int64", 2),
    }
    assert states["tags"].any() and made_from["ranker"] == NAME
    assert made_from["sarm/anchors"] and made_from["tags/authors"]


def test_served_scores_are_the_offline_ones(stacked: Settings, metrics: object) -> None:
    storage = stacked.open().storage
    sequence = UserSequence(watcher_of(Path(storage.url)))
    columns = read_examples(storage, DAY)
    with np.load(Path(stacked.run_dir) / f"scores-{NAME}.npz") as file:
        wanted = file["scores"]
    for row in range(0, len(wanted), 25):
        request = example_request(columns, row, [columns["author_id"][row]])
        answer = sequence.rank(RankRequest.model_validate(request))
        got = [getattr(answer.candidates[0], task) for task in TASKS]
        np.testing.assert_allclose(got, wanted[row], atol=1e-5)


def test_each_source_has_a_say(stacked: Settings, metrics: object) -> None:
    snapshot = watcher_of(Path(stacked.storage.root)).current
    weights = snapshot.model.ranker.extra_scale
    assert weights is not None and len(weights) == 3 * 8 + 8  # [CLS], [TAR], tags; then [UIN]
    with pytest.raises(ValueError, match="sources sarm, tags, wanted sids"):
        snapshot.model.source("sids")


def test_chains_publish_the_ranker_that_they_train(stacked: Settings) -> None:
    """Also where another one with sources is published beside it."""
    chained = stacked.of_one_ranker()
    assert chained.publish.ranker == chained.analyse.ranker == NAME
    named = replace(stacked, publish=replace(stacked.publish, ranker="sarm")).of_one_ranker()
    assert named.publish.ranker == "sarm"


def test_base_alone_can_be_published_and_served(stacked: Settings, tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    shutil.copytree(Path(stacked.storage.root).parent, root)
    alone = tiny_settings(root)
    alone = replace(alone, publish=replace(alone.publish, ranker="base", until="2026-01-02"))
    run_job(evaluate, alone)
    assert run_job(publish, alone)["ranker"] == "base"
    columns = read_examples(alone.open().storage, DAY)
    with np.load(Path(alone.run_dir) / "scores-base.npz") as file:
        wanted = file["scores"]
    request = RankRequest.model_validate(example_request(columns, 3, [columns["author_id"][3]]))
    answer = UserSequence(watcher_of(Path(alone.storage.root))).rank(request).candidates[0]
    np.testing.assert_allclose([getattr(answer, task) for task in TASKS], wanted[3], atol=1e-5)
