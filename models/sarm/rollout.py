"""Which tokens of the anchor [TAR] is made of: attention rollout (Abnar and Zuidema 2020, eq. 1) below eq. 7 of SARM.

Attention is followed from the reader down to the tokens: each block passes on half of what it gets through its residual
path and half through its attention. Gated fusion and the feed-forward layers stay within a position and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.embeddings import IdTable
from models.layers import SelfAttention
from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.author_identity import AuthorIdentity, AuthorMean
from models.sarm.model import SARM


@torch.no_grad()
def token_importance(sarm: SARM, ids: IdTable, rows: Tensor, base: Tensor, live: Tensor) -> Tensor:
    """Author rows [A] with their tokens [A, T] -> the importance of each token for h_TAR, [A, T'].

    `ids` are the author vectors of the ranker that the source has joined.

    T' is the longest anchor among the A. A row sums to 1 over the real tokens, [CLS] first, and is 0 at padding.
    """
    maps, states, mask = attention_maps(sarm.encoder, base, live)
    reader = sarm.identity
    assert isinstance(reader, AuthorIdentity | AuthorMean)
    return rollout(reader.attention(ids(rows), states, mask), maps)


@torch.no_grad()
def attention_maps(encoder: AnchorEncoder, base: Tensor, live: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """base, live [A, T] -> (attention [A, T', T'] of each block, states [A, T', D], mask [A, T']).

    Row i of a map says what position i reads; heads are averaged.
    """
    maps: list[Tensor] = []

    def keep(attention: nn.Module, read: tuple[Any, ...], _: Tensor) -> None:
        assert isinstance(attention, SelfAttention)
        x, mask = read
        maps.append(attention.weights(attention.query_key(x), mask).mean(dim=1))

    attentions = [layer for layer in encoder.blocks.modules() if isinstance(layer, SelfAttention)]
    hooks = [attention.register_forward_hook(keep) for attention in attentions]
    try:
        states, mask = encoder(base, live)
    finally:
        for hook in hooks:
            hook.remove()
    return maps, states, mask


def rollout(weights: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Weights [A, T] of the last states, attention [A, T, T] of the blocks in order -> weights [A, T] of the tokens.

    `weights` times the product of 0.5 A + 0.5 I over the blocks, last block first; its sum stays what it was.

    Example:
        >>> rollout(torch.tensor([[1.0, 0.0]]), [torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])])
        tensor([[0.5000, 0.5000]])
    """
    for attention in reversed(maps):
        weights = 0.5 * torch.bmm(weights.unsqueeze(1), attention).squeeze(1) + 0.5 * weights
    return weights
