"""The job item_vectors: every segment as the towers see it, day by day, of one version of them."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts.manifest import ArtifactError
from models.artifacts.towers import Towers
from models.larm.two_tower import Lives
from pipelines.retrieval import item_vectors, on_screen
from pipelines.retrieval.item_vectors import ItemVectorsConfig
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.run import Run
from pipelines.semantics import segment_vectors
from pipelines.semantics.segment_vectors import Space
from pipelines.tables import rejections
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import to_numpy
from pipelines.tables.storage import Storage
from tests.pipelines.retrieval.little_platform import DAYS, WIDTH, little, segments, table, trained
from tests.pipelines.semantics.embedded import MODEL, row

CONFIG = ItemVectorsConfig()


def publish(run: Run, source: Path, run_id: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Towers.load(source).save(Path(scratch))
        Artifacts(run.storage).publish("towers", Path(scratch), run_id, {"examples": "e"})


@pytest.fixture(scope="session")
def checkpoint(platform: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, folders = trained(platform, little(), tmp_path_factory.mktemp("trained"))
    return folders[-1]


@pytest.fixture
def run(platform: Run, checkpoint: Path, tmp_path: Path) -> Run:
    """A store of its own with the platform's embeddings and published towers."""
    storage = Storage.open(str(tmp_path / "store"))
    for day in DAYS[:3]:
        storage.adopt("segment_embeddings", day, platform.storage)
    of = replace(platform, storage=storage, folder=tmp_path)
    publish(of, checkpoint, "towers-1")
    return of


def written(run: Run, day: str) -> dict[str, Any]:
    return to_numpy(run.storage.read("item_vectors", day))


def test_a_segment_s_vector_is_what_training_saw_of_its_live(run: Run) -> None:
    """Of r and m as the rule says, by the towers' own function; at the moment when a segment ends it is the newest."""
    figures = item_vectors.run(CONFIG, run)
    assert figures["towers"] == "towers-1" and figures["days_done"] == 3
    towers = Towers.load(Artifacts(run.storage).fetch("towers"))
    given, made = to_numpy(run.storage.read("segment_embeddings", DAYS[2])), written(run, DAYS[2])
    for column in ("author_id", "live_id", "segment", "end_ts_ms"):
        assert np.array_equal(made[column], given[column])
    assert set(made["model"]) == {"towers-1"} and made["embedding"].dtype == np.float16
    seen = on_screen.at_moments(
        run.storage, Space(model=MODEL, width=WIDTH), DAYS[2], given["live_id"], given["end_ts_ms"], mean_days=7
    )
    author = torch.from_numpy(towers.catalog.author_rows(given["author_id"]))
    with torch.no_grad():
        vectors, gate = towers.model.lives(Lives(author, *map(torch.from_numpy, seen)))
    np.testing.assert_allclose(made["embedding"], vectors.half().numpy(), atol=1e-3)
    assert figures["days"][DAYS[2]]["gate"] == pytest.approx(gate.mean().item(), abs=1e-5)
    assert 0 < gate.mean() < 1 and figures["days"][DAYS[2]] | {"gate": 0} == {
        "segments": len(gate), "refused": 0, "gate": 0
    }  # fmt: skip


def test_only_what_is_due_is_made_and_new_towers_make_all(run: Run, checkpoint: Path) -> None:
    item_vectors.run(CONFIG, run)
    assert item_vectors.run(CONFIG, run)["days_done"] == 0
    run.storage.write("segment_embeddings", DAYS[1], [table("segment_embeddings", segments(1, seed=9))])
    assert [*item_vectors.run(CONFIG, run)["days"]] == [*DAYS[1:3]]  # the third has means over the second
    publish(run, checkpoint, "towers-2")
    assert item_vectors.run(CONFIG, run)["days_done"] == 3
    assert set(written(run, DAYS[0])["model"]) == {"towers-2"}


def test_bad_rows_are_rejected_and_the_others_go_on(run: Run) -> None:
    good = segments(1)
    bad = [row(90, 0, [float("nan")] * WIDTH), row(91, 0, [1.0]), row(92, 0, [1.0] * WIDTH, model="other")]
    run.storage.write("segment_embeddings", DAYS[1], [table("segment_embeddings", good + bad)])
    assert item_vectors.run(CONFIG, run)["days"][DAYS[1]]["refused"] == 3
    assert len(written(run, DAYS[1])["segment"]) == len(good)
    told = rejections.of_stage(run.storage, DAYS[1], "item_vectors").to_pylist()
    assert [of["key"] for of in told] == ["90 900 0", "91 910 0", "92 920 0"]
    assert all("run the job embed_segments again" in of["detail"] for of in told)


def test_small_parts_make_the_same_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    item_vectors.run(CONFIG, run)
    whole = written(run, DAYS[2])
    monkeypatch.setattr(segment_vectors, "_NUMBERS", 1)
    rows = segments(2)
    chunks = [table("segment_embeddings", rows[at::3]) for at in range(3)]  # every part has all authors
    run.storage.write("segment_embeddings", DAYS[2], chunks)
    item_vectors.run(CONFIG, run)
    pieces = written(run, DAYS[2])
    order = [np.lexsort((of["segment"], of["author_id"])) for of in (whole, pieces)]
    assert np.array_equal(whole["embedding"][order[0]], pieces["embedding"][order[1]])


def test_without_towers_nothing_is_written(run: Run) -> None:
    with pytest.raises(ArtifactError, match="item_codes"):
        item_vectors.run(ItemVectorsConfig(towers="towers+item_codes"), run)
    with pytest.raises(ValueError, match="towers: wanted one of towers, towers.segment_codes"):
        ItemVectorsConfig(towers="sarm")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_tasks_of_a_cluster_make_the_same_rows(run: Run) -> None:
    item_vectors.run(CONFIG, run)
    here = [run.storage.fingerprint("item_vectors", day) for day in DAYS[:3]]
    other = replace(run, cluster=ClusterConfig(address="auto"))
    for day in DAYS[:3]:
        other.storage.write("item_vectors", day, [])
    assert item_vectors.run(CONFIG, other)["days_done"] == 3
    assert [run.storage.fingerprint("item_vectors", day) for day in DAYS[:3]] == here
