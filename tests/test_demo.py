"""`python -m pipelines demo` as a user starts it, over a platform of 60 authors: every stage with its real engine.

.venv/bin/python -m pytest tests/test_demo.py
"""

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.demo.report_content import Report
from pipelines.pages import report_json
from pipelines.runtime import config
from pipelines.settings import Settings
from pipelines.tables.contract import TASKS_COLUMNS
from pipelines.tables.storage import Storage
from tests.pipelines.described import problems
from tests.pipelines.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
USERS, CARDS, COMPARED, SWAPPED = 2, 2, 20, 24
SMALLER: dict[str, Any] = {
    "world.num_days": len(DAYS),
    "world.warmup_days": 1,
    "world.num_authors": 60,
    "world.on_air_share": 0.7,
    "world.num_users": 40,
    "world.impressions_per_day": 1500,
    "demo.distil_world": {
        "num_days": 1, "num_authors": 40, "on_air_share": 1.0, "impressions": False, "teacher": True
    },
    "distil.held_out": 8,
    "distil.loop.max_seconds": 3.0,
    "distil.loop.batch_size": 8,
    "distil.loop.log_every": 1,
    "vocabulary.min_frequency": 5,
    "analyse.min_gate_tokens": 5,
    "train.epochs": 1,
    "train.log_every": 2,
    "train.scaling.num_workers": 1,
    "demo.compared": COMPARED,
    "demo.load_seconds": 1.0,
    "demo.load_clients": 2,
    "demo.load_candidates": 20,
    "demo.ranked_users": USERS,
    "demo.cards": CARDS,
    "demo.live": {
        "world": {
            "laws": "platform", "live": {"max_segments": 16}, "num_days": 2, "num_authors": 40, "on_air_share": 0.9,
            "num_users": 30, "impressions_per_day": 1200, "recorded_segments": 0
        },
        "codes": {"clusters": [16, 8]},
        "towers": {"scaling": {"num_workers": 1}, "epochs": 1, "model": {"dim": 8}},
        "found": 3
    },
}  # fmt: skip
"""What the demo's own configuration is cut down to, so that a run takes two minutes."""
CONTROL = {"demo.swapped_frames": SWAPPED}


