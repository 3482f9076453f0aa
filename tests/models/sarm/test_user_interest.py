from __future__ import annotations

import torch

from models.sarm.user_interest import UserInterest
from tests.models.worlds import scatter_parameters


def interest() -> UserInterest:
    torch.manual_seed(0)
    made = UserInterest(4, num_layers=2, num_heads=1, ffn_mult=2)
    scatter_parameters(made)
    return made


def test_padding_and_its_content_do_not_count() -> None:
    items = torch.randn(1, 3, 4)
    padded = torch.cat([torch.full((1, 2, 4), 50.0), items], dim=1)
    mask = torch.tensor([[False, False, True, True, True]])
    torch.testing.assert_close(interest()(padded, mask), interest()(items, torch.ones(1, 3, dtype=torch.bool)))


def test_an_empty_history_gives_zeros_and_a_finite_gradient() -> None:
    items = torch.randn(2, 3, 4, requires_grad=True)
    out = interest()(items, torch.tensor([[False] * 3, [True] * 3]))
    out.sum().backward()
    assert out[0].tolist() == [0.0] * 4 and out[1].any()
    assert items.grad is not None and items.grad.isfinite().all()


def test_the_order_of_the_history_counts() -> None:
    items, mask = torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool)
    assert not torch.allclose(interest()(items, mask), interest()(items.flip(1), mask))
