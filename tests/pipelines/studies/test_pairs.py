"""One row of a study against another that is not the reference: by hand, as text, and names that there are not."""

from typing import Any

import pytest

from pipelines.studies import pairs
from pipelines.studies.config import StudyConfig, TowersRow, Variant

TABLE: dict[str, Any] = {
    "reference": "base",
    "rows": [
        {"variant": name, "label": name.upper(), "task": task, "metric": metric, "seeds": seeds}
        for name, seeds in (("base", [60.0, 61.0, 62.0]), ("one", [61.0, 63.0, 64.0]), ("two", [63.0, 63.0, 66.0]))
        for task, metric in (("click", "auc"), ("click", "gauc"), ("gift", "gauc"))
    ],
}


def test_a_pair_has_the_mean_difference_of_its_seeds_and_students_interval() -> None:
    rows = pairs.build(TABLE, {"two": ("one",)})
    assert [(row["task"], row["metric"]) for row in rows] == [("click", "auc"), ("click", "gauc"), ("gift", "gauc")]
    # Differences 2, 0, 2: mean 4/3, standard deviation 2/sqrt(3), t of 2 degrees 4.302653.
    half = 4.302653 * (2 / 3**0.5) / 3**0.5
    for row in rows:
        assert (row["variant"], row["against"]) == ("two", "one")
        assert row["delta"] == pytest.approx(4 / 3) and row["mean"] == pytest.approx(64)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((4 / 3 - half, 4 / 3 + half), abs=1e-5)


def test_a_task_that_a_seed_could_not_be_scored_in_has_no_difference() -> None:
    rows = [row | {"seeds": [None, 1.0, 2.0]} if row["variant"] == "one" else row for row in TABLE["rows"]]
    (row, *_) = pairs.build(TABLE | {"rows": rows}, {"two": ("one",)})
    assert (row["delta"], row["ci_low"], row["ci_high"]) == (None, None, None)


def test_pairs_as_text() -> None:
    made = {**TABLE, "pairs": pairs.build(TABLE, {"one": ("two", "base")})}
    lines = pairs.markdown(made).splitlines()
    assert lines[0] == "| one row against another | click GAUC | gift GAUC |"
    assert lines[2].startswith("| ONE, against TWO | -1.33 (") and lines[3].startswith("| ONE, against BASE | +1.67 (")
    assert len(lines) == 4
    assert pairs.markdown(TABLE) == "" == pairs.markdown(TABLE | {"pairs": []})


@pytest.mark.parametrize("against", [{"other": ("base",)}, {"base": ("other",)}])
def test_only_rows_of_the_study_are_compared(against: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="against: wanted names of variants, base, got 'other'"):
        StudyConfig(name="x", variants={"base": Variant()}, against=against)
    with pytest.raises(ValueError, match="against: wanted none with towers"):
        StudyConfig(name="x", towers={"id": TowersRow()}, reference="id", against=against)
