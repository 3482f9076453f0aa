"""Reference rows over the tiny world: what they rank, what they leave behind, and the ceilings' interface."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.metrics import gauc
from pipelines.ranking.evaluate import oracle_scores
from pipelines.settings import Settings
from pipelines.studies.reference_rows import MODULES
from pipelines.studies.references import ceilings, crossing, regression, screen
from pipelines.studies.references.reference import material, run_reference
from pipelines.tables.contract import PROFILE, TASKS_COLUMNS, ContractError
from pipelines.tables.storage import Storage
from pipelines.tables.truth import KNOWLEDGE
from pipelines.world.config import WorldConfig
from tests.pipelines.conftest import tiny_train

BASE = tiny_train(())


def run(settings: Settings, name: str) -> tuple[dict[str, Any], np.ndarray]:
    record, arrays = run_reference(settings, BASE, MODULES[name], name)
    json.dumps(record)
    return record, arrays["scores"]


def test_every_name_has_its_row() -> None:
    rows = regression.ROWS | crossing.ROWS | ceilings.ROWS | screen.ROWS
    assert rows.keys() == MODULES.keys()


@pytest.mark.parametrize("name", ["regression_phrases", "dcn"])
def test_what_is_learnt_ranks_every_task_the_same_each_time(tiny: Settings, name: str) -> None:
    record, scores = run(tiny, name)
    given = material(tiny, BASE)
    assert given.days == ("2026-01-01", "2026-01-02") and given.day == record["day"] == "2026-01-03"
    assert set(record["metrics"]) == set(TASKS_COLUMNS) and record["cost"]["cpu_s"] > 0
    assert scores.shape == (len(given.columns["user_id"]), len(TASKS_COLUMNS)) and scores.dtype == np.float32
    click = gauc(given.columns["click"], scores[:, 0], given.columns["user_id"])
    assert record["metrics"]["click"]["gauc"] == pytest.approx(click)
    assert 0.4 < record["metrics"]["click"]["gauc_redrawn"] < 0.9
    again, same = run(tiny, name)
    assert again["metrics"] == record["metrics"] and np.array_equal(same, scores)


def test_text_tells_a_regression_more(tiny: Settings) -> None:
    plain, text, words = (run(tiny, name)[0] for name in ("regression", "regression_phrases", "regression_words"))
    assert plain["metrics"] != text["metrics"] != words["metrics"]
    for record in (plain, text):
        assert float(record["chosen"]["C"]) in regression.GRID
        tried = record["chosen"]["validation_click_gauc"]
        for what, number in (("C", len(regression.GRID)), ("joined", 2 + len(PROFILE))):
            values = tried[what]
            assert values[str(record["chosen"][what])] == max(values.values()) and len(values) == number


def test_the_day_that_chooses_is_the_last_of_training_and_the_scored_one_is_not_read(tiny: Settings) -> None:
    before = run(tiny, "regression")[0]["chosen"]
    storage = Storage.open(tiny.storage.root)
    table = storage.read("examples", "2026-01-03")
    place = table.column_names.index("click")
    flipped = table.set_column(place, "click", [(1 - table["click"].to_numpy()).astype(np.uint8)])
    storage.write("examples", "2026-01-03", [flipped])
    assert run(tiny, "regression")[0]["chosen"] == before


def test_the_screen_rows_are_the_truth_given_what_they_know(tiny: Settings) -> None:
    storage = tiny.open().storage.with_oracle()
    with pytest.raises(ContractError, match="table oracle_live, day 2026-01-03: wanted Parquet files"):
        run(tiny, "screen_now")
    ids = storage.read("impressions", "2026-01-03", ["impression_id"])["impression_id"]
    rng = np.random.default_rng(0)
    names = [f"{known}_{task}" for known in KNOWLEDGE for task in TASKS_COLUMNS]
    said = {name: rng.random(len(ids), dtype=np.float32) for name in names}
    storage.write("oracle_live", "2026-01-03", [pa.table({"impression_id": ids, **said})])
    of_id = {number: row for row, number in enumerate(ids.to_pylist())}
    rows = [of_id[number] for number in material(tiny, BASE).columns["impression_id"].tolist()]
    for name, known in (("screen_ended", "past"), ("screen_now", "present")):
        _, scores = run(tiny, name)
        wanted = np.stack([said[f"{known}_{task}"][rows] for task in TASKS_COLUMNS], axis=1)
        assert np.array_equal(scores, wanted)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A stand-in for the module that knows the world's laws: it says the truth, and its opposite."""
    asked: list[tuple[Any, ...]] = []

    def stub(
        config: WorldConfig, seed: int, storage: Storage, day: str, columns: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        asked.append((config, seed, day))
        truth = oracle_scores(storage, day, dict(columns), TASKS_COLUMNS)[:, 0]
        return {"content in force": truth, "content of today": -truth}

    monkeypatch.setattr(ceilings.world, "ceilings", stub)
    return asked


def test_ceilings_rank_clicks_alone(tiny: Settings, told: list[tuple[Any, ...]]) -> None:
    tiny = replace(tiny, seed=1)
    force, scores = run(tiny, "content_in_force")
    today, _ = run(tiny, "content_of_today")
    assert told == [(tiny.world, 1, "2026-01-03")] * 2
    assert set(force["metrics"]) == {"click"} and np.isnan(scores[:, 1:]).all() and not np.isnan(scores[:, 0]).any()
    assert force["metrics"]["click"]["gauc"] + today["metrics"]["click"]["gauc"] == pytest.approx(1)
    assert force["metrics"]["click"]["gauc_redrawn"] > 0.6
