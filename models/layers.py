"""Attention, feed-forward and pooling layers that the encoders share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.attention import attention, attention_weights
from models.ops.packing import Distinct, Places
from models.ops.rms_norm import rms_norm
from models.ops.rotary import rotary_turns, rotate


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x [..., L, D] over the positions where mask [..., L] is True; zeros where there is none."""
    weight = mask.to(x.dtype)
    total = (x * weight.unsqueeze(-1)).sum(dim=-2)
    return total / weight.sum(dim=-1, keepdim=True).clamp(min=1.0)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of scores [..., L] over the positions where mask is True; zeros where there is none."""
    filled = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(filled, dim=-1) * mask.to(scores.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, as `nn.RMSNorm`.

    Example:
        >>> RMSNorm(2)(torch.tensor([[3.0, 4.0]])).detach()
        tensor([[0.8485, 1.1314]])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return rms_norm(x, self.weight)


class SelfAttention(nn.Module):
    """Bidirectional self-attention with rotary positions and a padding mask. [B, L, D] -> [B, L, D].

    Example:
        >>> x, mask = torch.randn(2, 3, 8), torch.tensor([[True, True, True], [False, True, True]])
        >>> SelfAttention(dim=8, num_heads=2)(x, mask).shape
        torch.Size([2, 3, 8])
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads or (dim // num_heads) % 2:
            raise ValueError(f"width {dim} must be an even multiple of num_heads {num_heads} (RoPE turns pairs)")
        self.num_heads = num_heads
        self.query_key = nn.Linear(dim, 2 * dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` [B, L] is True at keys that may be read; a row that is all False gives numbers without a meaning."""
        mixed: Tensor = self.out(self.read(self.query_key(x), self.value(x), mask))
        return mixed

    def read(self, query_key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """query_key [B, L, 2 D], value [B, L, D], not yet turned by position -> what each position reads, [B, L, D]."""
        query, key = self._turned(query_key)
        by_head = value.view(*value.shape[:-1], self.num_heads, -1)
        return attention(query, key, by_head, mask).reshape(value.shape)

    def weights(self, query_key: Tensor, mask: Tensor) -> Tensor:
        """query_key [B, L, 2 D] -> how much each position reads of each other one, [B, heads, L, L]."""
        return attention_weights(*self._turned(query_key), mask)

    def _turned(self, query_key: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, 2 D] -> queries and keys [B, L, heads, D / heads], turned by their positions."""
        batch, length, width = query_key.shape
        head_dim = width // (2 * self.num_heads)
        turns = rotary_turns(length, head_dim, query_key.device)[:, None, None, :]
        query, key = rotate(query_key.view(batch, length, 2, self.num_heads, head_dim), turns).unbind(dim=2)
        return query, key


class FeedForward(nn.Module):
    """Two linear layers with GELU between. [..., D] -> [..., D].

    Example:
        >>> FeedForward(dim=8, hidden=16)(torch.randn(2, 3, 8)).shape
        torch.Size([2, 3, 8])
    """

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

    Both branches start at zero, the block as the identity: an epoch of little data first learns from what comes in, and
    not from random mixtures of it.

    Example:
        >>> x, mask = torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool)
        >>> torch.equal(TransformerBlock(dim=8, num_heads=1, ffn_mult=2)(x, mask), x)
        True
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
        """`mask` [B, L] is True at real positions."""
        x = x + self.attention(self.attention_norm(x), mask)
        changed: Tensor = x + self.ffn(self.ffn_norm(x))
        return changed

    def packed(self, x: Tensor, places: Places, distinct: Distinct | None = None) -> Tensor:
        """What `forward` gives at the real positions, x [N, D] -> [N, D], without computing the others.

        With `distinct`, x [R, D] holds one row for each different input: norm, queries, keys and values of a first
        block depend on the input alone, and a few ids make up all sequences.
        """
        normed = self.attention_norm(x)
        query_key, value = self.attention.query_key(normed), self.attention.value(normed)
        spread = places.pad if distinct is None else distinct.spread
        read = places.pack(self.attention.read(spread(query_key), spread(value), places.mask))
        x = (x if distinct is None else distinct.pack(x, places)) + self.attention.out(read)
        changed: Tensor = x + self.ffn(self.ffn_norm(x))
        return changed
