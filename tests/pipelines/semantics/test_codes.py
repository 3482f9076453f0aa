"""The job codes: codes of every segment by one codebook, which stays until it must change; resumable, and leak-free."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts.codebook import Codebook
from models.code_quality import purities
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.run import Run
from pipelines.semantics import codes, segment_vectors
from pipelines.semantics.codes import CodesConfig
from pipelines.semantics.segment_vectors import Space
from pipelines.tables import contract, rejections
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import to_numpy
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.semantics.embedded import MODEL, row, themed, write

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
CONFIG = CodesConfig(clusters=(5, 8), sample=300, rounds=3)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two days; nobody was shown anything yet."""
    storage = Storage.open(str(tmp_path / "store"))
    write(storage, DAYS[0], themed(40, 10, seed=1), themed(60, 10, seed=1)[400:])
    write(storage, DAYS[1], themed(50, 10, seed=2))
    return Run(seed=3, folder=tmp_path, storage=storage, cluster=ClusterConfig())


def coded(run: Run, day: str) -> Any:
    return to_numpy(run.storage.read("segment_codes", day))


def codebook(run: Run) -> Codebook:
    return Codebook.load(Artifacts(run.storage).fetch("codebook"))


def test_every_segment_gets_the_codes_of_its_vector(run: Run) -> None:
    figures = codes.run(CONFIG, run)
    assert figures["days_done"] == 2 and figures["fit"]["vectors"] == 1100 and figures["fit"]["sample"] == 300
    book = codebook(run)
    assert book.model == "student" and book.quantizer.clusters == (5, 8)
    for day in DAYS[:2]:
        given, made = to_numpy(run.storage.read("segment_embeddings", day)), coded(run, day)
        for column in ("author_id", "live_id", "segment", "end_ts_ms"):
            assert np.array_equal(made[column], given[column])
        vectors = torch.from_numpy(given["embedding"].astype(np.float32))
        assert made["codes"].tolist() == book.quantizer.codes(vectors).tolist()
        assert set(made["codebook"]) == {figures["codebook"]}
        quality = figures["quality"][day]
        shown = book.quantizer.decode(torch.tensor(made["codes"]).long())
        error = float((vectors - shown).square().sum(dim=1).mean())
        assert quality["levels"][1]["mse"] == pytest.approx(error, rel=1e-5) and quality["vectors"] == len(vectors)
    # Five themes lie far apart: five clusters of the first level are they.
    assert purities(made["codes"], made["author_id"] % 5)[0]["purity"] == 1.0
    assert quality["levels"][0]["explained"] > 0.8 and quality["levels"][0]["used"] == 1.0


def test_a_codebook_is_that_of_all_rows_and_the_same_again(run: Run, tmp_path: Path) -> None:
    codes.run(CONFIG, run)
    first = codebook(run).quantizer
    assert [int(of.sum()) for of in first.counts] == [1100, 1100]
    other = replace(run, storage=Storage.open(str(tmp_path / "other")))
    for day in DAYS[:2]:
        other.storage.adopt("segment_embeddings", day, run.storage)
    codes.run(CONFIG, other)
    again = codebook(other).quantizer
    assert all(torch.equal(*both) for both in zip(first.centroids, again.centroids, strict=True))
    assert Artifacts(other.storage).current("codebook") == Artifacts(run.storage).current("codebook")


