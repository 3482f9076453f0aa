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
from models.batch import RankingBatch
from models.sarm.memory_bank import MemoryBank
from models.training import TrainingRanker, TrainingStep
from tests.models.worlds import NUM_AUTHORS, SARM_CONFIG, batch, composed, filled_bank, sarm, tokens, trainer


def sarm_trainer(**changes: object) -> TrainingRanker:
    return trainer(sarm(replace(SARM_CONFIG, **changes)))  # type: ignore[arg-type]


def run(module: TrainingRanker, rows: RankingBatch, bank: MemoryBank) -> TrainingStep:
    return module(rows, {"sarm": bank})


def gradients(module: TrainingRanker, step: TrainingStep) -> dict[str, torch.Tensor]:
    module.zero_grad()
    torch.autograd.backward(step.loss)
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_the_loss_is_that_of_the_forward_on_freshly_encoded_targets() -> None:
    module, rows, bank = sarm_trainer(aux_weight=0.5), batch(24), filled_bank()
    step = run(module, rows, bank)
    source, ids = module.model.source("sarm"), module.model.ranker.authors
    tokens_of = (t[rows.author] for t in tokens().tensors())
    target = torch.stack(source.encode_authors(rows.author, *tokens_of, ids), dim=1)
    logits = module.model(rows, [source.read(rows, target, bank.vectors[rows.history, 0])])
    recommendation = F.binary_cross_entropy_with_logits(logits, rows.labels) * 4
    auxiliary = F.binary_cross_entropy_with_logits(source.auxiliary(target), rows.labels[:, 0])
    torch.testing.assert_close(step.loss, recommendation + 0.5 * auxiliary)
    torch.testing.assert_close(step.parts["rec"], recommendation)
    torch.testing.assert_close(step.parts["aux"], auxiliary)
    torch.testing.assert_close(sum(step.parts[task] for task in TASKS), step.parts["rec"])


def test_each_author_of_the_batch_is_encoded_once_and_handed_out_detached() -> None:
    module, rows = sarm_trainer(), batch(24)
    fresh = run(module, rows, filled_bank()).fresh["sarm"]
    assert fresh.rows.tolist() == sorted(set(rows.author.tolist()))
    assert fresh.vectors.shape == (len(fresh.rows), 2, 8) and not fresh.vectors.requires_grad
    tokens_of = (t[fresh.rows] for t in tokens().tensors())
    vectors = module.model.source("sarm").encode_authors(fresh.rows, *tokens_of, module.model.ranker.authors)
    torch.testing.assert_close(fresh.vectors, torch.stack(vectors, dim=1).detach())


def test_a_step_leaves_the_bank_alone() -> None:
    bank, before = filled_bank(), filled_bank()
    run(sarm_trainer(), batch(24), bank).loss.backward()
    assert torch.equal(bank.vectors, before.vectors) and torch.equal(bank.written_step, before.written_step)


def test_authors_beyond_the_budget_are_read_from_the_bank() -> None:
    rows, bank = batch(24), filled_bank()
    module = sarm_trainer(encode_budget=2)
    step = run(module, rows, bank)
    encoded = step.fresh["sarm"].rows.tolist()
    assert len(encoded) == 2
    other = next(row for row in rows.author.tolist() if row not in encoded)
    for changed, matters in ((other, True), (encoded[0], False)):
        touched = filled_bank()
        touched.vectors[changed, 1] += 1.0  # [TAR]: histories read [CLS] only
        assert (run(module, rows, touched).loss != step.loss) == matters


