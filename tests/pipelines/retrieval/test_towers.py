"""The job towers: it learns, the same way each time, on however many workers, and again only when something changed."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.artifacts.towers import Towers
from pipelines.retrieval import towers
from pipelines.retrieval.towers_plan import TowersConfig
from pipelines.runtime.run import Run
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.retrieval import little_platform
from tests.pipelines.retrieval.little_platform import DAYS, little, trained
from tests.pipelines.retrieval.two_towers_workers import fit_alone, fit_on_two
from tests.pipelines.semantics.embedded import MODEL


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Towers.load(folder).model.state_dict()


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_learnt_is_the_same_again_and_says_what_it_was_made_by(platform: Run, tmp_path: Path) -> None:
    lines: list[str] = []
    progress, folders = trained(platform, little(epochs=6), tmp_path / "a", log_line=lines.append)
    losses = [of["loss"] for of in progress.curve]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.1
    assert all(0 < of["gate"] < 1 for of in progress.curve)
    assert progress.done == [*DAYS[:2]] * 6 and any("content 0." in line and "eta" in line for line in lines)
    found = Towers.load(folders[-1])
    assert (found.embeddings, found.mean_days, found.codebook, found.rule.length) == (MODEL, 7, None, 4)
    _, again = trained(platform, little(epochs=6), tmp_path / "b")
    assert same(folders[-1], again[-1])


def test_what_is_on_screen_is_learnt(platform: Run, tmp_path: Path) -> None:
    """A user likes a theme, whoever shows it: content brings the clicked live nearer than ids can."""
    last = {}
    for parts in ("id", "content"):
        model = little().model
        progress, _ = trained(platform, replace(little(epochs=10), model=replace(model, parts=parts)), tmp_path / parts)
        last[parts] = np.mean([of["loss"] for of in progress.curve[-6:]])
        assert progress.curve[-1]["gate"] == float(parts == "content")
    assert last["content"] < last["id"] - 0.05


def test_a_run_goes_on_from_any_checkpoint_to_the_same_bits(platform: Run, tmp_path: Path) -> None:
    config = little(checkpoint_rows=30, stretch_rows=60)
    progress, folders = trained(platform, config, tmp_path / "whole")
    assert len(folders) > 2 * config.epochs  # also within days
    for at in (0, 2, len(folders) - 2):
        again, resumed = trained(platform, config, tmp_path / str(at), resume=folders[at])
        assert same(resumed[-1], folders[-1])
        assert (again.step, again.examples, again.done) == (progress.step, progress.examples, progress.done)
        assert [of["loss"] for of in again.curve] == [of["loss"] for of in progress.curve]


def test_two_workers_with_half_batches_are_one_with_whole_ones(platform: Run, tmp_path: Path) -> None:
    """They share negatives: otherwise a worker's loss would be of half as many."""
    config = little(epochs=1, log_every=1, batch_size=31)
    alone = fit_alone(platform, config, tmp_path)
    first, second = fit_on_two(platform, config, tmp_path)
    assert len(alone["loss"]) > 5
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, atol=2e-4, rtol=1e-3, msg=name)
    assert abs(first["loss"][0] - alone["loss"][0]) < 1e-5


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"codes": "anchors"}, "codes: wanted one of segment_codes, item_codes, or null, got 'anchors'"),
        ({"epochs": 0}, "epochs: wanted 1 or more, got 0"),
        ({"l2_ids": -1.0}, "l2_ids: wanted 0 or more"),
        ({"lr_ids": 0.0}, "wanted lr_ids and lr_dense > 0"),
    ],
)
def test_settings_that_mean_nothing(wrong: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        TowersConfig(**wrong)


def test_what_is_missing_says_what_to_do(platform: Run, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="more than towers.test_days=3 day.s., got 3"):
        towers.run(little(test_days=3), platform)
    other = Storage.open(str(tmp_path / "store"))
    for table in ("users", "authors", "examples"):
        for day in platform.storage.days(table):
            other.adopt(table, day, platform.storage)
    with pytest.raises(ContractError, match="table segment_embeddings: .* run the job embed_segments"):
        towers.run(little(), replace(platform, storage=other))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_job_publishes_towers_and_again_only_when_something_changed(tmp_path: Path) -> None:
    run = little_platform.write(tmp_path)
    config = little(scaling={"num_workers": 2})
    first = towers.run(config, run)
    assert first["how"] == "trained" and first["failures"] == 0 and 0 < first["gate"] < 1 and first["steps"] > 5
    assert towers.run(config, run) == {"kind": "towers", "run_id": first["run_id"], "how": "current"}
    folder, manifest = Artifacts(run.storage).verified("towers")
    assert Towers.load(folder).embeddings == MODEL
    assert {f"examples/{day}" for day in DAYS[:2]} <= set(manifest.made_from)
    assert f"segment_embeddings/{DAYS[2]}" not in manifest.made_from  # of the day that is scored
    rows = little_platform.segments(1, seed=5)
    run.storage.write("segment_embeddings", DAYS[1], [little_platform.table("segment_embeddings", rows)])
    again = towers.run(config, run)
    assert again["how"] == "trained" and again["run_id"] != first["run_id"]
    shutil.rmtree(run.folder / "ray")
