"""The report: well-formed, self-contained, deterministic, honest about what was not run, and true to its numbers."""

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.demo import plots, report
from pipelines.demo.report import AnchorCard, NeighbourRow, ReportPictures
from pipelines.demo.report_content import Report
from pipelines.tables.contract import TASKS_COLUMNS
from tests.pipelines.described import watched
from tests.pipelines.made_up_run import analysis, curve, jpeg, quality, shares, trained
from tests.pipelines.pages import Page

SECTIONS = {
    "world": "world",
    "anchors": "anchors",
    "vocabulary": "vocabulary",
    "train": "train",
    "metrics": "evaluate",
    "gates": "analyse",
    "analysis": "analyse",
    "publish": "publish",
    "serve": "serve",
    "live": "live",
}


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """A full report.json with made-up numbers."""
    return run_content() | anchors_content() | ranking_content() | serving_content() | live_content()


def run_content() -> dict[str, Any]:
    return {
        "date": "2026-01-02",
        "seed": 7,
        "machine": {"cpus": 2, "memory_gb": 7.75, "platform": "Linux x86_64"},
        "versions": {"ray": "2.60.0", "torch": "2.13.0", "vllm": "0.29.0"},
        "config": {"seed": 7, "world": {"num_authors": 400, "num_days": 7}},
        "seconds": {
            "total": 412.3,
            "world": 41.2,
            "anchors": 183.7,
            "vocabulary": 1.4,
            "examples": 6.2,
            "train": 121.9,
            "evaluate": 9.8,
            "publish": 2.1,
            "serve": 46.0,
        },
        "world": {"authors": 448, "lives": 2901, "segments": 23208, "impressions": 210000},
    }


def anchors_content() -> dict[str, Any]:
    return {
        "distil": {
            "seconds": 1720.0,
            "steps": 1800,
            "loss": 0.0312,
            "held_out": {"author_days": 256, "valid_rate": 1.0, "agreement": shares(0.81, 0.97, 0.9, 0.92, 0.99, 0.95)},
        },
        "anchors": {
            "rows_in": 2901,
            "anchors": 2893,
            "rejections": 8,
            "valid_rate": 2893 / 2901,
            "authors_per_s": 17.3,
            "engine_start_s": 31.5,
            "agreement": shares(0.79, 0.96, 0.89, 0.91, 0.988, 0.94),
            "agreement_frames_swapped": shares(0.78, 0.95, 0.88, 0.9, 0.19, 0.1),
            "chance": {"format": 0.17, "scene": 0.083},
        },
        "vocabulary": {
            "anchors": 2600,
            "base_vocabulary": 4096,
            "merges": 512,
            "base_rows": 900,
            "base_tokens_mean": 48.2,
            "live_tokens_mean": 19.6,
            "examples": ["night market", "retro arcade revival", "home cooks"],
        },
    }


def ranking_content() -> dict[str, Any]:
    variants = {"base": 0.0, "sarm": 0.021, "oracle": 0.058}
    return {
        "train": {"base": trained(0.46, 3900.1, 1), "sarm": trained(0.445, 2810.4, 2)},
        "metrics": {name: quality(offset) for name, offset in variants.items()},
        "buckets": [
            {"from": low, "to": high, "impressions": 900 * (i + 1), "authors": 40 + i}
            | {
                n: {"auc": 0.66 + o * (2 - i / 3) + 0.01 * i, "gauc": 0.62 + o * (2 - i / 3)}
                for n, o in variants.items()
            }
            for i, (low, high) in enumerate([(0, 1), (1, 60), (60, 100), (100, 1000), (1000, 10000), (10000, None)])
        ],
        "gates": {
            "layers": {"0": 0.41, "1": 0.53, "2": 0.62, "3": 0.48},
            "terms": [{"term": "theme: ", "tokens": 9999, "layers": {"0": 0.5}}]
            + [
                {"term": t, "tokens": 900 - 70 * i, "layers": {"0": 0.4 + 0.02 * i, "1": 0.6}}
                for i, t in enumerate(["night market", "home cooks", "folk drum circle"])
            ],
        },
        "analysis": analysis(),
    }


def serving_content() -> dict[str, Any]:
    return {
        "publish": {
            "rows": 449,
            "authors_with_anchor": 441,
            "bank_mb": 0.44,
            "encode_seconds": 1.2,
            "users_with_history": 1988,
        },
        "serve": {
            "max_abs_diff_vs_offline": 1.2e-7,
            "rank_p50_ms": 4.21,
            "rank_p99_ms": 11.87,
            "qps": 312.4,
            "compared": 640,
            "requests": 2000,
        },
        "ranked": [
            {
                "user_id": 17,
                "known": True,
                "candidates": [
                    {
                        "author_id": 5 + i,
                        "score": 0.31 - 0.03 * i,
                        "click": 0.31 - 0.03 * i,
                        "follow": 0.02,
                        "long_view": 0.11,
                        "gift": 0.004,
                        "known": i != 3,
                        "theme": "folk drum circle",
                    }
                    for i in range(5)
                ],
            },
        ],
    }


