"""The job recall, against a search of one click after another by the words of the rule."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts.towers import Towers
from models.hit_rate import NO_END
from pipelines.retrieval import item_vectors, recall
from pipelines.retrieval.clicks import COLUMNS, viewers_of
from pipelines.retrieval.item_vectors import ItemVectorsConfig
from pipelines.retrieval.recall import RecallConfig, Segments
from pipelines.runtime.run import Run
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import to_numpy
from pipelines.tables.contract import ContractError
from tests.pipelines.retrieval import little_platform
from tests.pipelines.retrieval.little_platform import DAYS, little, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A platform with published towers and their vectors."""
    folder = tmp_path_factory.mktemp("recall")
    run = little_platform.write(folder)
    _, folders = trained(run, little(epochs=8), folder / "work")
    scratch = folder / "scratch"
    scratch.mkdir()
    Towers.load(folders[-1]).save(scratch)
    made_from = {f"examples/{day}": "" for day in DAYS[:2]}
    Artifacts(run.storage).publish("towers", scratch, "towers-1", made_from)
    item_vectors.run(ItemVectorsConfig(), run)
    return run


def slow(run: Run, k: int) -> dict[str, list[bool]]:
    """Whether each click of the last day is found."""
    towers = Towers.load(Artifacts(run.storage).fetch("towers"))
    rows = [row for day in DAYS[:3] for row in run.storage.read("item_vectors", day).to_pylist()]
    lasts: dict[int, int] = {}
    for row in rows:
        lasts[row["live_id"]] = max(lasts.get(row["live_id"], 0), row["end_ts_ms"])
    examples = run.storage.read("examples", DAYS[2], list(COLUMNS))
    found: dict[str, list[bool]] = {"on_air": [], "overall": []}
    for at in range(examples.num_rows):
        one = to_numpy(examples.slice(at, 1))
        if not one["click"][0]:
            continue
        with torch.no_grad():
            user = towers.model.viewers(viewers_of(one, towers.catalog, None)).numpy()[0]
        moment = one["ts_ms"][0]
        known = [row for row in rows if row["end_ts_ms"] <= moment]
        for name, key, there in (
            ("on_air", "live_id", [row for row in known if moment < lasts[row["live_id"]]]),
            ("overall", "author_id", known),
        ):
            newest = {row[key]: row for row in sorted(there, key=lambda row: row["end_ts_ms"])}
            scores = {of: user @ np.array(row["embedding"], np.float32) for of, row in newest.items()}
            own = int(one[key][0])
            before = sum(of != own and score >= scores[own] for of, score in scores.items()) if own in scores else k
            found[name].append(before < k)
    return found


def test_hit_rates_are_those_of_the_rule(run: Run) -> None:
    figures = recall.run(RecallConfig(ks=(1, 3), cold_below=10_000), run)
    assert figures["day"] == DAYS[2] and figures["towers"] == "towers-1"
    for k in (1, 3):
        for name, hits in slow(run, k).items():
            assert figures["clicks"] == len(hits)
            assert figures["hit_rate"][name][str(k)] == pytest.approx(np.mean(hits))
            assert figures["hit_rate"][f"cold_{name}"][str(k)] == pytest.approx(np.mean(hits))  # all are cold
    assert 1 < figures["candidates"]["on_air"] < figures["candidates"]["overall"] == little_platform.AUTHORS
    assert 0 < figures["no_segment_yet"] < 0.2
    # Better than chance, in spite of those that nobody can find.
    assert figures["hit_rate"]["on_air"]["3"] > 1.2 * 3 / figures["candidates"]["on_air"]


def test_no_cold_author_is_told_as_such(run: Run) -> None:
    figures = recall.run(RecallConfig(ks=(3,), cold_below=1), run)
    assert figures["cold_clicks"] == 0 and figures["hit_rate"]["cold_overall"] == {"3": None}


def test_a_live_is_on_air_as_its_newest_segment_and_no_longer_than_it_goes_on() -> None:
    segments = Segments(
        author_id=np.array([1, 1, 2, 1]), live_id=np.array([7, 7, 8, 9]), end_ts_ms=np.array([60, 30, 40, 90]),
        vectors=np.zeros((4, 2), np.float32),
    )  # fmt: skip
    assert segments.on_air().until_ms.tolist() == [60, 60, 40, 90]
    assert segments.of_authors().until_ms.tolist() == [90, 60, NO_END, NO_END]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"day": DAYS[0]}, "2026-01-01 is one of the days that towers was trained on"),
        ({"known_days": 0}, "known_days"),
        ({"towers": "x"}, "towers: wanted one of"),
    ],
)
def test_what_cannot_be_measured_is_told(run: Run, wrong: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        recall.run(RecallConfig(**wrong), run)


def test_vectors_of_other_towers_are_none(run: Run, tmp_path: Path) -> None:
    of = replace(run, storage=run.storage)
    towers = Artifacts(of.storage).fetch("towers")
    Towers.load(towers).save(tmp_path)
    Artifacts(of.storage).publish("towers", tmp_path, "towers-2", {})
    with pytest.raises(ContractError, match="wanted vectors of the towers towers-2, got none; run the job item_vect"):
        recall.run(RecallConfig(), of)
