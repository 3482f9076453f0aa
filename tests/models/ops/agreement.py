"""Whether an operation's fast way gives what its reference gives: values, and the gradient of every real input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""Most that two results may differ, as a share of the largest number in them, or of 1 where all are smaller."""


def assert_agree(fast: Callable[..., Tensor], reference: Callable[..., Tensor], *inputs: Any) -> None:
    """Calls both on ``inputs`` (real ones become leaves) and compares them."""
    results = []
    for way in (fast, reference):
        leaves = [x.clone().requires_grad_() if _is_real(x) else x for x in inputs]
        value = way(*leaves)
        upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=value.dtype)
        torch.autograd.backward(value, upstream)
        results.append([value.detach(), *(x.grad for x in leaves if _is_real(x))])
    for found, wanted in zip(*results, strict=True):
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(found, wanted, atol=scale * TOLERANCE[wanted.dtype], rtol=0.0)


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
