from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.ops.mixture import mix, mix_reference
from tests.models.ops.agreement import TOLERANCE, assert_agree


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(size=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 5)), seed=st.integers(0, 99))
def test_a_product_and_a_sum_are_a_product_of_matrices(
    dtype: torch.dtype, size: tuple[int, int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    assert_agree(mix, mix_reference, torch.randn(size[:2], dtype=dtype), torch.randn(size, dtype=dtype))


def test_experts_are_weighed_in_their_order() -> None:
    weights, experts = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[[1.0], [2.0], [10.0]]])
    assert mix(weights, experts).item() == pytest.approx(0.5 + 0.5 + 2.5)
