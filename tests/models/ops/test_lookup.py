from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.ops.lookup import look_up, look_up_reference
from tests.models.ops.agreement import TOLERANCE, assert_agree


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(shape=st.lists(st.integers(1, 5), max_size=3), size=st.tuples(st.integers(1, 6), st.integers(1, 5)))
def test_picked_rows_are_an_embedding(dtype: torch.dtype, shape: list[int], size: tuple[int, int]) -> None:
    torch.manual_seed(len(shape))
    rows = torch.randint(size[0], shape)
    assert_agree(look_up, look_up_reference, torch.randn(size, dtype=dtype), rows)


def test_gradient_by_differences() -> None:
    table = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(look_up, (table, torch.tensor([[0, 2], [2, 2]])))


def test_no_rows_have_their_shape_too() -> None:
    assert look_up(torch.randn(4, 3), torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 3)
