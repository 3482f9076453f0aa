"""Transformer blocks over sequences of different lengths, where padding is not computed and repeated inputs are
computed once. They give what ``TransformerBlock`` gives over the padded sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import TransformerBlock


class Places:
    """Where the N real positions stand in S padded sequences of length L."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        """[S, L] bool, True at real positions."""
        self._index = mask.flatten().nonzero().squeeze(1)

    def pack(self, x: Tensor) -> Tensor:
        """[S, L, ...] -> [N, ...], sequence after sequence."""
        return x.flatten(0, 1).index_select(0, self._index)

    def pad(self, x: Tensor) -> Tensor:
        """[N, D] -> [S, L, D], zeros at padding."""
        return x.new_zeros(self.mask.numel(), x.shape[1]).index_copy(0, self._index, x).view(*self.mask.shape, -1)


class Distinct:
    """The R different ids of a table [S, L], and which of them stands where."""

    def __init__(self, ids: Tensor) -> None:
        self.ids, self._which = torch.unique(ids, return_inverse=True)

    def spread(self, x: Tensor) -> Tensor:
        """One row for each id, [R, D] -> [S, L, D]."""
        return x.index_select(0, self._which.flatten()).view(*self._which.shape, -1)

    def pack(self, x: Tensor, places: Places) -> Tensor:
        """One row for each id, [R, ...] -> [N, ...] at the real positions."""
        return x.index_select(0, places.pack(self._which))


def run_block(block: nn.Module, x: Tensor, places: Places, distinct: Distinct | None = None) -> Tensor:
    """x [N, D] -> [N, D]; with ``distinct``, x [R, D] holds one row for each different input.

    Norm, queries, keys and values of the first block depend on the input alone, and a few ids make up all sequences.
    """
    assert isinstance(block, TransformerBlock)
    normed = block.attention_norm(x)
    query_key, value = block.attention.query_key(normed), block.attention.value(normed)
    spread = places.pad if distinct is None else distinct.spread
    read = places.pack(block.attention.read(spread(query_key), spread(value), places.mask))
    x = (x if distinct is None else distinct.pack(x, places)) + block.attention.out(read)
    changed: Tensor = x + block.ffn(block.ffn_norm(x))
    return changed
