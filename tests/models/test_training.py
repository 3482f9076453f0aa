from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import TASKS
from models.batch import RankingBatch, collate
from models.composed import ComposedRanker, Sources
from models.group import Rows
from models.optimizer import RankerOptimizer
from models.sarm.memory_bank import MemoryBank
from models.sources import Encoded
from models.training import TrainingRanker, TrainingStep, Window
from tests.models.worlds import (
    NUM_AUTHORS,
    RANKER,
    SARM_CONFIG,
    batch,
    catalog,
    columns,
    composed,
    encoded_for,
    filled_bank,
    one_step,
    sarm,
    sarm_spec,
    tokens,
    trainer,
)

SEEDS = (0, 1, 2)
"""Of the batches of a window."""


def sarm_trainer(**changes: object) -> TrainingRanker:
    return trainer(sarm(replace(SARM_CONFIG, **changes)))  # type: ignore[arg-type]


def encoded(module: TrainingRanker, rows: RankingBatch, bank: MemoryBank) -> dict[str, Encoded]:
    return encoded_for(module, [rows], {"sarm": bank})


def run(module: TrainingRanker, rows: RankingBatch, bank: MemoryBank) -> TrainingStep:
    return one_step(module, rows, {"sarm": bank})


def gradients(module: TrainingRanker, *steps: TrainingStep) -> dict[str, torch.Tensor]:
    module.zero_grad()
    torch.autograd.backward([step.loss for step in steps])
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


class Still(torch.optim.Optimizer):
    """Changes nothing."""

    def step(self, closure: None = None) -> None:
        pass


def train_window(
    module: TrainingRanker,
    optimizer: torch.optim.Optimizer,
    batches: list[RankingBatch],
    bank: MemoryBank,
    step: int = 1,
) -> list[float]:
    """As the loop does it: the losses of the steps of one window."""
    window, losses = Window(module, batches, {"sarm": bank}), []
    for rows in batches:
        done = module(rows, {"sarm": bank}, window.encoded)
        optimizer.zero_grad()
        done.loss.backward()
        if rows is batches[-1]:
            window.backward()
        optimizer.step()
        losses.append(done.loss.item())
    fresh = window.encoded["sarm"]
    bank.write(fresh.rows, fresh.vectors, step)
    return losses


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


def test_the_auxiliary_loss_and_the_parts_follow_the_tasks_of_the_ranker() -> None:
    tasks = {"stay": "watch", "click": "inter", "subscribe": "inter"}
    given = columns(24)
    given |= {"stay": given["follow"], "subscribe": given["gift"]}
    rows, bank = collate(given, catalog(), list(tasks)), filled_bank()
    torch.manual_seed(0)
    config = replace(RANKER, tasks=tasks, auxiliary_task="subscribe")
    module = trainer(ComposedRanker(config, catalog().sizes, Sources(specs=(sarm_spec(),))))
    step = run(module, rows, bank)
    assert list(step.parts) == ["rec", "aux", *tasks]
    fresh = encoded(module, rows, bank)["sarm"]
    logits = module.model.source("sarm").auxiliary(fresh.of(rows.author, bank.read(rows.author)))
    torch.testing.assert_close(step.parts["aux"], F.binary_cross_entropy_with_logits(logits, rows.labels[:, 2]))


def test_each_author_of_a_window_is_encoded_once() -> None:
    module, batches = sarm_trainer(), [batch(12, seed=seed) for seed in range(3)]
    found = encoded_for(module, batches, {"sarm": filled_bank()})["sarm"]
    assert found.rows.tolist() == sorted({author for rows in batches for author in rows.author.tolist()})
    tokens_of = (t[found.rows] for t in tokens().tensors())
    vectors = module.model.source("sarm").encode_authors(found.rows, *tokens_of, module.model.ranker.authors)
    torch.testing.assert_close(found.vectors, torch.stack(vectors, dim=1))


def test_a_step_leaves_the_bank_alone() -> None:
    bank, before = filled_bank(), filled_bank()
    run(sarm_trainer(), batch(24), bank).loss.backward()
    assert torch.equal(bank.vectors, before.vectors) and torch.equal(bank.written_step, before.written_step)


def test_authors_beyond_the_budget_are_read_from_the_bank() -> None:
    rows, bank = batch(24), filled_bank()
    module = sarm_trainer(encode_budget=2)
    step = run(module, rows, bank)
    fresh = encoded(module, rows, bank)["sarm"].rows.tolist()
    assert len(fresh) == 2
    other = next(row for row in rows.author.tolist() if row not in fresh)
    for changed, matters in ((other, True), (fresh[0], False)):
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
    run(module, rows, filled_bank()).loss.backward()
    gradient = module.model.source("sarm").encoder.tokens.weight.grad
    assert gradient is not None
    fresh = set(encoded(module, rows, filled_bank())["sarm"].rows.tolist())
    read = set(rows.author.tolist()) | set(rows.history[rows.history_mask].tolist())
    assert len(read - fresh) >= 2
    assert set(gradient[2:].any(dim=1).nonzero()[:, 0].tolist()) == fresh


