from __future__ import annotations

import numpy as np
import pytest
import torch

from models.sarm.user_interest import UserInterest
from tests.models import reference
from tests.models.worlds import scatter_parameters


def interest(heads: int = 1) -> UserInterest:
    torch.manual_seed(0)
    made = UserInterest(4, num_layers=2, num_heads=heads, ffn_mult=2)
    scatter_parameters(made)
    return made


@pytest.mark.parametrize("heads", [1, 2])
def test_the_published_equations(heads: int) -> None:
    """Eq. 9, 10: a Transformer over the items that are there, then their mean."""
    made, items = interest(heads), torch.randn(2, 5, 4)
    found = made(items, torch.arange(5) >= torch.tensor([[0], [3]])).detach()
    for row, first in enumerate((0, 3)):
        wanted = reference.user_interest(items[row, first:].double().numpy(), reference.weights(made), 2, heads)
        np.testing.assert_allclose(found[row], wanted, atol=1e-5)


def test_an_empty_history_gives_zeros_and_a_finite_gradient() -> None:
    items = torch.randn(2, 3, 4, requires_grad=True)
    out = interest()(items, torch.tensor([[False] * 3, [True] * 3]))
    out.sum().backward()
    assert out[0].tolist() == [0.0] * 4 and out[1].any()
    assert items.grad is not None and items.grad.isfinite().all()
