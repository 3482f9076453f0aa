from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.ops.rms_norm import rms_norm, rms_norm_reference
from tests.models.ops.agreement import TOLERANCE, assert_agree


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_fast_way_is_torchs(dtype: torch.dtype, shape: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    assert_agree(rms_norm, rms_norm_reference, torch.randn(shape, dtype=dtype), torch.randn(shape[-1], dtype=dtype))


def test_zeros_stay_zeros_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    rms_norm(x, torch.ones(3)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    assert_agree(rms_norm, rms_norm_reference, torch.zeros(2, 3), torch.ones(3))