def test_parts_change_nothing_but_the_sample(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all rows as the sample, small parts must give the very centroids of one."""
    config = replace(CONFIG, sample=10**6)
    codes.run(config, run)
    whole, before = codebook(run), coded(run, DAYS[0])
    monkeypatch.setattr(segment_vectors, "_NUMBERS", 200 * 8)
    assert len(segment_vectors.parts(run.storage, DAYS[0], Space(model=MODEL, width=8))) > 1
    codes.run(replace(config, rounds=4), run)
    codes.run(config, run)
    assert coded(run, DAYS[0])["codes"].tolist() == before["codes"].tolist()
    parts = codebook(run)
    assert all(torch.equal(*both) for both in zip(whole.quantizer.centroids, parts.quantizer.centroids, strict=True))


def test_new_days_get_codes_of_the_same_codebook(run: Run) -> None:
    first = codes.run(CONFIG, run)
    assert codes.run(CONFIG, run) == {"codebook": first["codebook"], "fit": None, "days_done": 0, "quality": {}}
    write(run.storage, DAYS[2], themed(30, 4, seed=4))
    newer = codes.run(CONFIG, run)
    assert newer["codebook"] == first["codebook"] and newer["fit"] is None and [*newer["quality"]] == [DAYS[2]]
    asked = codes.run(replace(CONFIG, refit=True, fit_days=1), run)
    assert asked["codebook"] != first["codebook"] and asked["fit"]["days"] == [DAYS[2]] and asked["days_done"] == 3
    assert codes.run(replace(CONFIG, refit=True, fit_days=1), run)["days_done"] == 0


@pytest.mark.parametrize("change", ["rows", "clusters", "seed"])
def test_what_a_codebook_is_made_from_makes_a_new_one(run: Run, change: str) -> None:
    first, config = codes.run(CONFIG, run), CONFIG
    if change == "rows":
        write(run.storage, DAYS[0], themed(60, 10, seed=7))
    elif change == "clusters":
        config = replace(CONFIG, clusters=(5, 9))
    else:
        run = replace(run, seed=4)
    again = codes.run(config, run)
    assert again["codebook"] != first["codebook"] and again["days_done"] == 2
    assert set(coded(run, DAYS[1])["codebook"]) == {again["codebook"]}


def test_a_day_that_is_no_longer_kept_changes_nothing(run: Run) -> None:
    first = codes.run(CONFIG, run)
    shutil.rmtree(run.storage.folder("segment_embeddings", DAYS[0]))
    assert codes.run(CONFIG, run)["codebook"] == first["codebook"]


def test_days_that_are_scored_are_coded_and_not_learnt_from(run: Run) -> None:
    impressions = contract.spec("impressions").schema
    for day in DAYS[1:]:
        empty = dict.fromkeys(impressions.names, 0) | {"watch_time_s": 0.0}
        run.storage.write("impressions", day, [impressions.empty_table().from_pylist([empty], schema=impressions)])
    write(run.storage, DAYS[2], themed(30, 4, seed=4))
    figures = codes.run(CONFIG, run)
    assert figures["fit"]["days"] == [*DAYS[:2]] and figures["days_done"] == 3
    before = codebook(run).quantizer.centroids[0]
    write(run.storage, DAYS[2], themed(30, 4, seed=5))
    codes.run(replace(CONFIG, refit=True), run)
    assert torch.equal(codebook(run).quantizer.centroids[0], before)
    # What was learnt from a day that is scored now is not used any more.
    assert codes.run(replace(CONFIG, test_days=2), run)["fit"]["days"] == [DAYS[0]]
    with pytest.raises(ContractError, match="table segment_embeddings: wanted at least one day up to 2025-12-31"):
        codes.run(replace(CONFIG, until="2025-12-31"), run)


def test_bad_rows_are_rejected_and_the_others_go_on(run: Run) -> None:
    bad = [row(900, 0, [float("nan")] * 8), row(901, 0, [1.0] * 7), row(902, 0, [1.0] * 8, model="other")]
    write(run.storage, DAYS[1], themed(50, 10, seed=2) + bad)
    figures = codes.run(CONFIG, run)
    assert figures["fit"]["vectors"] == 1100 and figures["quality"][DAYS[1]]["refused"] == 3
    rejected = rejections.of_stage(run.storage, DAYS[1], "codes").to_pylist()
    assert [of["key"] for of in rejected] == ["900 9000 0", "901 9010 0", "902 9020 0"]
    assert all(of["reason"] == "bad_row" and "run the job embed_segments again" in of["detail"] for of in rejected)
    assert not set(coded(run, DAYS[1])["author_id"]) & {900, 901, 902} and len(coded(run, DAYS[1])["codes"]) == 500
    write(run.storage, DAYS[1], themed(50, 10, seed=2))
    codes.run(CONFIG, run)
    assert not rejections.of_stage(run.storage, DAYS[1], "codes").num_rows


def test_a_run_that_dies_between_days_goes_on_with_those_that_are_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = Storage.write, []

    def dying(self: Storage, name: str, day: str, *rest: Any) -> Any:
        if name == "segment_codes" and done:
            raise KeyboardInterrupt
        done.append(day)
        return real(self, name, day, *rest)

    monkeypatch.setattr(Storage, "write", dying)
    monkeypatch.setattr(rejections, "replace", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        codes.run(CONFIG, run)
    monkeypatch.undo()
    assert run.storage.days("segment_codes") == [DAYS[0]]
    figures = codes.run(CONFIG, run)
    assert figures["fit"] is None and [*figures["quality"]] == [DAYS[1]]


def test_too_few_rows_and_no_rows_say_what_to_do(run: Run) -> None:
    with pytest.raises(ContractError, match=r"at least 2,000 usable rows, one per cluster, got 1,100; make codes.clus"):
        codes.run(replace(CONFIG, clusters=(2000,), sample=5000), run)
    write(run.storage, DAYS[0])
    write(run.storage, DAYS[1])
    with pytest.raises(ContractError, match="at least one day up to today, got none; run the job embed_segments first"):
        codes.run(CONFIG, run)


def test_a_day_of_bad_rows_alone_has_no_codes(run: Run) -> None:
    write(run.storage, DAYS[2], [row(1, segment, [float("nan")] * 8) for segment in range(3)])
    assert codes.run(replace(CONFIG, until=DAYS[1]), run)["quality"][DAYS[2]] == {"vectors": 0, "refused": 3}
    assert run.storage.read("segment_codes", DAYS[2]).num_rows == 0


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"clusters": ()}, "clusters: wanted sizes of 1 and more"),
        ({"clusters": (1 << 16,) * 4}, r"2\*\*63 in all"),
        ({"sample": 0}, "sample: wanted 1 or more, got 0"),
        ({"rounds": -1}, "rounds: wanted 0 or more"),
    ],
)
def test_settings_that_mean_nothing(wrong: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        CodesConfig(**wrong)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_tasks_of_a_cluster_make_the_very_codebook_and_codes(run: Run, tmp_path: Path) -> None:
    other = replace(run, storage=Storage.open(str(tmp_path / "other")), cluster=ClusterConfig(address="auto"))
    for day in DAYS[:2]:
        other.storage.adopt("segment_embeddings", day, run.storage)
    here, there = codes.run(CONFIG, run), codes.run(CONFIG, other)
    here["fit"].pop("seconds"), there["fit"].pop("seconds")
    assert json.dumps(here) == json.dumps(there)
    for day in DAYS[:2]:
        assert run.storage.fingerprint("segment_codes", day) == other.storage.fingerprint("segment_codes", day)
    with pytest.raises(ContractError, match="usable rows"):
        codes.run(replace(CONFIG, clusters=(2000,), sample=5000), other)


def test_item_vectors_have_codes_of_their_own_and_new_towers_a_new_codebook(run: Run) -> None:
    """Codes of two models never mix: vectors of other towers are coded by a codebook that was fitted on those."""
    items = replace(CONFIG, of="item_vectors")
    write(run.storage, DAYS[0], themed(40, 10, width=4, seed=1), name="item_vectors", model="towers-1")
    codes.run(CONFIG, run)
    first = codes.run(items, run)
    assert codes.run(CONFIG, run)["days_done"] == 0 == codes.run(items, run)["days_done"]
    made = to_numpy(run.storage.read("item_codes", DAYS[0]))
    book = Codebook.load(Artifacts(run.storage).fetch("codebook.items"))
    assert book.model == "towers-1" and codebook(run).model == "student" and len(made["codes"]) == 400
    # A day of new towers, though no day of the old codebook has changed.
    write(run.storage, DAYS[1], themed(30, 10, width=4, seed=2), name="item_vectors", model="towers-2")
    again = codes.run(replace(items, fit_days=1), run)
    assert again["codebook"] != first["codebook"] and again["fit"]["days"] == [DAYS[1]]
    assert Codebook.load(Artifacts(run.storage).fetch("codebook.items")).model == "towers-2"
    assert again["quality"][DAYS[0]] == {"vectors": 0, "refused": 400}  # until its vectors are made again
    (told, *_) = rejections.of_stage(run.storage, DAYS[0], "item_codes").to_pylist()
    assert "column model: wanted towers-2, as others are, got towers-1; run the job item_vectors" in told["detail"]
    assert not rejections.of_stage(run.storage, DAYS[0], "codes").num_rows
