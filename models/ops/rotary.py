"""Rotary position encoding (RoFormer)."""

from __future__ import annotations

import torch
from torch import Tensor

_THETA = 10_000.0


def rotary_turns(length: int, head_dim: int, device: torch.device) -> Tensor:
    """Turns exp(i m theta_j) of the positions m, complex [length, head_dim / 2]."""
    speed = _THETA ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * speed
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the pairs (x_2j, x_2j+1) of x [..., d] as complex numbers; `turns` broadcasts over [..., d / 2]."""
    if not x.is_cpu:
        return rotate_reference(x, turns)
    # As complex numbers this is one pass over memory instead of seven.
    return torch.view_as_real(torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)) * turns).flatten(-2)


def rotate_reference(x: Tensor, turns: Tensor) -> Tensor:
    """The same in real numbers, which every device and every precision has."""
    first, second = x.reshape(*x.shape[:-1], -1, 2).unbind(dim=-1)
    cos, sin = torch.view_as_real(turns).unbind(dim=-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