def live_content() -> dict[str, Any]:
    def towers(gate: float, better: float) -> dict[str, Any]:
        rates = {"on_air": {"1": 0.2 + better, "3": 0.5 + better}, "overall": {"1": 0.03 + better, "3": None}}
        found = rates | {f"cold_{name}": of for name, of in rates.items()}
        candidates = {"on_air": 7.9, "overall": 101.0}
        return {"gate": gate, "seconds": 9.0, "clicks": 700, "candidates": candidates, "hit_rate": found}

    acts = [(2, "folk <b>drum</b>", "barn", 0, [3, 1])] * 2 + [(0, "quiz", "studio", 1, [5, 1])] * 3
    acts += [(2, "folk <b>drum</b>", "barn", 0, [3, 0])]
    names = ("act", "theme", "scene", "intensity", "codes")
    segments = [{"segment": at} | dict(zip(names, act, strict=True)) for at, act in enumerate(acts, start=4)]
    found = {"author_id": 61, "live_id": 610, "screens": ["quiz, studio", "folk drum, barn"]}
    other = {"author_id": 62, "live_id": 620, "screens": ["", "quiz, studio"]}
    return {
        "live": {
            "world": {"authors": 104, "lives": 255, "segments": 9192, "impressions": 24000}
            | {"next_act_best_accuracy": 0.88, "next_act_repeat_accuracy": 0.55},
            "embedded": 9191,
            "segments_per_s": 183.4,
            "purity": [{"label": "category", "labels": 24, "levels": 1, "purity": 0.83, "chance": 0.071}],
            "towers": {"id": towers(0.0, 0.0), "gated": towers(0.4, 0.1)},
            "shown": {"author_id": 60, "live_id": 600, "segments": segments},
        },
        "retrieved": {
            "user_id": 31,
            "history": 12,
            "later_s": 120.0,
            "on_air": [9, 8, 8],
            "clicked": 62,
            "lives": [
                found | {"places": [3, 1, 2], "scores": [0.1, 0.6251, 0.41]},
                other | {"places": [None, 2, 1], "scores": [None, -0.2, 0.52]},
            ],
        },
    }


@pytest.fixture(scope="module")
def pictures() -> ReportPictures:
    truth = {
        "point_of_interest": ["drum solo encore", "double chorus encore"],
        "theme": ["folk drum circle"],
        "topic": ["chord changes", "old hits"],
        "target_audience": ["folk music fans"],
        "format": ["two host duet"],
        "scene": ["concert stage"],
    }
    written = truth | {"topic": ["chord changes", "stage fright"], "scene": ["<script>alert(1)</script>"]}
    frames = [jpeg(i) for i in range(4)]
    return ReportPictures(
        anchors=[
            AnchorCard(author_id=5, frames=frames, written=written, truth=truth),
            AnchorCard(author_id=9, frames=frames[:2], written=written, truth=None),
        ],
        neighbours=[
            NeighbourRow(
                author_id=5,
                theme="folk drum circle",
                similar=[(8, 0.93, "folk drum circle"), (2, 0.81, "violin street set"), (3, -0.2, "folk drum circle")],
            )
        ],
        live=[jpeg(7), jpeg(8)],
    )


@pytest.fixture(scope="module")
def text(content: dict[str, Any], pictures: ReportPictures) -> str:
    return report.render(content, pictures)


def section(text: str, name: str) -> str:
    match = re.search(rf'<section id="{name}">.*?</section>', text, re.DOTALL)
    assert match is not None
    return match.group()


