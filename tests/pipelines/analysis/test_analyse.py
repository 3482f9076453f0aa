"""The analysis of the trained tiny platform."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.whitening import Whitening
from pipelines.analysis import analyse
from pipelines.demo import report
from pipelines.demo.report import ReportPictures
from pipelines.settings import Settings
from pipelines.tables import newest
from pipelines.tables.contract import TABLES, ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job

DAY = "2026-01-03"


def test_precision_is_that_of_the_bank_against_the_truth_of_each_anchors_day(trained: Settings) -> None:
    found = run_job(analyse, trained)["a2a"]
    subject = analyse.Subject.open(Storage.open(trained.storage.root), DAY, None)
    oracle = Storage.open(trained.storage.root, oracle=True)
    truth = {
        row["author_id"]: set(row["theme"])
        for day in ("2026-01-01", "2026-01-02")
        for row in oracle.read("oracle_anchors", day).to_pylist()
    }
    rows = sorted(subject.written)
    themes = [truth[subject.written[row]["author_id"]] for row in rows]
    for part, name in enumerate(("cls", "tar")):
        plain = subject.bank[rows, part]
        for how, vectors in (("plain", plain), ("whitened", Whitening.fit([plain])(plain))):
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            order = np.argsort(-(unit @ unit.T - 9 * np.eye(len(rows))), axis=1)[:, :10]
            hits = [bool(themes[i] & themes[j]) for i, near in enumerate(order) for j in near]
            assert found["precision_at_10"][name][how] == pytest.approx(np.mean(hits), abs=0.01)  # float32 ties aside
    assert found["authors"] == found["queries"] == len(rows)
    assert 0 < found["chance"] < found["ceiling"] <= 1


def test_gates_are_those_of_the_evaluation(trained: Settings) -> None:
    gates = run_job(analyse, replace(trained, analyse=replace(trained.analyse, min_gate_tokens=1)))["gates"]
    assert gates["layers"] == run_job(analyse, trained)["frequent_gates"]["layers"]
    highest, lowest = gates["highest"][0]["layers"]["0"], gates["lowest"][0]["layers"]["0"]
    assert lowest < gates["layers"]["0"] < highest


def test_importance_adds_up_and_names_the_words_that_were_written(trained: Settings) -> None:
    found = run_job(analyse, trained)["importance"]
    for share in ("importance", "tokens"):
        assert sum(row[share] for row in found["parts"]) == pytest.approx(1.0, abs=1e-5)
    assert len(found["drawn"]) == trained.analyse.drawn
    storage = Storage.open(trained.storage.root)
    written = {row["author_id"]: row for row in newest.read(storage, "anchors", until="2026-01-02").to_pylist()}
    for author in found["drawn"]:
        text = "; ".join(" ".join(word["word"] for word in field) for field in author["fields"])
        assert text == written[author["author_id"]]["text"].replace(": ;", ":;")
        assert author["cls"] + sum(w["importance"] for f in author["fields"] for w in f) == pytest.approx(1, abs=1e-5)
        assert len(author["similar"]) == 5 and author["author_id"] not in [o["author_id"] for o in author["similar"]]


def test_the_evaluated_days_own_anchors_and_truth_have_no_say(trained: Settings) -> None:
    before = run_job(analyse, trained)
    for table in ("anchors", "oracle_anchors"):
        shutil.rmtree(Path(trained.storage.root) / "tables" / table / f"day={DAY}")
    assert run_job(analyse, trained) == before


def test_without_a_truth_there_is_no_precision(trained: Settings) -> None:
    folders = [Path(trained.storage.root) / "tables" / name for name, spec in TABLES.items() if spec.oracle]
    there = [folder for folder in folders if folder.exists()]
    assert there
    for folder in there:
        shutil.rmtree(folder)
    found = run_job(analyse, trained)
    assert found["a2a"] is None and found["importance"]["drawn"] and found["gates"]["layers"]


def test_a_report_of_the_analysis_alone_can_be_written(trained: Settings) -> None:
    found = json.loads(json.dumps(run_job(analyse, trained), allow_nan=False))
    page = report.render({"analysis": found}, ReportPictures())
    assert "Precision@10, [CLS]" in page
    assert all(f"Author {author['author_id']}" in page for author in found["importance"]["drawn"])


def test_fewer_authors_are_drawn_by_the_seed(trained: Settings) -> None:
    few = replace(trained, analyse=replace(trained.analyse, authors=7, drawn=2))
    first, second = run_job(analyse, few), run_job(analyse, replace(few, seed=5))
    assert first["a2a"]["queries"] == first["importance"]["authors"] == 7
    assert [a["author_id"] for a in first["importance"]["drawn"]] != [
        a["author_id"] for a in second["importance"]["drawn"]
    ]


def test_a_store_without_anchors_before_the_day_is_refused(trained: Settings) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        shutil.rmtree(Path(trained.storage.root) / "tables" / "anchors" / f"day={day}")
    with pytest.raises(ContractError, match="wanted a day before 2026-01-03"):
        run_job(analyse, trained)


def test_gates_are_means_of_sigmoids_of_real_terms(trained: Settings) -> None:
    gates = run_job(analyse, trained)["frequent_gates"]
    assert set(gates["layers"]) == {"0"} and 0 < gates["layers"]["0"] < 1
    assert 0 < len(gates["terms"]) <= 5
    assert all(term["term"] and 0 < term["layers"]["0"] < 1 for term in gates["terms"])
    counts = [term["tokens"] for term in gates["terms"]]
    assert counts == sorted(counts, reverse=True)
