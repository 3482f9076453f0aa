from __future__ import annotations

import math

import pytest
import torch

from models.losses import auxiliary_bce, multi_task_bce


def test_each_task_has_its_own_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 2.0], [0.0, -1.0]])
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    first, second = multi_task_bce(logits, labels).tolist()
    assert first == pytest.approx(math.log(2.0))
    assert second == pytest.approx((math.log1p(math.exp(-2.0)) + math.log1p(math.exp(1.0))) / 2)


def test_the_auxiliary_loss_by_hand() -> None:
    loss = auxiliary_bce(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 0.0]))
    assert loss.item() == pytest.approx((math.log1p(math.e) + math.log1p(math.exp(-2.0))) / 2)


def test_what_is_masked_adds_nothing_and_the_rest_weighs_what_it_did() -> None:
    logits = torch.tensor([[0.0, 2.0], [0.0, -1.0]], requires_grad=True)
    labels, mask = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    first, second = multi_task_bce(logits, labels, mask)
    assert first.item() == pytest.approx(math.log(2.0) / 2)
    assert second.item() == pytest.approx(math.log1p(math.exp(-2.0)) / 2)
    (first + second).backward()
    assert logits.grad is not None and (logits.grad != 0).tolist() == mask.bool().tolist()
    assert auxiliary_bce(logits[:, 1], labels[:, 1], mask[:, 1]).item() == pytest.approx(second.item())


def test_gradients_are_probability_less_label_over_the_batch() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    multi_task_bce(logits, labels).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.375], [0.4, -0.25]]))
    logit = torch.tensor([0.0, math.log(3.0)], requires_grad=True)
    auxiliary_bce(logit, torch.tensor([1.0, 0.0])).backward()
    torch.testing.assert_close(logit.grad, torch.tensor([-0.25, 0.375]))
