from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.ops.attention import attention, attention_reference, attention_weights
from tests.models.ops.agreement import TOLERANCE, assert_agree


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 3), st.integers(1, 5)), seed=st.integers(0, 99)
)
def test_spelled_out_it_is_torchs(dtype: torch.dtype, size: tuple[int, int, int, int], seed: int) -> None:
    torch.manual_seed(seed)
    query, key, value = (torch.randn(size, dtype=dtype) for _ in range(3))
    mask = torch.rand(size[:2]) < 0.6
    readable = mask.any(dim=1)[:, None, None, None]
    ways = [lambda *inputs, way=way: way(*inputs, mask) * readable for way in (attention, attention_reference)]
    assert_agree(*ways, query, key, value)


@pytest.mark.parametrize("way", [attention, attention_reference])
def test_a_row_that_may_read_nothing_is_finite_in_value_and_gradient(way: Callable[..., Tensor]) -> None:
    parts = torch.randn(3, 1, 4, 2, 3, requires_grad=True)
    read = way(*parts.unbind(), torch.zeros(1, 4, dtype=torch.bool))
    read.sum().backward()
    assert read.isfinite().all() and parts.grad is not None and parts.grad.isfinite().all()


@pytest.mark.parametrize("heads", [1, 2])
def test_the_weights_applied_to_the_values_give_what_is_read(heads: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 5, heads, 4).unbind()
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    weights = attention_weights(query, key, mask)
    assert weights.shape == (2, heads, 5, 5) and (weights[1, :, :, 3:] == 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, heads, 5))
    torch.testing.assert_close(attention(query, key, value, mask), (weights @ value.transpose(1, 2)).transpose(1, 2))
