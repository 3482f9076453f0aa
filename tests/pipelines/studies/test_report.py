"""A study's report: well-formed, self-contained, deterministic, and true to its table."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.studies import convergence
from pipelines.studies.config import StudyConfig, Variant
from pipelines.studies.report import render, write_report
from pipelines.studies.table import build_table
from pipelines.tables.contract import FIELDS, TASKS_COLUMNS
from tests.pipelines.pages import Page

LABELS = {"base": "Base", "sarm": "SARM <full>", "no_aux": "no auxiliary loss"}
BUCKETS: list[tuple[int, int | None]] = [(0, 1), (1, 60), (60, None)]


def quality(rng: np.random.Generator, better: float) -> dict[str, float]:
    return {m: 0.6 + better + float(rng.normal(0, 0.001)) for m in ("auc", "gauc", "gauc_redrawn")}


def record(variant: str, seed: int, better: float, *, oracle: bool = True) -> dict[str, Any]:
    """A trial with made-up numbers."""
    rng = np.random.default_rng([seed, len(variant)])
    falling = 1.3 + 0.4 * np.exp(-np.arange(20) / 4) - better
    curve = [
        {"step": 5 * (i + 1), "main_loss": float(loss), "click_loss": float(loss) / 3} for i, loss in enumerate(falling)
    ]
    buckets = [{"from": low, "to": high, "model": quality(rng, better)} for low, high in BUCKETS]
    made = {"variant": variant, "seed": seed, "day": "2026-01-08", "seconds": 12.5, "curve": curve, "buckets": buckets}
    made["metrics"] = {task: quality(rng, better) for task in TASKS_COLUMNS}
    return made | ({"oracle": {task: quality(rng, 0.2) for task in TASKS_COLUMNS}} if oracle else {})


def study(seeds: int = 3, *, oracle: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    variants = {name: Variant(label=label) for name, label in LABELS.items()}
    gains = {"base": 0.0, "sarm": 0.02, "no_aux": -0.03}
    chosen = list(range(7, 7 + seeds))
    records = [record(name, seed, gain, oracle=oracle) for name, gain in gains.items() for seed in chosen]
    config = StudyConfig(name="made_up", variants=variants, paper={"sarm": {"click": [0.24, 0.32]}})
    table = build_table(config, variants, chosen, records)
    table["convergence"] = convergence.build(list(variants), chosen, "base", records)
    return table, records


@pytest.fixture(scope="module")
def text() -> str:
    return render(*study(), {"seed": 7, "study": {"name": "made_up"}})


def section(text: str, name: str) -> str:
    match = re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)
    assert match is not None
    return match.group()


def number(value: float, form: str) -> str:
    return f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def test_the_page_is_well_formed_and_needs_nothing_from_outside(text: str) -> None:
    page = Page(text)
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids) and all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|None|nan", text)
    assert "SARM <full>" not in text and "SARM &lt;full&gt;" in text
    assert len(re.findall(r'<svg [^>]*aria-label="[^"]{20,}"', text)) == 4


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name / "report.html", *study(), {"seed": 7})
    first, second = ((tmp_path / name / "report.html").read_bytes() for name in ("a", "b"))
    assert first == second


def test_tables_hold_the_numbers_of_the_study(text: str) -> None:
    table, _ = study()
    row = Page(section(text, "quality")).row("SARM <full>")
    click = {r["metric"]: r for r in table["rows"] if (r["variant"], r["task"]) == ("sarm", "click")}
    assert row[1] == number(click["auc"]["mean"], ".2f") and row[3] == "+0.24" and row[6] == "+0.32"
    low, high = (number(click["gauc"][end], "+.2f") for end in ("ci_low", "ci_high"))
    assert row[5].split("\n") == [number(click["gauc"]["delta"], "+.2f"), f"{low} to {high}"]
    assert row[-1] == f"{click['gauc_redrawn']['share_of_gap']:.0%}"
    exposure = Page(section(text, "exposure")).row("SARM <full>")
    new = next(r for r in table["exposure"] if (r["variant"], r["from"], r["metric"]) == ("sarm", 0, "auc"))
    assert exposure[1] == number(new["mean"], ".2f") and exposure[2].startswith(number(new["delta"], "+.2f"))
    assert "none (new)" in section(text, "exposure") and "60 or more" in section(text, "exposure")


def test_better_is_green_for_quality_up_and_for_losses_down(text: str) -> None:
    for name in ("quality", "training", "exposure"):
        rows = section(text, name).split("<tr>")
        better = [row for row in rows if '<th scope="row">SARM' in row]
        worse = [row for row in rows if '<th scope="row">no aux' in row]
        assert better and all('class="ok"' in row and 'class="bad"' not in row for row in better)
        assert worse and all('class="bad"' in row and 'class="ok"' not in row for row in worse)


def test_the_anchor_benchmark_is_shown_where_a_study_has_one(text: str) -> None:
    assert 'id="anchors"' not in text
    table, records = study()
    right = {field: 0.1 * place for place, field in enumerate(FIELDS)}
    table["anchors"] = [
        {"label": "weaker", "agreement": right, "agreement_mean": 0.25, "valid_rate": 1.0},
        {"label": "unknown", "agreement": None, "agreement_mean": None, "valid_rate": 0.5},
    ]
    page = render(table, records, None)
    cells = re.findall(r'<td class="n">(.*?)</td>', section(page, "anchors"))
    assert cells[:8] == ["25.0%", *(f"{share:.1%}" for share in right.values()), "100.0%"]
    assert cells[8:] == ["n/a"] * 7 + ["50.0%"] and Page(page).open == []


def test_one_seed_has_no_intervals() -> None:
    page = render(*study(1), None)
    assert Page(page).open == [] and " to +" not in section(page, "quality")
    assert 'class="ok"' not in page and "<details>" not in page


def test_without_an_oracle_nothing_is_called_simulated() -> None:
    page = render(*study(oracle=False), None)
    assert "simulated</strong>" not in page and "Of the way" not in page


def test_what_no_trial_recorded_is_left_out() -> None:
    table, records = study()
    table["convergence"] = [row for row in table["convergence"] if row["loss"] == "main_loss"]
    table["exposure"] = []
    bare = [r | {"curve": [{"step": p["step"], "main_loss": p["main_loss"]} for p in r["curve"]]} for r in records]
    page = render(table, bare, None)
    assert page.count("<svg ") == 2 and "Click loss" not in page and "No group of authors" in page


def test_a_metric_that_was_not_measured_is_no_number() -> None:
    table, records = study()
    for row in table["rows"]:
        if row["task"] == "gift" and row["variant"] == "sarm":
            row |= dict.fromkeys(("mean", "delta", "ci_low", "ci_high", "share_of_gap"))
    rows = [row for row in Page(render(table, records, None)).rows if row[0].strip() == "SARM <full>"]
    assert [cell.strip() for cell in rows[3][1:3]] == ["n/a", "n/a"]
