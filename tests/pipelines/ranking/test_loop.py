"""The training loop on another device than the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from models.catalog import Catalog
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from models.sarm.model import SARM
from pipelines.ranking.anchor_table import AnchorTable
from pipelines.ranking.loop import CATALOG, Progress, Worker, all_gather_rows, train
from pipelines.ranking.published import score
from pipelines.ranking.train import make_plan
from pipelines.samples.batches import read_examples
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage
from tests.models.devices import second_device

DAYS = ("2026-01-01", "2026-01-02")


def _train(
    settings: Settings, variant: str, work: Path, device: torch.device | str = "cpu", resume: Path | None = None
) -> Progress:
    storage = Storage.open(settings.storage.root)
    artifacts = Artifacts(storage)
    plan, _ = make_plan(settings.train, settings.open(), storage, artifacts, variant)
    return train(
        plan,
        storage,
        LiveStreamingTokenizer.load(artifacts.fetch("tokenizer")),
        work=work,
        worker=Worker(device=torch.device(device)),
        report=lambda metrics, folder: None,
        log_line=lambda line: None,
        resume=resume,
    )


def _losses(progress: Progress) -> list[float]:
    return [entry["loss"] for entry in progress.curve]


@pytest.mark.parametrize("variant", ["sarm", "base"])
def test_a_run_and_its_checkpoints_pass_from_device_to_device(tiny: Settings, tmp_path: Path, variant: str) -> None:
    whole = _losses(_train(tiny, variant, tmp_path / "cpu"))
    with second_device() as device:
        there = _train(tiny, variant, tmp_path / "there", device)
        moved = _train(tiny, variant, tmp_path / "moved", device, resume=tmp_path / "cpu" / f"after-{DAYS[0]}")
    back = _train(tiny, variant, tmp_path / "back", resume=tmp_path / "there" / f"after-{DAYS[0]}")
    for progress in (there, moved, back):
        assert progress.days == list(DAYS)
        assert _losses(progress) == pytest.approx(whole, abs=1e-3)


def test_a_model_scores_where_it_is(trained: Settings) -> None:
    storage, folder = Storage.open(trained.storage.root), Path(trained.run_dir) / "sarm" / f"after-{DAYS[1]}"
    model, catalog = SARM.load(folder), Catalog.load(folder / CATALOG)
    tokenizer = LiveStreamingTokenizer.load(Artifacts(storage).fetch("tokenizer"))
    anchors, columns = AnchorTable(storage, catalog, tokenizer).advance().tokens, read_examples(storage, DAYS[1])
    wanted = score(model, catalog, columns, bank=model.encode_bank(anchors))
    with second_device() as device:
        model.to(device)
        found = score(model, catalog, columns, bank=model.encode_bank(anchors))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_rows_of_all_workers_are_gathered_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, of which the other one has the same rows."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", lambda parts, own: [part.copy_(own) for part in parts])
    with second_device() as device:
        rows, vectors = all_gather_rows(torch.tensor([4, 9]).to(device), torch.ones(2, 2, 3, device=device), 5)
        assert rows.device == vectors.device == device
        assert rows.tolist() == [4, 9, 4, 9] and vectors.shape == (4, 2, 3)
