"""The cost section of a study's table, from records that are made up so that the figures can be said by hand."""

from typing import Any

import pytest

from pipelines.ranking.plan import TrainConfig
from pipelines.studies import cost
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
CONFIG = StudyConfig(name="x", full="sarm", variants=VARIANTS)


def record(variant: str, seed: int) -> dict[str, Any]:
    """Seed 0 or 1; 100 steps over 1,000 examples."""
    sarm = VARIANTS[variant].ranker == "sarm"
    costs = {
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
    return {"variant": variant, "seed": seed, "cost": costs, "metrics": metrics}


def section(config: StudyConfig = CONFIG, records: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    everything = [record(variant, seed) for variant in VARIANTS for seed in (0, 1)]
    return cost.build(config, VARIANTS, [0, 1], records or everything)


def row(costs: dict[str, Any], variant: str) -> dict[str, Any]:
    return next(r for r in costs["rows"] if r["variant"] == variant)


def test_time_is_relative_to_the_reference_of_the_same_seed() -> None:
    """40 / 10 and 60 / 20: the mean of the ratios is 3.5, the ratio of the means would be 3.33."""
    costs = row(section(), "sarm")
    assert (costs["relative"], costs["relative_low"], costs["relative_high"]) == (3.5, 3.0, 4.0)
    assert costs["cpu_s"] == 50.0 and costs["wall_s"] == 100.0 and costs["relative_wall"] == 3.5
    assert row(section(), "base")["relative"] == row(section(), "base")["relative_high"] == 1.0
    assert costs["encoded_per_step"] == 8.0 and costs["peak_memory_gib"] == 1.0
    assert (costs["id_parameters"], costs["dense_parameters"], costs["flops_per_trained"]) == (7000, 300, 5e6)


def test_what_a_saving_loses_is_paired_with_the_full_variant() -> None:
    """Losses of 0.05 and 0.03: mean 0.04, standard error 0.01, t(0.975, 1) = 12.7062."""
    costs = row(section(), "budget_8")
    assert costs["gauc_delta"] == pytest.approx(-0.04)
    assert costs["gauc_low"] == pytest.approx(-0.04 - 0.127062, abs=1e-5)
    assert costs["gauc_high"] == pytest.approx(-0.04 + 0.127062, abs=1e-5)
    assert row(section(), "sarm")["gauc_delta"] == 0.0


def test_the_cheapest_point_is_of_the_full_ones_kind_and_within_the_limit() -> None:
    """budget_4 is cheaper and loses 0.11; tags is cheaper still, and no SARM."""
    cheapest = section()["cheapest"]
    assert (cheapest["variant"], cheapest["relative"]) == ("budget_8", 2.25)
    records = [record(variant, seed) for variant in VARIANTS for seed in (0, 1)]
    for one in records:
        if one["variant"] == "budget_4":
            one["metrics"]["click"]["gauc_redrawn"] += 0.0002
    assert section(records=records)["cheapest"]["variant"] == "budget_4"


def test_clicks_drawn_once_do_where_there_are_no_others() -> None:
    records = [record(variant, seed) for variant in VARIANTS for seed in (0, 1)]
    for one in records:
        del one["metrics"]["click"]["gauc_redrawn"]
    assert section()["metric"] == "click gauc_redrawn" and section(records=records)["metric"] == "click gauc"
    assert row(section(records=records), "base")["gauc_delta"] == 0.0


def test_without_a_full_variant_nothing_is_lost_and_nothing_chosen() -> None:
    plain = section(StudyConfig(name="x", variants=VARIANTS))
    assert "cheapest" not in plain and "gauc_delta" not in plain["rows"][0]
    text = cost.markdown({"cost": plain})
    assert "| SARM | 3.50 (3.00 to 4.00) | 50.0 | 8.0 | 1.00 | 7,000 | 300 | 1,000 | 5,000 |" in text
    assert "GAUC" not in text


def test_epochs_and_the_seconds_of_reference_rows_are_given_where_there_are_some() -> None:
    records = [record(variant, seed) for variant in VARIANTS for seed in (0, 1)]
    for one in records:
        one["cost"]["epochs"] = 2.0
    others = [{"reference": "dcn", "seed": seed, "cost": {"cpu_s": 3.0 + seed}} for seed in (0, 1)]
    found = cost.build(StudyConfig(name="x", variants=VARIANTS), VARIANTS, [0, 1], records, others)
    assert found["references"] == [{"variant": "dcn", "label": "DCN-V2, one per task, no text", "cpu_s": 3.5}]
    lines = cost.markdown({"cost": found}).splitlines()
    assert lines[0].startswith("| cost | time | CPU s | epochs | authors/step |")
    assert lines[3].startswith("| SARM | 3.50 (3.00 to 4.00) | 50.0 | 2 | 8.0 |")
    assert lines[7] == "| *DCN-V2, one per task, no text* | – | 3.5 | – | – | – | – | – | – | – |"
    assert lines[-1].startswith("Trained rows have an equal budget of epochs, not of CPU seconds")


def test_the_markdown_names_the_cheapest_point() -> None:
    lines = cost.markdown({"cost": section()}).splitlines()
    assert lines[4] == (
        "| at most 8 | 2.25 (2.00 to 2.50) | 35.0 | 8.0 | 1.00 | 7,000 | 300 | 1,000 | 5,000 | -0.04 (-0.17 to +0.09) |"
    )
    assert lines[3].endswith("| 0 |") and "budget_8, at 2.25 times base." in lines[-1]
    assert "GAUC: click GAUC, resampled, in points against sarm" in lines[-1]
    assert cost.markdown({}) == ""
