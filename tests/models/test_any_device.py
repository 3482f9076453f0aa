"""Training steps and scores on another device than the CPU: no tensor is left behind, and the numbers are the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.batch import RankingBatch
from models.losses import multi_task_bce
from models.ops.packing import Distinct, Places
from models.optimizer import param_groups
from models.quantize import ResidualConfig, ResidualQuantizer
from models.ranker import Ranker
from models.sarm.memory_bank import MemoryBank
from models.sarm.rollout import token_importance
from models.sarm.training import TrainingSARM
from models.sync_batch_norm import SyncBatchNorm1d
from models.two_stage import READS, TwoStageConfig, TwoStageRanker
from tests.models.devices import second_device
from tests.models.worlds import NUM_AUTHORS, RANKER, SARM_CONFIG, batch, catalog, sarm, scatter_parameters, tokens

CPU = torch.device("cpu")
STEPS = 3
RATES = {"lr_ids": 0.01, "lr_encoder": 0.01, "lr_dense": 0.01, "l2_ids": 1e-4}


def train(model: nn.Module, loss: Callable[[RankingBatch, int], Tensor], device: torch.device) -> dict[str, Tensor]:
    """The losses of some steps: all but the first one say what was learnt."""
    optimizer = torch.optim.Adam(param_groups(model, **RATES), fused=True)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses.append(loss(batch(32, seed=step).to(device), step))
        losses[-1].backward()
        optimizer.step()
    return {"losses": torch.stack(losses).detach().cpu()}


def train_sarm(budget: int | None, device: torch.device) -> dict[str, Tensor]:
    model = sarm(replace(SARM_CONFIG, encode_budget=budget, interest_heads=2, interest_layers=2)).to(device)
    module = TrainingSARM(model, *(t.to(device) for t in tokens().tensors()))
    bank = MemoryBank(NUM_AUTHORS, SARM_CONFIG.width, device)

    def loss(rows: RankingBatch, step: int) -> Tensor:
        done = module(rows, bank)
        bank.write(done.rows, done.vectors, step)
        return done.loss

    return train(module, loss, device) | {"bank": bank.vectors.cpu(), "written_step": bank.written_step.cpu()}


def train_base(device: torch.device) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = Ranker(RANKER, catalog().sizes).to(device)
    return train(model, lambda rows, _: multi_task_bce(model(rows), rows.labels).sum(), device)


def train_two_stage(reads: str, device: torch.device) -> dict[str, Tensor]:
    torch.manual_seed(0)
    codes, vectors = torch.arange(2 * (NUM_AUTHORS + 1)).view(-1, 2) % 6, torch.randn(NUM_AUTHORS + 1, 3)
    config = TwoStageConfig(reads=reads, num_codes=6, embedding_dim=3, width=4, ranker=RANKER)
    model = TwoStageRanker(config, catalog().sizes)
    scatter_parameters(model)
    content = (codes if reads == "codes" else vectors).to(device)
    model.to(device)
    return train(model, lambda rows, _: multi_task_bce(model(rows, content), rows.labels).sum(), device)


STEPS_OF: dict[str, Callable[[torch.device], dict[str, Tensor]]] = {
    "sarm": lambda device: train_sarm(None, device),
    "sarm_within_a_budget": lambda device: train_sarm(3, device),
    "base": train_base,
    **{f"two_stage_{reads}": lambda device, reads=reads: train_two_stage(reads, device) for reads in READS},
}


@pytest.mark.parametrize("name", STEPS_OF)
def test_a_model_learns_on_any_device_what_it_learns_on_the_cpu(name: str) -> None:
    wanted = STEPS_OF[name](CPU)
    with second_device() as device:
        found = STEPS_OF[name](device)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_vectors_and_scores_of_sarm() -> None:
    model = sarm().eval()
    bank = model.encode_bank(tokens())
    rows = batch(12)
    one_user = rows._replace(history=rows.history[:1].expand(12, -1), history_mask=rows.history_mask[:1].expand(12, -1))
    vectors = torch.from_numpy(bank)
    importance = token_importance(model, torch.arange(NUM_AUTHORS + 1), *tokens().tensors())

    def score(given: RankingBatch, stored: Tensor) -> Tensor:
        return model.score_candidates(
            given, *stored[given.author].unbind(dim=1), stored[:, model.history_part][given.history[:1]]
        )

    scores = score(one_user, vectors)
    with second_device() as device:
        model.to(device)
        np.testing.assert_allclose(model.encode_bank(tokens()), bank, atol=1e-5)
        torch.testing.assert_close(score(one_user.to(device), vectors.to(device)).cpu(), scores)
        given = (t.to(device) for t in (torch.arange(NUM_AUTHORS + 1), *tokens().tensors()))
        torch.testing.assert_close(token_importance(model, *given).cpu(), importance)


def test_a_saved_model_does_not_remember_its_device(tmp_path) -> None:
    model = sarm()
    with second_device() as device:
        sarm().to(device).save(tmp_path)
    loaded = type(model).load(tmp_path)
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())


def test_a_bank_goes_from_device_to_device(tmp_path) -> None:
    bank = MemoryBank(NUM_AUTHORS, 2)
    rows, vectors = torch.tensor([3, 1, 3]), torch.arange(12.0).view(3, 2, 2)
    bank.write(rows, vectors, step=4)
    with second_device() as device:
        there = MemoryBank(NUM_AUTHORS, 2, device)
        there.write(rows.to(device), vectors.to(device), step=4)
        assert np.array_equal(there.to_numpy(), bank.to_numpy())
        there.save(tmp_path / "bank.safetensors")
        again = MemoryBank.load(tmp_path / "bank.safetensors", device)
        assert again.vectors.device == again.written_step.device == device
        assert torch.equal(again.read(rows.to(device)).cpu(), bank.read(rows))
    here = MemoryBank.load(tmp_path / "bank.safetensors")
    assert torch.equal(here.vectors, bank.vectors) and torch.equal(here.written_step, bank.written_step)


def test_packed_sequences_and_codes() -> None:
    torch.manual_seed(0)
    mask, ids, vectors = torch.rand(3, 4) < 0.5, torch.randint(5, (3, 4)), torch.randn(40, 3)
    config = ResidualConfig(levels=2, clusters=4)
    quantizer = ResidualQuantizer.fit(vectors, config)
    with second_device() as device:
        places, distinct = Places(mask.to(device)), Distinct(ids.to(device))
        assert torch.equal(distinct.pack(distinct.ids, places).cpu(), ids[mask])
        there = ResidualQuantizer.fit(vectors.to(device), config)
        assert torch.equal(there.codes(vectors.to(device)).cpu(), quantizer.codes(vectors))
        decoded = there.decode(there.codes(vectors.to(device))).cpu()
    torch.testing.assert_close(decoded, quantizer.decode(quantizer.codes(vectors)))


def test_batch_norm_of_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers with the same rows: the moments are those of one."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda total: total.mul_(2))
    x = torch.randn(5, 3)
    with second_device() as device:
        norm = SyncBatchNorm1d(3).to(device)
        out = norm(x.to(device))
        out.square().sum().backward()
        assert norm.weight.grad is not None and norm.weight.grad.device == device
        torch.testing.assert_close(out.detach().cpu(), nn.functional.batch_norm(x, None, None, training=True))
