"""`anchors.plan`: what a batch would do, without doing any of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.__main__ import main
from pipelines.pages import report_json
from pipelines.runtime import cluster
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.checkpoint import STUDENT, Checkpoint
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.plan import Plan
from tests.pipelines.semantics.test_gather import DAY, segment, stored


def planned(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The lines of the plan of three authors, by what they are about."""
    stored(root / "store", [segment(author) for author in range(3)])
    config = {
        "run_dir": str(root / "run"),
        "storage": {"root": str(root / "store")},
        "anchors": {"model": str(STUDENT)},
    }
    (root / "c.yaml").write_text(yaml.safe_dump(config))
    assert main(["anchors", "--config", str(root / "c.yaml"), "--set", "anchors.plan=true"]) == 0
    lines = [line.split(" | ", 2) for line in capsys.readouterr().out.splitlines() if line.startswith("plan | ")]
    return {what.strip(): said for _, what, said in lines}


def test_a_plan_is_printed_and_nothing_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster, "connected", lambda _: pytest.fail("Ray was to be started"))
    told = planned(tmp_path, capsys)
    assert set(told) == {"model", "rows", "tokens", "memory", "pools", "time"}
    assert told["rows"] == f"3 authors on 1 day(s): {DAY} 3"
    assert "4 frames at most 24" in told["tokens"] and "answer 320" in told["tokens"]
    assert "1 engine(s) of 1 CPU(s), 1 gather worker(s)" in told["pools"]
    assert told["time"].startswith("unknown")
    assert not (tmp_path / "store" / "tables" / "anchors").exists()
    assert json.loads((tmp_path / "run" / "anchors.json").read_text())["plan"]["rows"] == {DAY: 3}


def test_the_time_is_reckoned_from_the_last_run_of_the_same_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = {"model": str(STUDENT), "authors_per_s": 2.0, "engine_start_s": 30.0}
    report_json.merge(tmp_path / "run", "anchors", before)
    assert planned(tmp_path, capsys)["time"].startswith("32 s, at the rate")
    plan = Plan.of(
        Checkpoint.read(str(STUDENT)),
        PromptConfig(),
        replace(EngineConfig(), max_model_len=1000),
        rows={DAY: 10},
        before=before | {"model": "another"},
    )
    assert plan.seconds is None and "comments give way" in str(plan)
