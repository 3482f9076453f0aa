"""What a user watched, eq. 5 with sums: by hand, its gradients, and what must not count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.larm.user_history import WatchedSum

MASK = torch.tensor([[False, True, True]])


def test_authors_and_the_codes_seen_are_summed_by_hand() -> None:
    watched = WatchedSum(dim=2, num_codes=4)
    assert watched.codes is not None
    watched.codes.weight = nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]]))
    authors = torch.tensor([[[99.0, 99.0], [1.0, 1.0], [1.0, -2.0]]])
    codes = torch.tensor([[[1, 2], [1, 3], [0, 0]]])
    # (1, 1) + (1, 0) + (0, 3) + (1, -2) = (3, 2), whose mean square is 6.5.
    expected = torch.tensor([[3.0, 2.0]]) / 6.5**0.5
    torch.testing.assert_close(watched(authors, MASK, codes), expected)


def test_what_is_masked_and_the_order_do_not_matter() -> None:
    torch.manual_seed(0)
    watched, authors, codes = WatchedSum(dim=4, num_codes=9), torch.randn(1, 3, 4), torch.randint(9, (1, 3, 2))
    first = watched(authors, MASK, codes)
    swapped = watched(authors[:, [0, 2, 1]], MASK, codes[:, [0, 2, 1]])
    torch.testing.assert_close(first, swapped)
    authors[:, 0], codes[:, 0] = 50.0, 3
    assert torch.equal(watched(authors, MASK, codes), first)
    assert watched(authors, MASK & False, codes).tolist() == [[0.0] * 4]


def test_gradients_reach_the_codes_that_were_seen_alone() -> None:
    torch.manual_seed(0)
    watched = WatchedSum(dim=2, num_codes=6)
    watched(torch.randn(1, 3, 2), MASK, torch.tensor([[[5], [1], [4]]])).square().mul(
        torch.tensor([1.0, 2.0])
    ).sum().backward()
    assert watched.codes is not None and watched.codes.weight.grad is not None
    assert (watched.codes.weight.grad != 0).any(dim=1).tolist() == [False, True, False, False, True, False]


def test_codes_belong_to_models_with_codes() -> None:
    authors, codes = torch.randn(1, 3, 2), torch.zeros(1, 3, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="got none, and the model was built for 6 rows"):
        WatchedSum(dim=2, num_codes=6)(authors, MASK, None)
    with pytest.raises(ValueError, match="got some, and the model was built for none"):
        WatchedSum(dim=2, num_codes=0)(authors, MASK, codes)
    assert WatchedSum(dim=2, num_codes=0)(authors, MASK, None).shape == (1, 2)