@dataclass(frozen=True)
class Done:
    """What a finished demo left."""

    folder: Path
    printed: str
    report: dict[str, Any]

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")

    @property
    def storage(self) -> Storage:
        return Storage.open(str(self.folder / "store"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("demo")
    where = {"run_dir": str(folder), "storage.root": str(folder / "store"), "serve.port": free_port()}
    overrides = [f"--set={key}={json.dumps(value)}" for key, value in (SMALLER | CONTROL | where).items()]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "demo", "--config", "pipelines/configs/demo.yaml", *overrides],
        cwd=ROOT, env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    return Done(folder, done.stdout, report_json.read(folder))


@pytest.mark.ray
def test_the_report_holds_what_its_description_says_and_nothing_else(demo: Done) -> None:
    assert problems(demo.report, Report) == []
    assert Report.__annotations__.keys() == demo.report.keys()


@pytest.mark.ray
def test_every_author_day_has_an_anchor_that_was_read_from_its_own_frames(demo: Done) -> None:
    anchors = demo.report["anchors"]
    assert anchors["rows_in"] == demo.report["world"]["lives"] == anchors["anchors"] + anchors["rejections"]
    assert anchors["valid_rate"] > 0.9
    assert min(anchors["agreement"][field] for field in ("theme", "format", "scene")) > 0.9
    assert anchors["swapped_authors"] > SWAPPED // 2
    swapped = anchors["agreement_frames_swapped"]
    assert max(swapped["format"], swapped["scene"]) < 0.5 < 0.9 < swapped["theme"]


@pytest.mark.ray
def test_the_student_is_taught_and_says_how_well(demo: Done) -> None:
    distil = demo.report["distil"]
    assert distil["steps"] > 0 and distil["held_out"]["author_days"] == 8
    assert (Path(distil["output"]) / "config.json").is_file()


@pytest.mark.ray
def test_both_rankers_and_the_oracle_are_measured_on_the_day_that_none_was_trained_on(demo: Done) -> None:
    assert demo.report["evaluated_day"] == DAYS[-1]
    for ranker in ("sarm", "base"):
        trained = demo.report["train"][ranker]
        assert trained["how"] == "trained" and trained["days"] == DAYS[1:-1] and trained["curve"]
    metrics = demo.report["metrics"]
    assert metrics.keys() == {"sarm", "base", "oracle"}
    for tasks in metrics.values():
        assert list(tasks) == list(TASKS_COLUMNS)
        assert all(math.isfinite(value) for quality in tasks.values() for value in quality.values())
    assert metrics["oracle"]["click"]["gauc"] > max(metrics[name]["click"]["gauc"] for name in ("sarm", "base"))
    assert sum(row["impressions"] for row in demo.report["buckets"]) == demo.report["evaluated_examples"]
    for row in demo.report["buckets"]:
        assert row.keys() - {"from", "to", "impressions", "authors"} == metrics.keys()


@pytest.mark.ray
def test_what_sarm_has_learnt_is_looked_at(demo: Done) -> None:
    analysis = demo.report["analysis"]
    assert analysis["day"] == DAYS[-1]
    assert analysis["a2a"]["queries"] == analysis["importance"]["authors"] > 0
    assert analysis["gates"]["highest"] and analysis["gates"]["by_frequency"] and demo.report["gates"]["terms"]


@pytest.mark.ray
def test_served_scores_are_the_offline_scores(demo: Done) -> None:
    assert demo.report["serve"]["compared"] == COMPARED
    assert demo.report["serve"]["max_abs_diff_vs_offline"] < 1e-5


@pytest.mark.ray
def test_the_endpoint_swapped_to_the_newest_bank_while_it_served(demo: Done) -> None:
    published = demo.report["publish"]
    assert (published["how"], published["until"]) == ("published", DAYS[-1])
    banks = demo.folder / "store" / "artifacts" / "bank"
    assert (banks / "CURRENT").read_text() == published["run_id"]
    assert sorted(path.name[2:12] for path in banks.glob("v=*")) == DAYS[-2:]
    assert demo.report["serve"]["requests"] > 0


@pytest.mark.ray
def test_the_endpoint_ranks_for_known_users_and_for_one_whom_nobody_knows(demo: Done) -> None:
    ranked = demo.report["ranked"]
    assert [answer["known"] for answer in ranked] == [True] * USERS + [False]
    for answer in ranked:
        scores = [candidate["score"] for candidate in answer["candidates"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True)


@pytest.mark.ray
def test_no_section_of_the_page_says_that_it_was_not_run(demo: Done) -> None:
    page = Page(demo.page)
    assert page.open == []
    text = demo.page.lower()
    for said in ('class="missing"', "not run", "not measured", "not recorded", "not compared"):
        assert said not in text
    assert demo.page.count("<svg ") == 7
    assert demo.page.count('aria-label="Anchor of author') == CARDS
    acts = {segment["act"] for segment in demo.report["live"]["shown"]["segments"]}
    assert len(page.images) == CARDS * 4 + len(acts)


@pytest.mark.ray
def test_the_live_part_is_measured_and_served(demo: Done) -> None:
    live, found = demo.report["live"], demo.report["retrieved"]
    assert live["embedded"] == live["world"]["segments"]
    assert live["towers"].keys() == {"id", "gated"} and 0 < live["towers"]["gated"]["gate"] < 1
    for of in live["purity"]:
        assert of["purity"] > of["chance"]
    assert len(live["shown"]["segments"][0]["codes"]) == 2
    places = [[lives["places"][at] for lives in found["lives"]] for at in range(3)]
    assert sorted(places[1])[0] == 1 and found["clicked"] in [lives["author_id"] for lives in found["lives"]]
    # The next index, and the click, each move scores.
    scores = [[lives["scores"][at] for lives in found["lives"]] for at in range(3)]
    assert scores[0] != scores[1] != scores[2]
    index = demo.folder / "store" / "artifacts" / "live_index"
    assert len(list(index.glob("v=*"))) == 2 and (demo.folder / "live" / "store" / "tables" / "item_vectors").is_dir()


@pytest.mark.ray
def test_the_results_are_printed_as_one_table(demo: Done) -> None:
    lines = demo.printed.splitlines()
    for name, tasks in demo.report["metrics"].items():
        row = next(line.split() for line in lines if line.startswith(name))
        assert row[1:] == [f"{tasks[task][m]:.4f}" for task in TASKS_COLUMNS for m in ("auc", "gauc")]
    assert {"last", "anchors", "serve", "time"} <= {line.split(maxsplit=1)[0] for line in lines if line}


@pytest.mark.ray
def test_the_resolved_configuration_holds_every_value(demo: Done) -> None:
    dumped = yaml.safe_load((demo.folder / "config" / "demo.yaml").read_text())
    assert config.to_dict(config.build(Settings, dumped)) == dumped
    assert dumped["world"]["num_authors"] == 60 and dumped["demo"]["cards"] == CARDS
    assert demo.report["config"] == json.loads(json.dumps(dumped, default=str))


@pytest.mark.ray
def test_every_table_has_its_days(demo: Done) -> None:
    storage = demo.storage
    for table in ("segments", "anchors", "authors"):
        assert storage.days(table) == DAYS
    for table in ("impressions", "examples"):
        assert storage.days(table) == DAYS[1:]
