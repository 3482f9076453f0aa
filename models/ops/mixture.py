"""Weighted sums of experts."""

from __future__ import annotations

import torch
from torch import Tensor


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """weights [B, n], experts [B, n, D] -> [B, D]."""
    if not weights.is_cpu:
        return mix_reference(weights, experts)
    # A product and a sum: on CPUs much faster than a batched product of such small matrices.
    return (weights.unsqueeze(-1) * experts).sum(dim=1)


def mix_reference(weights: Tensor, experts: Tensor) -> Tensor:
    """The same as a batched product of matrices."""
    return torch.bmm(weights.unsqueeze(1), experts).squeeze(1)
