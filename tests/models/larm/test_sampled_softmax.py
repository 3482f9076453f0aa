"""The objective of retrieval, eq. 2: by hand, its gradients, and several workers against one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.larm.sampled_softmax import log_probability, log_rate, sampled_softmax


def test_the_loss_by_hand() -> None:
    """Logits s / t - log q: those of user 0 are 2, log 4 and log 2, of which the first is its own item's."""
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    items, log_q = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.log(torch.tensor([1.0, 0.25, 0.5]))
    loss = sampled_softmax(users, items, torch.tensor([7, 8, 9]), log_q, temperature=0.5)
    first = math.log(math.exp(2) + 4 + 2) - 2
    second = math.log(1 + 4 * math.exp(2) + 2) - (2 + math.log(4))
    third = math.log(1 + 4 + 2) - math.log(2)
    assert loss.item() == pytest.approx((first + second + third) / 3)


def test_the_same_author_twice_is_no_negative_of_itself() -> None:
    torch.manual_seed(0)
    users, items = torch.randn(3, 4), torch.randn(3, 4)
    twice = sampled_softmax(users[:1], items, torch.tensor([5, 6, 5]), torch.zeros(3), 1.0)
    without = sampled_softmax(users[:1], items[:2], torch.tensor([5, 6]), torch.zeros(2), 1.0)
    other = sampled_softmax(users[:1], items, torch.tensor([5, 6, 7]), torch.zeros(3), 1.0)
    assert twice.item() == pytest.approx(without.item()) and other > without


def test_an_item_in_every_batch_is_corrected_to_the_full_softmax() -> None:
    """Items are drawn by q; on average the corrected loss has the gradient of a softmax over the catalogue."""
    torch.manual_seed(0)
    catalogue, user = torch.randn(5, 3), torch.randn(1, 3)
    probability = torch.tensor([0.6, 0.2, 0.1, 0.05, 0.05])
    full = torch.softmax(catalogue @ user[0], dim=0)
    keys = torch.multinomial(probability, 200_000, replacement=True)
    logits = (catalogue @ user[0])[keys] - probability.log()[keys]
    seen = torch.zeros(5).index_add_(0, keys, torch.softmax(logits, dim=0))
    torch.testing.assert_close(seen, full, atol=0.01, rtol=0)
    log_q = log_probability(torch.bincount(keys, minlength=5))
    torch.testing.assert_close(log_q.exp(), probability, atol=0.01, rtol=0)


def test_gradients() -> None:
    torch.manual_seed(0)
    users, items = (torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    keys, log_q = torch.tensor([1, 2, 1]), torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda u, i: sampled_softmax(u, i, keys, log_q, 0.3), (users, items))


def test_workers_that_share_negatives_are_one_worker_with_all_rows() -> None:
    """Loss and gradients, with a gathering that passes gradients back to whose the items are."""
    torch.manual_seed(0)
    users, items = torch.randn(6, 4), torch.randn(6, 4)
    keys, log_q = torch.tensor([1, 2, 3, 1, 5, 2]), torch.randn(6)

    def leaves() -> tuple[Tensor, Tensor]:
        return users.clone().requires_grad_(), items.clone().requires_grad_()

    u, i = leaves()
    whole = sampled_softmax(u, i, keys, log_q, 0.2)
    whole.backward()
    v, j = leaves()
    parts = [sampled_softmax(v[at : at + 2], j, keys, log_q, 0.2, first=at) for at in (0, 2, 4)]
    mean = sum(parts[1:], parts[0]) / 3
    mean.backward()
    assert mean.item() == pytest.approx(whole.item())
    torch.testing.assert_close(v.grad, u.grad)
    torch.testing.assert_close(j.grad, i.grad)
    alone = sampled_softmax(users[:2], items[:2], keys[:2], log_q[:2], 0.2)
    assert alone.item() < parts[0].item()  # fewer negatives


def test_who_is_on_air_seldom_is_no_less_likely_while_on_air() -> None:
    """Rates 0.2 and 0.2 of the first two, whatever their time; by hand, with one click at the mean rate 0.1 each."""
    log_q = log_rate(torch.tensor([20, 200, 0, 0]), torch.tensor([100, 1000, 1100, 0]))
    rates = torch.tensor([21 / 110, 201 / 1010, 1 / 1110, 1 / 10])
    torch.testing.assert_close(log_q.exp(), rates / rates.sum())
