from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from models import TASKS
from models.sarm.memory_bank import MemoryBank
from models.sarm.training import TrainingSARM, TrainingStep
from tests.models.worlds import NUM_AUTHORS, SARM_CONFIG, batch, sarm, tokens


def trainer(**changes: object) -> TrainingSARM:
    return TrainingSARM(sarm(replace(SARM_CONFIG, **changes)), *tokens().tensors())  # type: ignore[arg-type]


def filled_bank() -> MemoryBank:
    bank = MemoryBank(NUM_AUTHORS, 8)
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(NUM_AUTHORS + 1, 2, 8, generator=generator)
    bank.write(torch.arange(NUM_AUTHORS + 1), vectors, step=0)
    return bank


def gradients(module: TrainingSARM, step: TrainingStep) -> dict[str, torch.Tensor]:
    module.zero_grad()
    torch.autograd.backward(step.loss)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_the_loss_is_that_of_the_forward_on_freshly_encoded_targets() -> None:
    module, rows, bank = trainer(aux_weight=0.5), batch(24), filled_bank()
    step = module(rows, bank)
    cls, tar = module.sarm.encode_authors(rows.author, *(t[rows.author] for t in tokens().tensors()))
    output = module.sarm(rows, cls, tar, bank.vectors[rows.history, 0])
    recommendation = F.binary_cross_entropy_with_logits(output.logits, rows.labels) * 4
    auxiliary = F.binary_cross_entropy_with_logits(output.aux_logit, rows.labels[:, 0])
    torch.testing.assert_close(step.loss, recommendation + 0.5 * auxiliary)
    torch.testing.assert_close(step.parts["rec"], recommendation)
    torch.testing.assert_close(sum(step.parts[task] for task in TASKS), step.parts["rec"])


def test_each_author_of_the_batch_is_encoded_once_and_handed_out_detached() -> None:
    module, rows = trainer(), batch(24)
    step = module(rows, filled_bank())
    assert step.rows.tolist() == sorted(set(rows.author.tolist()))
    assert step.vectors.shape == (len(step.rows), 2, 8) and not step.vectors.requires_grad
    cls, _ = module.sarm.encode_authors(step.rows, *(t[step.rows] for t in tokens().tensors()))
    torch.testing.assert_close(step.vectors[:, 0], cls.detach())


def test_a_step_leaves_the_bank_alone() -> None:
    bank, before = filled_bank(), filled_bank()
    trainer()(batch(24), bank).loss.backward()
    assert torch.equal(bank.vectors, before.vectors) and torch.equal(bank.written_step, before.written_step)


def test_authors_beyond_the_budget_are_read_from_the_bank() -> None:
    rows, bank = batch(24), filled_bank()
    module = trainer(encode_budget=2)
    step = module(rows, bank)
    assert len(step.rows) == 2
    other = next(row for row in rows.author.tolist() if row not in step.rows.tolist())
    for changed, matters in ((other, True), (int(step.rows[0]), False)):
        touched = filled_bank()
        touched.vectors[changed, 1] += 1.0  # [TAR]: histories read [CLS] only
        assert (module(rows, touched).loss != step.loss) == matters


@pytest.mark.parametrize("budget", [None, 2])
def test_no_gradient_passes_the_bank(budget: int | None) -> None:
    """Eq. 8: only author a has token 2 + a. It learns where the step encoded a, and not where the bank was read."""
    base = torch.tensor([[1, 2 + author] for author in range(NUM_AUTHORS + 1)])
    module = TrainingSARM(sarm(replace(SARM_CONFIG, encode_budget=budget)), base, torch.zeros_like(base))
    rows = batch(12)
    step = module(rows, filled_bank())
    step.loss.backward()
    gradient = module.sarm.encoder.tokens.weight.grad
    assert gradient is not None
    encoded, read = set(step.rows.tolist()), set(rows.author.tolist()) | set(rows.history[rows.history_mask].tolist())
    assert len(read - encoded) >= 2
    assert set(gradient[2:].any(dim=1).nonzero()[:, 0].tolist()) == encoded


def test_the_history_is_always_read_from_the_bank() -> None:
    rows, bank = batch(24), filled_bank()
    module = trainer()
    before = module(rows, bank).loss
    bank.vectors[:, 0] += torch.randn(NUM_AUTHORS + 1, 8)
    assert module(rows, bank).loss != before


def test_a_budget_reaches_every_author_in_turn() -> None:
    module, rows, bank = trainer(encode_budget=2), batch(24), filled_bank()
    encoded: set[int] = set()
    for step in range(1, 1 + (len(set(rows.author.tolist())) + 1) // 2):
        done = module(rows, bank)
        bank.write(done.rows, done.vectors, step)
        encoded |= set(done.rows.tolist())
    assert encoded == set(rows.author.tolist())


@pytest.mark.parametrize("budget", [None, 1])
def test_every_parameter_gets_a_gradient(budget: int | None) -> None:
    module = trainer(encode_budget=budget)
    found = gradients(module, module(batch(64), filled_bank()))
    assert found.keys() == {name for name, _ in module.named_parameters()}
    if budget is None:
        assert [name for name, gradient in found.items() if not gradient.any()] == []


def test_two_runs_from_one_seed_give_the_same_numbers() -> None:
    weights = []
    for _ in range(2):
        module, bank = trainer(encode_budget=3), filled_bank()
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for step in range(3):
            done = module(batch(32, seed=step), bank)
            optimizer.zero_grad()
            done.loss.backward()
            optimizer.step()
            bank.write(done.rows, done.vectors, step + 1)
        weights.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_training_lowers_the_loss() -> None:
    module, bank, rows = trainer(), filled_bank(), batch(48)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for step in range(30):
        done = module(rows, bank)
        optimizer.zero_grad()
        done.loss.backward()
        optimizer.step()
        bank.write(done.rows, done.vectors, step + 1)
        losses.append(done.loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_tokens_of_another_number_of_authors_are_refused() -> None:
    base, live = tokens().tensors()
    with pytest.raises(ValueError, match="tokens of 12 author rows, got"):
        TrainingSARM(sarm(), base[1:], live[1:])


def run_worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    module = trainer()
    wrapped = DistributedDataParallel(module)
    rows = batch(24).slice(slice(12 * rank, 12 * rank + 12))
    wrapped(rows, filled_bank()).loss.backward()
    torch.save({n: p.grad for n, p in module.named_parameters()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_data_parallel_workers_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(run_worker, args=(str(tmp_path),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    module = trainer()
    wanted = gradients(module, module(batch(24), filled_bank()))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), wanted, atol=1e-5, rtol=1e-4)
