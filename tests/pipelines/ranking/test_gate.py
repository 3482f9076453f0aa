"""Nothing is served unjudged: evaluation lets a ranker through, or what is served stays."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from models.artifacts.manifest import ArtifactError
from pipelines import daily
from pipelines.ranking import evaluate, publish
from pipelines.ranking.gate import KIND, Evaluation, GateConfig, Judged, judge, served_version
from pipelines.runtime.config import ConfigError, build
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage
from tests.pipelines.conftest import tiny_train, train_here
from tests.pipelines.jobs import run_job

DAY = "2026-01-03"


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(Storage.open(str(tmp_path)))


def judged(gauc: float, run_id: str = "new") -> Judged:
    return Judged(ranker="sarm", run_id=run_id, metrics={"click": {"auc": 0.7, "gauc": gauc}})


def evaluated(artifacts: Artifacts, gauc: float, served: float | None = None) -> None:
    other = None if served is None else judged(served, "old")
    Evaluation(day=DAY, rankers=(judged(gauc),), served=other).publish(artifacts)


def test_an_evaluation_is_read_as_it_was_published(artifacts: Artifacts):
    evaluation = Evaluation(day=DAY, rankers=(judged(0.6),), served=judged(0.5, "old"))
    evaluation.publish(artifacts)
    assert Evaluation.load(artifacts.fetch(KIND)) == evaluation
    assert artifacts.manifest(KIND).made_from == {"sarm": "new"}


def test_who_is_a_little_worse_than_the_served_one_goes_through(artifacts: Artifacts):
    evaluated(artifacts, 0.6, served=0.609)
    verdict = judge(GateConfig(), artifacts, "sarm", "new")
    assert (verdict["gauc"], verdict["against"], verdict["task"]) == (0.6, "sarm old", "click")


def test_who_is_much_worse_than_the_served_one_does_not(artifacts: Artifacts):
    evaluated(artifacts, 0.6, served=0.62)
    with pytest.raises(
        ArtifactError, match=r"wanted a click GAUC of at least 0.6100 on 2026-01-03 \(sarm old\), got 0.6"
    ):
        judge(GateConfig(), artifacts, "sarm", "new")
    assert judge(GateConfig(tolerance=0.03), artifacts, "sarm", "new")["gauc"] == 0.6


def test_the_first_one_has_nobody_to_be_compared_with(artifacts: Artifacts):
    evaluated(artifacts, 0.45)
    assert judge(GateConfig(), artifacts, "sarm", "new")["least"] == 0.0


def test_a_floor_is_a_floor(artifacts: Artifacts):
    evaluated(artifacts, 0.6, served=0.9)
    assert judge(GateConfig(rule="floor", floor=0.6), artifacts, "sarm", "new")["gauc"] == 0.6
    with pytest.raises(ArtifactError, match=r"at least 0.6100 on 2026-01-03 \(floor\)"):
        judge(GateConfig(rule="floor", floor=0.61), artifacts, "sarm", "new")


def test_a_gauc_that_is_no_number_lets_nobody_through(artifacts: Artifacts):
    evaluated(artifacts, float("nan"))
    with pytest.raises(ArtifactError, match="got nan"):
        judge(GateConfig(), artifacts, "sarm", "new")


def test_who_was_not_evaluated_is_not_published(artifacts: Artifacts):
    with pytest.raises(ArtifactError, match="wanted an evaluation of sarm new, got none; run the job evaluate"):
        judge(GateConfig(), artifacts, "sarm", "new")
    evaluated(artifacts, 0.6)
    with pytest.raises(ArtifactError, match="wanted an evaluation of sarm newer, got that of sarm new"):
        judge(GateConfig(), artifacts, "sarm", "newer")
    assert judge(GateConfig(rule="off"), artifacts, "sarm", "newer") == {"rule": "off"}


def test_a_task_that_is_none_is_named(artifacts: Artifacts):
    evaluated(artifacts, 0.6)
    with pytest.raises(ArtifactError, match=r"publish.gate.task: wanted a task of sarm \(click\), got 'buy'"):
        judge(GateConfig(task="buy"), artifacts, "sarm", "new")


@pytest.mark.parametrize("wrong", [{"rule": "maybe"}, {"tolerance": -1}, {"floor": 2}])
def test_wrong_settings_are_refused(wrong: dict[str, object]):
    with pytest.raises(ConfigError, match=r"config.publish.gate"):
        build(Settings, {"publish": {"gate": wrong}})


def gated(settings: Settings, **gate: object) -> Settings:
    return replace(settings, publish=replace(settings.publish, gate=build(GateConfig, gate)))


def test_bank_model_and_evaluation_go_out_together(trained: Settings):
    artifacts = Artifacts(Storage.open(trained.storage.root))
    with pytest.raises(ArtifactError, match="run the job evaluate"):
        run_job(publish, gated(trained))
    assert served_version(artifacts) is None
    run_job(evaluate, trained)
    run_job(publish, gated(trained))
    assert served_version(artifacts) == ("sarm", artifacts.current("sarm"))
    assert artifacts.manifest("bank").made_from["evaluation"] == artifacts.current(KIND)


def test_a_worse_ranker_is_measured_beside_the_served_one_and_kept_back(trained: Settings):
    artifacts = Artifacts(Storage.open(trained.storage.root))
    run_job(evaluate, trained)
    run_job(publish, gated(trained))
    good, bank = artifacts.current("sarm"), artifacts.current("bank")
    worse = replace(trained, train=replace(tiny_train(), lr_dense=0.0, lr_ids=0.0, lr_encoder=0.0))
    train_here(worse, number=2)
    result = run_job(evaluate, worse)
    assert result["served"]["run_id"] == good
    gaps = result["served"]["metrics"]["click"]["gauc"] - result["metrics"]["sarm"]["click"]["gauc"]
    assert gaps > 0
    with pytest.raises(ArtifactError, match="what is served stays"):
        run_job(publish, gated(worse, tolerance=gaps / 2))
    assert artifacts.current("bank") == bank
    run_job(publish, gated(worse, tolerance=gaps * 2))
    assert served_version(artifacts) == ("sarm", artifacts.current("sarm")) != ("sarm", good)


def test_without_a_day_to_judge_on_daily_says_so_before_it_works(tiny: Settings):
    with pytest.raises(ConfigError, match="train.test_days: 0 leaves no day on which the ranker could be judged"):
        daily.run(replace(gated(tiny), train=replace(tiny.train, test_days=0)))


def test_the_file_is_plain_json(artifacts: Artifacts):
    evaluated(artifacts, 0.6)
    (file,) = [path for path in artifacts.fetch(KIND).iterdir() if path.name == "evaluation.json"]
    assert json.loads(file.read_text())["rankers"][0]["metrics"]["click"]["gauc"] == 0.6
