"""Intervals over users: one per world, one for all seeds of a store, and never among those over seeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import TASKS
from pipelines.ranking import evaluate
from pipelines.samples.batches import read_examples
from pipelines.settings import Settings
from pipelines.studies import user_intervals
from pipelines.studies.bootstrap import over_users
from pipelines.studies.config import StudyConfig, Variant
from pipelines.tables.storage import Storage

CONFIG = StudyConfig(name="x", variants={"base": Variant(), "sarm": Variant()})


def _files(tiny: Settings, folder: Path) -> tuple[dict[tuple[str, int], Path], dict[tuple[str, int], np.ndarray]]:
    """Scores of two variants and seeds: the truth with less and with more noise; gift is not ranked."""
    storage = Storage.open(tiny.storage.root)
    columns = read_examples(storage, "2026-01-03")
    truth = evaluate.oracle_scores(storage, "2026-01-03", columns, TASKS)
    files, scores = {}, {}
    for name, noise in (("base", 1.0), ("sarm", 0.2)):
        for seed in (1, 2):
            rng = np.random.default_rng([seed, len(name)])
            made = (truth + noise * rng.normal(0, 1, truth.shape)).astype(np.float32)
            made[:, 3] = np.nan
            scores[name, seed], files[name, seed] = made, folder / f"{name}-{seed}.json"
            np.savez(files[name, seed].with_suffix(".npz"), scores=made)
    return files, scores


def test_seeds_that_share_a_store_share_one_interval(tiny: Settings, tmp_path: Path) -> None:
    files, scores = _files(tiny, tmp_path)
    rows = user_intervals.build(CONFIG, {1: tiny, 2: replace(tiny, seed=2)}, files)
    assert {(row["variant"], row["task"]) for row in rows} == {("sarm", t) for t in ("click", "follow", "long_view")}
    (row,) = [row for row in rows if (row["task"], row["metric"]) == ("click", "gauc")]
    columns = read_examples(Storage.open(tiny.storage.root), "2026-01-03")
    click = {key: evaluate.by_user(columns, made, TASKS)["click"]["gauc"] for key, made in scores.items()}
    single = [over_users(click["sarm", seed], click["base", seed]) for seed in (1, 2)]
    assert row["seeds"] == [1, 2] and row["delta"] == pytest.approx(np.mean([one["delta"] for one in single]))
    # The users are the same ones: averaging initialisations takes away some of the noise of the models alone.
    widths = [one["ci_high"] - one["ci_low"] for one in single]
    assert 0 < row["ci_high"] - row["ci_low"] < max(widths)


def test_each_store_has_its_own_interval_and_column(tiny: Settings, tmp_path: Path) -> None:
    files, _ = _files(tiny, tmp_path)
    elsewhere = replace(tiny, storage=replace(tiny.storage, root=f"{tiny.storage.root}/../store"))
    rows = user_intervals.build(CONFIG, {1: tiny, 2: elsewhere}, files)
    assert {tuple(row["seeds"]) for row in rows} == {(1,), (2,)}
    labels = [{"variant": "base", "label": "Base"}, {"variant": "sarm", "label": "SARM"}]
    lines = user_intervals.markdown({"users": rows, "rows": labels, "reference": "base"}).splitlines()
    assert lines[0] == "| click GAUC, resampled, over users: difference to Base | seed 1 | seed 2 |"
    assert lines[2].startswith("| SARM | +") and lines[2].count(" to ") == 2 and len(lines) == 5
    assert user_intervals.markdown({"rows": labels}) == ""


def test_rows_are_compared_with_the_full_model_too(tiny: Settings, tmp_path: Path) -> None:
    files, _ = _files(tiny, tmp_path)
    alone, both = (
        user_intervals.build(config, {1: tiny, 2: tiny}, files) for config in (CONFIG, replace(CONFIG, full="sarm"))
    )
    assert {row["against"] for row in alone} == {"base"} and alone == both[: len(alone)]
    turned = both[len(alone) :]
    assert {(row["variant"], row["against"]) for row in turned} == {("base", "sarm")}
    for row, other in zip(alone, turned, strict=True):
        assert other["delta"] == pytest.approx(-row["delta"]) and other["ci_low"] == pytest.approx(-row["ci_high"])
    labels = [{"variant": "base", "label": "Base"}, {"variant": "sarm", "label": "SARM"}]
    said = user_intervals.markdown({"users": both, "rows": labels, "reference": "base"})
    assert "difference to Base" in said and "difference to SARM" in said
