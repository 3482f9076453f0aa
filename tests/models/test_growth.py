"""A ranker that goes on with other users and authors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models import embeddings
from models.catalog import CatalogSizes
from models.composed import ComposedRanker
from models.growth import NEW, kept_rows, moved_bank, take_over
from models.optimizer import RankerOptimizer
from models.sarm.memory_bank import NEVER, MemoryBank
from models.training import TrainingRanker
from tests.models.worlds import RANKER, batch, catalog, composed, one_step, trainer

RATES = {"lr_ids": 0.1, "lr_encoder": 0.1, "lr_dense": 0.1, "l2_ids": 0.01}
USERS, AUTHORS = "model.ranker.users.weight", "model.ranker.authors.weight"


def _learnt() -> tuple[TrainingRanker, RankerOptimizer]:
    module = trainer(composed())
    optimizer = RankerOptimizer(module, **RATES)
    for seed in range(3):
        optimizer.zero_grad()
        one_step(module, batch(8, seed), {}).loss.backward()
        optimizer.step()
    return module, optimizer


def _grown(sizes: CatalogSizes) -> tuple[TrainingRanker, RankerOptimizer]:
    torch.manual_seed(5)
    module = TrainingRanker(ComposedRanker(RANKER, sizes))
    return module, RankerOptimizer(module, **RATES)


def test_rows_of_ids_that_stay_are_found() -> None:
    old, new = np.array([3, 5, 9]), np.array([1, 5, 9, 12])
    assert kept_rows(old, new).tolist() == [0, NEW, 2, 3, NEW]
    assert kept_rows(np.zeros(0, np.int64), np.array([4])).tolist() == [0, NEW]
    assert kept_rows(old, np.zeros(0, np.int64)).tolist() == [0]


@pytest.mark.parametrize("sparse_from", [(10**9, 10**9), (1, 1), (10**9, 1), (1, 10**9)])
def test_who_stays_keeps_what_was_learnt_and_who_is_new_begins_anew(
    monkeypatch: pytest.MonkeyPatch, sparse_from: tuple[int, int]
) -> None:
    """Also where a table grows so big that it is learnt row by row from then on, or the other way."""
    monkeypatch.setattr(embeddings, "SPARSE_FROM", sparse_from[0])
    old, old_optimizer = _learnt()
    before = catalog().sizes
    sizes = replace(before, num_users=before.num_users + 2, num_categories=before.num_categories + 1)
    users = torch.tensor([0, 3, NEW, *range(4, before.num_users + 1), 1, NEW, NEW])
    authors = torch.arange(before.num_authors + 1)
    monkeypatch.setattr(embeddings, "SPARSE_FROM", sparse_from[1])
    new, new_optimizer = _grown(sizes)
    fresh = dict(new.named_parameters())[USERS].detach().clone()
    take_over(new, old, {USERS: users, AUTHORS: authors}, new_optimizer, old_optimizer)
    olds, news = dict(old.named_parameters()), dict(new.named_parameters())
    for row, source in enumerate(users.tolist()):
        wanted = fresh[row] if source == NEW else olds[USERS][source]
        assert torch.equal(news[USERS][row], wanted)
    mean, square, step = new_optimizer.moments(news[USERS])  # type: ignore[misc]
    old_mean = old_optimizer.moments(olds[USERS]).mean  # type: ignore[union-attr]
    assert step == 3.0 and torch.equal(mean[1], old_mean[3]) and not mean[2].any() and not square[2].any()
    assert torch.equal(news["model.ranker.categories.weight"][:-1], olds["model.ranker.categories.weight"])
    name = "model.ranker.home.project.weight"
    assert torch.equal(news[name], olds[name])
    assert new_optimizer.moments(news[name]).step == 3.0  # type: ignore[union-attr]
    assert all(torch.equal(b, dict(old.named_buffers())[n]) for n, b in new.named_buffers())


@pytest.mark.parametrize("sparse_from", [10**9, 1])
def test_a_ranker_of_the_same_people_learns_on_as_if_nothing_had_happened(
    monkeypatch: pytest.MonkeyPatch, sparse_from: int
) -> None:
    monkeypatch.setattr(embeddings, "SPARSE_FROM", sparse_from)
    old, old_optimizer = _learnt()
    new, new_optimizer = _grown(catalog().sizes)
    take_over(new, old, {}, new_optimizer, old_optimizer)
    for module, optimizer in ((old, old_optimizer), (new, new_optimizer)):
        for seed in range(3, 6):
            optimizer.zero_grad()
            one_step(module, batch(8, seed), {}).loss.backward()
            optimizer.step()
        optimizer.settle()
    olds = dict(old.named_parameters())
    for name, parameter in new.named_parameters():
        torch.testing.assert_close(parameter, olds[name], rtol=1e-5, atol=1e-6)


def test_a_table_that_would_lose_rows_is_refused() -> None:
    old, old_optimizer = _learnt()
    sizes = catalog().sizes
    new, new_optimizer = _grown(replace(sizes, num_categories=sizes.num_categories - 1))
    with pytest.raises(ValueError, match=r"categories.weight: wanted rows .* train from the beginning"):
        take_over(new, old, {}, new_optimizer, old_optimizer)


def test_a_bank_moves_with_its_authors() -> None:
    bank = MemoryBank(num_authors=2, dim=3)
    bank.write(torch.tensor([1, 2]), torch.arange(12.0).view(2, 2, 3), step=7)
    moved = moved_bank(bank, torch.tensor([0, NEW, 1, 2]))
    assert torch.equal(moved.vectors[2:], bank.vectors[1:]) and not moved.vectors[:2].any()
    assert moved.written_step.tolist() == [NEVER, NEVER, 7, 7]
