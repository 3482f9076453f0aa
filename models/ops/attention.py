"""Attention of every position to every real one, by scaled dot products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """query, key, value [B, L, heads, d], mask [B, L] -> what each position reads, [B, L, heads, d].

    Keys may be read where the mask is True. A row that is all False gives finite numbers without a meaning.
    """
    if not query.is_cpu:
        return attention_reference(query, key, value, mask)
    batch, length, num_heads, _ = value.shape
    weights = attention_weights(query, key, mask)
    # Spelled out: at the lengths of anchors and histories torch's fused attention takes twice the time on CPUs.
    read = torch.bmm(weights.flatten(0, 1), _by_head(value))
    return read.view(batch, num_heads, length, -1).transpose(1, 2)


def attention_reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """The same by torch's fused attention."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    read = F.scaled_dot_product_attention(query, key, value, attn_mask=_closed(mask, query.dtype)[:, None, None])
    return read.transpose(1, 2)


def attention_weights(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """query, key [B, L, heads, d], mask [B, L] -> how much each position reads of each other, [B, heads, L, L]."""
    batch, length, num_heads, head_dim = query.shape
    closed = _closed(mask, query.dtype)[:, None, None].expand(-1, num_heads, -1, -1).flatten(0, 1)
    scores = torch.baddbmm(closed, _by_head(query), _by_head(key).transpose(1, 2), alpha=head_dim**-0.5)
    return torch.softmax(scores, dim=-1).view(batch, num_heads, length, length)


def _closed(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of a key, [B, L]: 0 where it may be read."""
    # Finite, because a softmax over no key at all is NaN, in the gradient too; the caller ignores such rows.
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _by_head(x: Tensor) -> Tensor:
    """[B, L, heads, d] -> [B * heads, L, d]."""
    return x.transpose(1, 2).flatten(0, 1)
