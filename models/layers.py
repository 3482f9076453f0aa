"""Attention, feed-forward and pooling layers that the encoders share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6
_ROPE_THETA = 10_000.0


def rotary_turns(length: int, head_dim: int, device: torch.device) -> Tensor:
    """Turns exp(i m theta_j) of rotary position encoding (RoFormer), complex [length, head_dim / 2]."""
    speed = _ROPE_THETA ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * speed
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the pairs (x_2j, x_2j+1) of x [..., d] as complex numbers; ``turns`` broadcasts over [..., d / 2]."""
    # As complex numbers this is one pass over memory instead of seven.
    return torch.view_as_real(torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)) * turns).flatten(-2)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x [..., L, D] over the positions where mask [..., L] is True; zeros where there is none."""
    weight = mask.to(x.dtype)
    total = (x * weight.unsqueeze(-1)).sum(dim=-2)
    return total / weight.sum(dim=-1, keepdim=True).clamp(min=1.0)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of scores [..., L] over the positions where mask is True; zeros where there is none."""
    filled = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(filled, dim=-1) * mask.to(scores.dtype)


class _RMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        inverse = torch.rsqrt(torch.linalg.vecdot(x, x).unsqueeze(-1) / x.shape[-1] + NORM_EPS)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        unit, inverse, weight = ctx.saved_tensors
        dim = unit.shape[-1]
        of_weight = (gradient * unit).reshape(-1, dim)
        along = torch.mv(of_weight, weight).view(inverse.shape) / dim
        return torch.addcmul(gradient * weight, unit, along, value=-1.0).mul_(inverse), of_weight.sum(dim=0)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension. Equal to ``nn.RMSNorm``, whose gradient is twice as slow on CPUs."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        normed: Tensor = _RMSNormFunction.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return normed


class SelfAttention(nn.Module):
    """Bidirectional self-attention with rotary positions and a padding mask. [B, L, D] -> [B, L, D]."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads or (dim // num_heads) % 2:
            raise ValueError(f"width {dim} must be an even multiple of num_heads {num_heads} (RoPE turns pairs)")
        self.num_heads = num_heads
        self.query_key = nn.Linear(dim, 2 * dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``mask`` [B, L] is True at keys that may be read; a row that is all False reads everything."""
        mixed: Tensor = self.out(self.read(self.query_key(x), self.value(x), mask))
        return mixed

    def read(self, query_key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """query_key [B, L, 2 D], value [B, L, D], not yet turned by position -> what each position reads, [B, L, D]."""
        batch, length, dim = value.shape
        values = self._by_head(value.view(batch, length, self.num_heads, -1))
        read = torch.bmm(self.weights(query_key, mask).flatten(0, 1), values)
        return read.view(batch, self.num_heads, length, -1).transpose(1, 2).reshape(batch, length, dim)

    def weights(self, query_key: Tensor, mask: Tensor) -> Tensor:
        """query_key [B, L, 2 D] -> how much each position reads of each other one, [B, heads, L, L].

        Spelled out: at the lengths of anchors and histories torch's fused attention takes twice the time on CPUs.
        """
        batch, length, _ = query_key.shape
        head_dim = query_key.shape[-1] // (2 * self.num_heads)
        turns = rotary_turns(length, head_dim, query_key.device)[:, None, None, :]
        turned = rotate(query_key.view(batch, length, 2, self.num_heads, head_dim), turns)
        query, key = (self._by_head(part) for part in turned.unbind(dim=2))
        # Finite, because a softmax over no key at all is NaN, in the gradient too; the caller ignores such rows.
        closed = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
        closed = closed[:, None, None].expand(-1, self.num_heads, -1, -1).flatten(0, 1)
        scores = torch.baddbmm(closed, query, key.transpose(1, 2), alpha=head_dim**-0.5)
        return torch.softmax(scores, dim=-1).view(batch, self.num_heads, length, length)

    def _by_head(self, x: Tensor) -> Tensor:
        """[B, L, heads, D / heads] -> [B * heads, L, D / heads]."""
        return x.transpose(1, 2).flatten(0, 1)


class FeedForward(nn.Module):
    """Two linear layers with GELU between. [..., D] -> [..., D]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every position."""
        changed: Tensor = self.down(F.gelu(self.up(x)))
        return changed


class TransformerBlock(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x)). [B, L, D] -> [B, L, D].

    Both branches start at zero, the block as the identity: a pass over little data first learns from what comes in, and
    not from random mixtures of it.
    """

    def __init__(self, dim: int, num_heads: int, ffn_mult: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dim)
        self.attention = SelfAttention(dim, num_heads)
        self.ffn_norm = RMSNorm(dim)
        self.ffn = FeedForward(dim, ffn_mult * dim)
        for parameter in (self.attention.out.weight, self.ffn.down.weight, self.ffn.down.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``mask`` [B, L] is True at real positions."""
        x = x + self.attention(self.attention_norm(x), mask)
        changed: Tensor = x + self.ffn(self.ffn_norm(x))
        return changed
