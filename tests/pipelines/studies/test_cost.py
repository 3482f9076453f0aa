"""The cost section of a study's table, from records that are made up so that the figures can be said by hand."""

from typing import Any

import numpy as np
import pytest

from pipelines.ranking.plan import TrainConfig
from pipelines.studies import cost as study_cost
from pipelines.studies.config import StudyConfig, Variant

VARIANTS = {
    "base": Variant(label="Base", train=TrainConfig(sources=())),
    "sarm": Variant(label="SARM"),
    "budget_8": Variant(label="at most 8"),
    "budget_4": Variant(),
    "tags": Variant(train=TrainConfig(sources=("tags",))),
}
CPU_S = {"base": (10.0, 20.0), "sarm": (40.0, 60.0), "budget_8": (20.0, 50.0), "budget_4": (15.0, 30.0), "tags": (1, 2)}
GAUC = {
    "base": (0.60, 0.61),
    "sarm": (0.62, 0.63),
    "budget_8": (0.6195, 0.6297),
    "budget_4": (0.6188, 0.6290),
    "tags": (0.62, 0.63),
}
CONFIG = StudyConfig(name="x", full="sarm", variants=dict.fromkeys(VARIANTS))


def record(variant: str, seed: int) -> dict[str, Any]:
    """Seed 0 or 1; 100 steps over 1,000 examples."""
    sarm = VARIANTS[variant].ranker == "sarm"
    cost = {
        "cpu_s": CPU_S[variant][seed],
        "wall_s": 2 * CPU_S[variant][seed],
        "peak_memory_gib": 0.5 + seed,
        "examples": 1000,
        "steps": 100,
        "encoded": 800 if sarm else 0,
        "id_parameters": 7000,
        "dense_parameters": 300,
        "flops_per_impression": 1e6,
        "flops_per_author": 5e6 if sarm else 0.0,
        "flops_per_trained": 5e6 if sarm else 1e6,
    }
    metrics = {"click": {"gauc": 0.5, "gauc_redrawn": GAUC[variant][seed]}}
    return {"variant": variant, "seed": seed, "cost": cost, "metrics": metrics}


def made(config: StudyConfig = CONFIG, records: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    found = [record(variant, seed) for variant in VARIANTS for seed in (0, 1)] if records is None else records
    return study_cost.build(config, VARIANTS, [0, 1], found)


def row(cost: dict[str, Any], variant: str) -> dict[str, Any]:
    return next(r for r in cost["rows"] if r["variant"] == variant)


def test_time_is_relative_to_the_reference_of_the_same_seed() -> None:
    """40 / 10 and 60 / 20: the mean of the ratios is 3.5, the ratio of the means would be 3.33."""
    found = row(made(), "sarm")
    assert (found["relative"], found["relative_low"], found["relative_high"]) == (3.5, 3.0, 4.0)
    assert found["cpu_s"] == 50.0 and found["wall_s"] == 100.0 and found["relative_wall"] == 3.5
    assert row(made(), "base")["relative"] == row(made(), "base")["relative_high"] == 1.0
    assert found["encoded_per_step"] == 8.0 and found["peak_memory_gib"] == 1.0
    assert (found["id_parameters"], found["dense_parameters"], found["flops_per_trained"]) == (7000, 300, 5e6)


def test_what_a_saving_loses_is_paired_with_the_full_variant() -> None:
    """Losses of 0.05 and 0.03: mean 0.04, standard error 0.01, t(0.975, 1) = 12.7062."""
    found = row(made(), "budget_8")
    assert found["gauc_delta"] == pytest.approx(-0.04)
    assert found["gauc_low"] == pytest.approx(-0.04 - 0.127062, abs=1e-5)
    assert found["gauc_high"] == pytest.approx(-0.04 + 0.127062, abs=1e-5)
    assert row(made(), "sarm")["gauc_delta"] == 0.0


def test_the_cheapest_point_is_of_the_full_ones_kind_and_within_the_limit() -> None:
    """budget_4 is cheaper and loses 0.11; tags is cheaper still, and no SARM."""
    cheapest = made()["cheapest"]
    assert (cheapest["variant"], cheapest["relative"]) == ("budget_8", 2.25)
    records = [record(variant, seed) for variant in VARIANTS for seed in (0, 1)]
    for one in records:
        if one["variant"] == "budget_4":
            one["metrics"]["click"]["gauc_redrawn"] += 0.0002
    assert made(records=records)["cheapest"]["variant"] == "budget_4"


def test_clicks_drawn_once_do_where_there_are_no_others() -> None:
    records = [record(variant, seed) for variant in VARIANTS for seed in (0, 1)]
    for one in records:
        del one["metrics"]["click"]["gauc_redrawn"]
    assert made()["metric"] == "click gauc_redrawn" and made(records=records)["metric"] == "click gauc"
    assert row(made(records=records), "base")["gauc_delta"] == 0.0


def test_without_a_full_variant_nothing_is_lost_and_nothing_chosen() -> None:
    cost = made(StudyConfig(name="x", variants=dict.fromkeys(VARIANTS)))
    assert "cheapest" not in cost and "gauc_delta" not in cost["rows"][0]
    text = study_cost.markdown({"cost": cost})
    assert "| SARM | 3.50 (3.00 to 4.00) | 50.0 | 8.0 | 1.00 | 7,000 | 300 | 1,000 | 5,000 |" in text
    assert "GAUC" not in text


def test_the_markdown_names_the_cheapest_point() -> None:
    lines = study_cost.markdown({"cost": made()}).splitlines()
    assert lines[4] == (
        "| at most 8 | 2.25 (2.00 to 2.50) | 35.0 | 8.0 | 1.00 | 7,000 | 300 | 1,000 | 5,000 | -0.04 (-0.17 to +0.09) |"
    )
    assert lines[3].endswith("| 0 |") and "budget_8, at 2.25 times base." in lines[-1]
    assert study_cost.markdown({}) == ""


def test_the_peak_of_memory_is_in_gib() -> None:
    before = study_cost.peak_memory_gib()
    block = np.ones(2**27, dtype=np.uint8)
    after = study_cost.peak_memory_gib()
    assert 0.02 < before <= after and len(block) == 2**27 and after >= 0.125