def test_the_page_is_well_formed_and_its_ids_are_unique(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert text.startswith("<!DOCTYPE html>")
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_the_page_needs_nothing_from_outside(text: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link", text)
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in Page(text).links)


def test_the_same_report_gives_the_same_bytes(
    content: dict[str, Any], pictures: ReportPictures, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        report.write(content, tmp_path / name / "report.html", pictures)
    first, second = ((tmp_path / name / "report.html").read_bytes() for name in ("a", "b"))
    assert first == second
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.html"]


def test_a_page_with_long_curves_stays_small(content: dict[str, Any], pictures: ReportPictures) -> None:
    long = {name: run | {"curve": curve(0.7, 0.4, 3, 4000)} for name, run in content["train"].items()}
    cards = [replace(pictures.anchors[0], frames=[jpeg(i) for i in range(6)])] * 12
    page = report.render(content | {"train": long}, replace(pictures, anchors=cards))
    assert len(page.encode()) < 1_000_000


def test_the_page_says_that_the_platform_is_simulated_and_names_run_and_machine(text: str) -> None:
    assert "The platform is simulated" in text
    for said in ("2026-01-02", "seed 7", "2 CPUs", "7.75 GB", "Linux x86_64", "num_authors: 400", "vllm 0.29.0"):
        assert said in text


def test_the_headline_holds_the_numbers_of_the_report(text: str, content: dict[str, Any]) -> None:
    page = Page(section(text, "summary"))
    for variant, label in plots.labels(content["metrics"]).items():
        click = content["metrics"][variant]["click"]
        assert page.row(label)[-2:] == [f"{click['auc']:.4f}", f"{click['gauc']:.4f}"]
    assert page.row("SARM − Base")[-2:] == ["+0.0210", "+0.0210"]
    for said in ("99.7%", "91.3%", "1.2e-07", "4.2 ms", "11.9 ms", "312 /s", "6 min 52 s", "covers 36% of the way"):
        assert said in section(text, "summary")


def test_a_loss_against_base_is_shown_with_its_sign(content: dict[str, Any], pictures: ReportPictures) -> None:
    worse = content["metrics"] | {"sarm": quality(-0.03)}
    page = Page(report.render(content | {"metrics": worse}, pictures))
    assert page.row("SARM − Base")[-1] == "−0.0300"


def test_the_tables_hold_every_task_bucket_and_term(text: str, content: dict[str, Any]) -> None:
    page = Page(section(text, "ranking"))
    for task in TASKS_COLUMNS:
        wanted = [
            f"{content['metrics'][v][task][m]:.4f}" for m in ("auc", "gauc") for v in plots.labels(content["metrics"])
        ]
        assert page.row(task.replace("_", " "))[1:] == wanted
    for name, bucket in zip(("none (new)", "1 to 59"), content["buckets"], strict=False):
        wanted = [f"{bucket[v][m]:.4f}" for m in ("auc", "gauc") for v in plots.labels(content["metrics"])]
        assert page.row(name)[1:] == [str(bucket["authors"]), f"{bucket['impressions']:,}", *wanted]
    assert page.row("10,000 or more")
    terms = Page(section(text, "gates"))
    assert terms.row("home cooks") == ["home cooks", "830", "0.510"]
    assert "theme:" not in section(text, "gates")


def test_agreement_stands_beside_the_control_and_chance(text: str) -> None:
    page = Page(section(text, "anchors"))
    assert page.row("scene") == ["scene", "94.0%", "10.0%", "8.3%", "95.0%"]
    assert page.row("theme") == ["theme", "96.0%", "95.0%", "–", "97.0%"]


@pytest.mark.parametrize("key", SECTIONS)
def test_a_section_without_its_job_says_so(
    key: str, content: dict[str, Any], pictures: ReportPictures, text: str
) -> None:
    page = report.render({name: value for name, value in content.items() if name != key}, pictures)
    assert Page(page).open == []
    assert f"Not run: the job <code>{SECTIONS[key]}</code>" in page
    assert "Not run" not in text


def test_an_empty_report_is_a_page_of_sections_not_run() -> None:
    page = report.render({}, ReportPictures())
    assert Page(page).open == []
    assert page.count("Not run:") >= len(SECTIONS)
    assert "<svg" not in page
    for said in ("date not recorded", "hardware not recorded", "The configuration was not recorded"):
        assert said in page


def test_the_page_reads_nothing_that_the_report_s_content_does_not_describe(
    content: dict[str, Any], pictures: ReportPictures, text: str
) -> None:
    assert report.render(watched(content, Report), pictures) == text


def test_results_that_are_not_by_ranker_are_refused() -> None:
    with pytest.raises(ValueError, match="train: wanted results by ranker, got variants"):
        report.render({"train": {"variants": {"base": {"steps": 1}}}}, ReportPictures())


def test_what_was_not_measured_is_no_number(content: dict[str, Any], pictures: ReportPictures) -> None:
    metrics = {name: tasks | {"gift": {"auc": math.nan, "gauc": None}} for name, tasks in content["metrics"].items()}
    page = Page(report.render(content | {"metrics": metrics}, pictures))
    assert page.row("gift")[1:] == ["n/a"] * 6


def test_models_that_were_trained_before_have_no_curve(content: dict[str, Any], pictures: ReportPictures) -> None:
    train = {name: {"how": "current"} for name in ("base", "sarm")}
    page = report.render(content | {"train": train}, pictures)
    assert "No loss curve in this run" in page
    assert Page(section(page, "training")).row("Base")[1:] == ["n/a"] * 5


def test_phrases_are_escaped_and_marked_against_the_truth(text: str) -> None:
    assert "<script>" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    judged, unjudged = re.findall(r'<article class="card".*?</article>', section(text, "anchors"), re.DOTALL)
    assert "4 of 6 fields exactly right" in judged
    assert re.findall(r'<span class="phrase wrong">(.*?) <', judged) == [
        "stage fright",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
    ]
    assert re.findall(r"missed: (.*?)<", judged) == ["old hits", "concert stage"]
    assert "truth unknown" in unjudged and "wrong" not in unjudged and "missed" not in unjudged


def test_pictures_and_figures_are_described(text: str, pictures: ReportPictures) -> None:
    images = Page(text).images
    assert len(images) == sum(len(card.frames) for card in pictures.anchors) + len(pictures.live)
    assert all(image["alt"] for image in images)
    figures = re.findall(r"<svg [^>]*>", text)
    assert len(figures) == 7
    assert all(re.search(r'role="img" aria-label="[^"]{20,}"', figure) for figure in figures)


def test_similar_authors_are_judged_by_theme(text: str) -> None:
    found = section(text, "neighbours")
    assert "2 of the 3 shown" in found
    assert found.count("✓ same") == 2


def test_the_live_part_shows_acts_codes_hit_rates_and_what_is_found(text: str) -> None:
    found = section(text, "live")
    page = Page(found)
    assert "A second, small simulated platform" in found and "9,191 segments, 183 a second" in found
    # Each act once, as they first came, and its frame.
    assert re.findall(r"<figcaption>(Act .*?)</figcaption>", found) == [
        "Act 2: folk &lt;b&gt;drum&lt;/b&gt;, barn",
        "Act 0: quiz, studio",
    ]
    assert "6 segments of one live with 2 changes of act, and 2 levels of codes" in found
    assert page.row("category of the theme") == ["category of the theme", "24", "1", "83.0%", "7.1%"]
    assert page.row("lives on air") == ["lives on air", "1", "7.9", "12.7%", "20.0%", "30.0%"]
    assert page.row("61") == ["61", "quiz, studio", "3", "0.100", "folk drum, barn", "1", "0.625", "2", "0.410"]
    clicked = ["62 (clicked)", "not begun", "–", "–", "quiz, studio", "2", "−0.200", "1", "0.520"]
    assert page.row("62 (clicked)") == clicked
    assert "user 31, who has 12 clicks" in found and "120 s later" in found


def test_words_are_drawn_by_what_their_tokens_have_of_an_even_share(text: str) -> None:
    found = section(text, "attention")
    assert "<i>" not in found and "&lt;i&gt;drum&lt;/i&gt;" in found and "folk &amp; drums" in found
    # Of 7 tokens, "theme:" has 0.07 even shares a token: no colour; "folk" 0.7; "drum" 2.38: all of it.
    depths = re.findall(r'class="word" style="background: rgb\(0 114 178 / (.*?)\)" title="(.*?)"', found)
    assert [depth for depth, _ in depths] == ["0.00", "0.15", "0.60"]
    assert depths[1][1] == "20.0%, 0.70 times an even share"
    assert Page(found).row("target audience") == ["target audience", "30.0%", "20.0%", "1.50"]


def test_retrieval_and_gates_of_the_analysis_are_shown(text: str) -> None:
    neighbours, gates = section(text, "neighbours"), section(text, "gates")
    for said in ("41.2%", "8.3%", "37.7%", "9.4%", "2.1%", "99.0%", "400 authors among 441"):
        assert said in neighbours
    assert Page(gates).row("folk <b>drum</b>") == ["folk <b>drum</b>", "61", "0.930"]
    assert Page(gates).row("10 to 99") == ["10 to 99", "1", "61", "0.930"]


def test_an_analysis_without_a_truth_and_without_words_leaves_them_out(
    content: dict[str, Any], pictures: ReportPictures
) -> None:
    bare = content["analysis"] | {"a2a": None, "importance": None}
    page = report.render(content | {"analysis": bare}, pictures)
    assert "Against the truth" not in page and "Not measured" in section(page, "attention")


def test_a_figure_takes_ink_from_the_page_and_names_from_its_caller() -> None:
    rows: dict[str, dict[str, list[float | None]]] = {"base": {"auc": [0.5, None], "gauc": [0.6, math.nan]}}
    first, second = (plots.quality_dots(name, "Quality", ["a & b", "c"], rows) for name in ("one", "two"))
    assert "currentColor" in first and "var(--grid" in first and "<style" not in first
    assert set(re.findall(r'id="(.*?)"', first)).isdisjoint(re.findall(r'id="(.*?)"', second))
    assert "a &amp; b" in first