def test_the_history_is_always_read_from_the_bank() -> None:
    rows, bank = batch(24), filled_bank()
    module = sarm_trainer()
    before = run(module, rows, bank).loss
    bank.vectors[:, 0] += torch.randn(NUM_AUTHORS + 1, 8)
    assert run(module, rows, bank).loss != before


def test_a_budget_reaches_every_author_in_turn() -> None:
    module, rows, bank = sarm_trainer(encode_budget=2), batch(24), filled_bank()
    reached: set[int] = set()
    for step in range(1, 1 + (len(set(rows.author.tolist())) + 1) // 2):
        fresh = encoded(module, rows, bank)["sarm"]
        bank.write(*fresh, step)
        reached |= set(fresh.rows.tolist())
    assert reached == set(rows.author.tolist())


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
            train_window(module, optimizer, [batch(32, seed=step)], bank, step + 1)
        weights.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_training_lowers_the_loss() -> None:
    module, bank, rows = sarm_trainer(), filled_bank(), batch(48)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for step in range(30):
        losses += train_window(module, optimizer, [rows], bank, step + 1)
    assert losses[-1] < 0.6 * losses[0]


def test_inputs_of_another_number_of_authors_are_refused() -> None:
    base, live = tokens().tensors()
    with pytest.raises(ValueError, match=r"sarm: wanted inputs of 12 author rows, got \[11, 11\]"):
        TrainingRanker(sarm()).inputs = {"sarm": (base[1:], live[1:])}
    with pytest.raises(ValueError, match=r"wanted inputs of the sources \['sarm'\], got those of \[\]"):
        TrainingRanker(sarm()).inputs = {}


def test_without_sources_the_loss_is_that_of_the_tasks() -> None:
    module, rows = trainer(composed()), batch(24)
    step = one_step(module, rows, {})
    wanted = F.binary_cross_entropy_with_logits(module.model.ranker(rows), rows.labels) * 4
    torch.testing.assert_close(step.loss, wanted)
    torch.testing.assert_close(step.parts["rec"], wanted.detach())
    assert step.parts["aux"] == 0.0


@pytest.mark.parametrize("budget", [None, 3])
@pytest.mark.parametrize("history_gradient", [False, True])
def test_a_window_has_the_gradient_of_the_sum_of_its_losses(budget: int | None, history_gradient: bool) -> None:
    """While nothing steps between; a window of one step is what it is without windows."""
    for seeds in (SEEDS[:1], SEEDS):
        module = sarm_trainer(encode_budget=budget, history_gradient=history_gradient)
        bank, batches = filled_bank(), [batch(24, seed) for seed in seeds]
        found = encoded_for(module, batches, {"sarm": bank})
        wanted = gradients(module, *(module(rows, {"sarm": bank}, found) for rows in batches))
        module.zero_grad()
        window = Window(module, batches, {"sarm": bank})
        for rows in batches:
            module(rows, {"sarm": bank}, window.encoded).loss.backward()
        window.backward()
        torch.testing.assert_close({n: p.grad for n, p in module.named_parameters()}, wanted)


def test_within_a_window_the_ranker_steps_at_each_batch_and_what_encodes_authors_at_the_end() -> None:
    module, bank, batches = sarm_trainer(), filled_bank(), [batch(24, seed) for seed in SEEDS]
    optimizer = RankerOptimizer(module, lr_ids=0.1, lr_encoder=0.1, lr_dense=0.1, l2_ids=0.1)
    train_window(module, optimizer, batches, bank)  # so that Adam has moments that could move what has no gradient
    window = Window(module, batches, {"sarm": bank})
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    for rows in batches[:-1]:
        optimizer.zero_grad()
        module(rows, {"sarm": bank}, window.encoded).loss.backward()
        optimizer.step()
    moved = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    encoders = {
        n
        for n in before
        if n.startswith(tuple(f"model.sources.sarm.{part}" for part in ("encoder", "pooling", "identity")))
    }
    assert moved == before.keys() - encoders and encoders
    optimizer.zero_grad()
    module(batches[-1], {"sarm": bank}, window.encoded).loss.backward()
    window.backward()
    optimizer.step()
    assert all(not torch.equal(p, before[n]) for n, p in module.named_parameters())


def test_an_author_of_a_later_batch_may_be_read_in_an_earlier_history_with_gradient() -> None:
    """Only author a has token 2 + a; the first batch shows author 1 alone, and has author 2 in its histories."""
    base = torch.tensor([[1, 2 + author] for author in range(NUM_AUTHORS + 1)])
    first, second = batch(12), batch(12)
    first = first._replace(author=torch.ones_like(first.author), history=torch.full_like(first.history, 2))
    second = second._replace(author=torch.full_like(second.author, 2))
    for history_gradient in (False, True):
        module = sarm_trainer(history_gradient=history_gradient)
        module.inputs = {"sarm": (base, torch.zeros_like(base))}
        window = Window(module, [first, second], {"sarm": filled_bank()})
        module(first, {"sarm": filled_bank()}, window.encoded).loss.backward()
        window.backward()
        gradient = module.model.source("sarm").encoder.tokens.weight.grad
        assert gradient is not None
        assert set(gradient[2:].any(dim=1).nonzero()[:, 0].tolist()) == ({1, 2} if history_gradient else {1})


class _Together:
    """A group of threads."""

    def __init__(self, rank: int, world_size: int, barrier: Barrier, said: dict[int, Any]) -> None:
        self.rank, self.world_size, self._barrier, self._said = rank, world_size, barrier, said

    def swap(self, dense: Sequence[Tensor], ragged: Sequence[Rows]) -> tuple[Tensor, list[Rows]]:
        self._said[self.rank] = (torch.cat([torch.zeros(0), *(part.flatten() for part in dense)]), ragged)
        self._barrier.wait(timeout=60)
        said = [self._said[rank] for rank in range(self.world_size)]
        self._barrier.wait(timeout=60)
        mean = torch.stack([numbers for numbers, _ in said]).mean(dim=0)
        gathered = [
            (torch.cat([rows for rows, _ in items]), torch.cat([values for _, values in items]))
            for items in zip(*(rows for _, rows in said), strict=True)
        ]
        return mean, gathered


def _share(batches_of: Sequence[Sequence[RankingBatch]], **config: object) -> list[tuple[TrainingRanker, Window, int]]:
    """Each worker's model after one window over its own batches, the window, and how many authors it has encoded."""
    barrier, said = Barrier(len(batches_of)), dict[int, Any]()

    def work(rank: int) -> tuple[TrainingRanker, Window, int]:
        module, bank, batches = modules[rank], filled_bank(), batches_of[rank]
        source = module.model.source("sarm")
        counted, encode = [0], source.encode

        def count(rows: Tensor, *args: Any) -> Tensor:
            counted[0] += len(rows)
            return encode(rows, *args)

        source.encode = count
        window = Window(module, batches, {"sarm": bank}, _Together(rank, len(batches_of), barrier, said))
        for rows in batches:
            module(rows, {"sarm": bank}, window.encoded).loss.backward()
        window.backward()
        return module, window, counted[0]

    modules = [sarm_trainer(**config) for _ in batches_of]
    with ThreadPoolExecutor(len(batches_of)) as pool:
        return list(pool.map(work, range(len(batches_of))))


def _check_shared(batches_of: Sequence[Sequence[RankingBatch]], **config: object) -> list[int]:
    """Workers' mean gradients are those of the mean of their losses; returns how many authors each has encoded."""
    whole, bank = sarm_trainer(**config), filled_bank()
    every = [rows for batches in batches_of for rows in batches]
    found = encoded_for(whole, every, {"sarm": bank})
    sums = gradients(whole, *(whole(rows, {"sarm": bank}, found) for rows in every))
    wanted = {name: of / len(batches_of) for name, of in sums.items()}
    shared = _share(batches_of, **config)
    for _, window, _ in shared:
        assert torch.equal(window.encoded["sarm"].rows, found["sarm"].rows)
        torch.testing.assert_close(window.encoded["sarm"].vectors.detach(), found["sarm"].vectors.detach())
    grads = [{name: of.grad for name, of in module.named_parameters()} for module, _, _ in shared]
    torch.testing.assert_close({name: sum(of[name] for of in grads) / len(grads) for name in wanted}, wanted)
    return [count for _, _, count in shared]


@pytest.mark.parametrize("budget", [None, 4])
def test_workers_share_the_encoding_of_a_window(budget: int | None) -> None:
    """Each author of all workers' batches is encoded by one of them, and teaches the encoder what all have learnt."""
    batches_of = [[batch(24, seed) for seed in seeds] for seeds in ((0, 1), (2, 3), (4, 5))]
    authors = {author for batches in batches_of for rows in batches for author in rows.author.tolist()}
    counts = _check_shared(batches_of, encode_budget=budget)
    assert sum(counts) == (budget or len(authors)) and max(counts) - min(counts) <= 1


def test_workers_with_fewer_authors_than_they_are_encode_all_of_them() -> None:
    batches = [batch(24, seed) for seed in SEEDS]
    one = [[rows._replace(author=torch.full_like(rows.author, 3))] for rows in batches]
    assert _check_shared(one) == [1, 1, 1]