@pytest.mark.parametrize("budget", [None, 2])
def test_no_gradient_passes_the_bank(budget: int | None) -> None:
    """Eq. 8: only author a has token 2 + a. It learns where the step encoded a, and not where the bank was read."""
    base = torch.tensor([[1, 2 + author] for author in range(NUM_AUTHORS + 1)])
    module = sarm_trainer(encode_budget=budget)
    module.inputs = {"sarm": (base, torch.zeros_like(base))}
    rows = batch(12)
    step = run(module, rows, filled_bank())
    step.loss.backward()
    gradient = module.model.source("sarm").encoder.tokens.weight.grad
    assert gradient is not None
    encoded, read = (
        set(step.fresh["sarm"].rows.tolist()),
        set(rows.author.tolist()) | set(rows.history[rows.history_mask].tolist()),
    )
    assert len(read - encoded) >= 2
    assert set(gradient[2:].any(dim=1).nonzero()[:, 0].tolist()) == encoded


def test_the_history_is_always_read_from_the_bank() -> None:
    rows, bank = batch(24), filled_bank()
    module = sarm_trainer()
    before = run(module, rows, bank).loss
    bank.vectors[:, 0] += torch.randn(NUM_AUTHORS + 1, 8)
    assert run(module, rows, bank).loss != before


def test_a_budget_reaches_every_author_in_turn() -> None:
    module, rows, bank = sarm_trainer(encode_budget=2), batch(24), filled_bank()
    encoded: set[int] = set()
    for step in range(1, 1 + (len(set(rows.author.tolist())) + 1) // 2):
        fresh = run(module, rows, bank).fresh["sarm"]
        bank.write(fresh.rows, fresh.vectors, step)
        encoded |= set(fresh.rows.tolist())
    assert encoded == set(rows.author.tolist())


@pytest.mark.parametrize("budget", [None, 1])
def test_every_parameter_gets_a_gradient(budget: int | None) -> None:
    module = sarm_trainer(encode_budget=budget)
    found = gradients(module, run(module, batch(64), filled_bank()))
    assert found.keys() == {name for name, _ in module.named_parameters()}
    if budget is None:
        assert [name for name, gradient in found.items() if not gradient.any()] == []


def test_two_runs_from_one_seed_give_the_same_numbers() -> None:
    weights = []
    for _ in range(2):
        module, bank = sarm_trainer(encode_budget=3), filled_bank()
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for step in range(3):
            done = run(module, batch(32, seed=step), bank)
            optimizer.zero_grad()
            done.loss.backward()
            optimizer.step()
            bank.write(*done.fresh["sarm"], step + 1)
        weights.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_training_lowers_the_loss() -> None:
    module, bank, rows = sarm_trainer(), filled_bank(), batch(48)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for step in range(30):
        done = run(module, rows, bank)
        optimizer.zero_grad()
        done.loss.backward()
        optimizer.step()
        bank.write(*done.fresh["sarm"], step + 1)
        losses.append(done.loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_inputs_of_another_number_of_authors_are_refused() -> None:
    base, live = tokens().tensors()
    with pytest.raises(ValueError, match=r"sarm: wanted inputs of 12 author rows, got \[11, 11\]"):
        TrainingRanker(sarm()).inputs = {"sarm": (base[1:], live[1:])}
    with pytest.raises(ValueError, match=r"wanted inputs of the sources \['sarm'\], got those of \[\]"):
        TrainingRanker(sarm()).inputs = {}


def test_without_sources_the_loss_is_that_of_the_tasks() -> None:
    module, rows = trainer(composed()), batch(24)
    step = module(rows, {})
    wanted = F.binary_cross_entropy_with_logits(module.model.ranker(rows), rows.labels) * 4
    torch.testing.assert_close(step.loss, wanted)
    torch.testing.assert_close(step.parts["rec"], wanted.detach())
    assert step.parts["aux"] == 0.0 and step.fresh == {}


def run_worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    module = sarm_trainer()
    wrapped = DistributedDataParallel(module)
    rows = batch(24).slice(slice(12 * rank, 12 * rank + 12))
    wrapped(rows, {"sarm": filled_bank()}).loss.backward()
    torch.save({n: p.grad for n, p in module.named_parameters()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_data_parallel_workers_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(run_worker, args=(str(tmp_path),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    module = sarm_trainer()
    wanted = gradients(module, run(module, batch(24), filled_bank()))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), wanted, atol=1e-5, rtol=1e-4)
