"""Losses over training, on curves whose means are counted by hand."""

from typing import Any

import numpy as np
import pytest

from pipelines.studies import convergence


def curve(*points: tuple[int, float]) -> list[dict[str, float]]:
    """Entries of (step, mean main loss since the entry before)."""
    return [{"step": step, "main_loss": loss, "aux_loss": 0.0} for step, loss in points]


def record(variant: str, seed: int, points: list[dict[str, float]]) -> dict[str, Any]:
    return {"variant": variant, "seed": seed, "curve": points}


# Seed 1 has 6 steps, seed 2 has 12, logged at other places.
RECORDS = [
    record("base", 1, curve((3, 4.0), (6, 2.0))),
    record("base", 2, curve((4, 3.0), (12, 1.5))),
    record("sarm", 1, curve((2, 3.0), (3, 6.0), (6, 1.0))),
    record("sarm", 2, curve((6, 2.0), (12, 1.0))),
]


def rows(variant: str) -> list[dict[str, Any]]:
    built = convergence.build(["base", "sarm"], [1, 2], "base", RECORDS)
    return [row for row in built if row["variant"] == variant]


def test_parts_of_the_epoch_are_weighed_by_their_steps() -> None:
    assert [(row["from"], row["to"]) for row in rows("base")] == list(convergence.PARTS)
    # Thirds are 2 and 4 steps. Base: (4, 3, 2), of all 3, and (3, 1.5, 1.5), of all 2.
    assert [row["mean"] for row in rows("base")] == pytest.approx([3.5, 2.25, 1.75, 2.5])
    # SARM: (3, 3.5, 1), of all 2.5, and (2, 1.5, 1), of all 1.5.
    assert [row["mean"] for row in rows("sarm")] == pytest.approx([2.5, 2.5, 1.0, 2.0])


def test_differences_are_paired_by_seed() -> None:
    whole = rows("sarm")[-1]
    assert whole["delta"] == pytest.approx(-0.5) and (whole["ci_low"], whole["ci_high"]) == pytest.approx((-0.5, -0.5))
    assert all(row["delta"] == 0 for row in rows("base"))


def test_a_loss_that_a_trial_lacks_is_left_out() -> None:
    assert {row["loss"] for row in rows("sarm")} == {"main_loss"}
    assert convergence.running(["base"], [1], RECORDS, "click_loss") is None


def test_running_means_put_all_seeds_on_one_scale() -> None:
    drawn = convergence.running(["base", "sarm"], [1, 2], RECORDS, "main_loss", points=5)
    assert drawn is not None
    share, values = drawn
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1] and values["base"].shape == (2, 5)
    # At half of seed 1's epoch the window is half in the one entry and half in the other.
    assert values["base"][0] == pytest.approx([4, 4, 3, 2, 2])
    assert values["base"][1] == pytest.approx([3, 3, 1.5, 1.5, 1.5])


def test_a_running_mean_keeps_a_constant() -> None:
    flat = [record("base", 1, curve(*((step, 0.7) for step in (7, 50, 51, 90))))]
    drawn = convergence.running(["base"], [1], flat, "main_loss")
    assert drawn is not None and np.allclose(drawn[1]["base"], 0.7)


def test_the_markdown_has_one_row_per_variant() -> None:
    table = {
        "reference": "base",
        "convergence": convergence.build(["base", "sarm"], [1, 2], "base", RECORDS),
        "rows": [{"variant": "base", "label": "Base"}, {"variant": "sarm", "label": "SARM"}],
    }
    lines = convergence.markdown(table).splitlines()
    assert lines[2] == "| Base | 3.5000 | 2.2500 | 1.7500 | 2.5000 |"
    assert lines[3].startswith("| SARM | -1.0000 (") and lines[3].endswith("| -0.5000 (-0.5000 to -0.5000) |")
