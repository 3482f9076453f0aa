"""Evaluation of the trained tiny platform."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import TASKS
from models.metrics import auc, gauc
from pipelines.ranking import evaluate
from pipelines.samples.batches import read_examples
from pipelines.settings import Settings
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job

DAY = "2026-01-03"


def _scores(settings: Settings, variant: str) -> dict[str, np.ndarray]:
    with np.load(Path(settings.run_dir) / f"scores-{variant}.npz") as file:
        return dict(file)


def test_metrics_are_those_of_the_scores_it_wrote(trained: Settings) -> None:
    result = run_job(evaluate, trained)
    columns = read_examples(Storage.open(trained.storage.root), DAY)
    for variant in ("sarm", "base"):
        written = _scores(trained, variant)
        assert written["impression_id"].tolist() == columns["impression_id"].tolist()
        assert written["scores"].shape == (len(columns["user_id"]), len(TASKS))
        for index, task in enumerate(TASKS):
            got, values = result["metrics"][variant][task], written["scores"][:, index]
            assert got["auc"] == pytest.approx(auc(columns[task], values), nan_ok=True)
            assert got["gauc"] == pytest.approx(gauc(columns[task], values, columns["user_id"]), nan_ok=True)


def test_the_oracle_stands_above_where_there_is_one(trained: Settings) -> None:
    metrics = run_job(evaluate, trained)["metrics"]
    assert metrics["oracle"]["click"]["auc"] > max(metrics[v]["click"]["auc"] for v in ("sarm", "base"))


def test_without_an_oracle_there_are_the_models_alone(trained: Settings) -> None:
    shutil.rmtree(Path(trained.storage.root) / "tables" / "oracle_impressions")
    assert set(run_job(evaluate, trained)["metrics"]) == {"sarm", "base"}


def test_the_evaluated_days_own_anchors_have_no_say(trained: Settings) -> None:
    run_job(evaluate, trained)
    before = _scores(trained, "sarm")["scores"]
    shutil.rmtree(Path(trained.storage.root) / "tables" / "anchors" / f"day={DAY}")
    run_job(evaluate, trained)
    assert np.array_equal(_scores(trained, "sarm")["scores"], before)


def test_earlier_anchors_have_a_say(trained: Settings) -> None:
    run_job(evaluate, trained)
    before = {v: _scores(trained, v)["scores"] for v in ("sarm", "base")}
    storage = Storage.open(trained.storage.root)
    day = storage.days("anchors")[1]
    table = storage.read("anchors", day)
    theme = table["theme"].combine_chunks()[::-1]
    storage.write("anchors", day, [table.set_column(table.column_names.index("theme"), "theme", theme)])
    run_job(evaluate, trained)
    assert not np.array_equal(_scores(trained, "sarm")["scores"], before["sarm"])
    assert np.array_equal(_scores(trained, "base")["scores"], before["base"])


def test_buckets_part_the_day_by_what_training_saw(trained: Settings) -> None:
    result = run_job(evaluate, trained)
    storage = Storage.open(trained.storage.root)
    seen = np.concatenate([storage.read("examples", d)["author_id"].to_numpy() for d in ("2026-01-01", "2026-01-02")])
    shown = storage.read("examples", DAY)["author_id"].to_numpy()
    new = [row for row in result["buckets"] if row["from"] == 0]
    assert sum(row["impressions"] for row in result["buckets"]) == result["examples"] == len(shown)
    assert sum(row["impressions"] for row in new) == int((~np.isin(shown, seen)).sum())


def test_a_day_that_was_trained_on_is_refused(trained: Settings) -> None:
    with pytest.raises(ContractError, match="trained on"):
        run_job(evaluate, replace(trained, evaluate=replace(trained.evaluate, day="2026-01-02")))


def test_a_day_without_examples_is_refused(trained: Settings) -> None:
    with pytest.raises(ContractError, match="2030-01-01"):
        run_job(evaluate, replace(trained, evaluate=replace(trained.evaluate, day="2030-01-01")))


def test_redrawn_gauc_is_free_of_the_luck_of_one_draw() -> None:
    rng = np.random.default_rng(3)
    chance = rng.uniform(0.1, 0.6, size=(4000, len(TASKS))).astype(np.float32)
    columns = {"user_id": np.repeat(np.arange(200), 20)}
    drawn = [gauc(rng.random(4000) < chance[:, 0], chance[:, 0], columns["user_id"]) for _ in range(200)]
    found = evaluate.redrawn_gauc(columns, chance, chance, TASKS)
    assert found["click"] == pytest.approx(
        np.mean(drawn), abs=4 * np.std(drawn) * (1 / 200 + 1 / evaluate.REDRAWS) ** 0.5
    )
    assert found["click"] != found["gift"] and set(found) == set(TASKS)
    assert evaluate.redrawn_gauc(columns, chance, np.zeros_like(chance), TASKS)["click"] == pytest.approx(0.5)
