"""Sequences of different lengths without their padding, and tables of repeated ids without the repetitions.

What each position gets by itself (norms, linear layers) is computed once for each real position, or once for each
different id. This pays on CPUs; elsewhere models run their plain `forward` over padded sequences, which is the
reference: finding positions and ids makes a GPU wait.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Places:
    """Where the N real positions stand in S padded sequences of length L.

    Example:
        >>> places = Places(torch.tensor([[True, False], [True, True]]))
        >>> places.pack(torch.tensor([[1, 0], [2, 3]]))
        tensor([1, 2, 3])
    """

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
    """The R different ids of a table [S, L], and which of them stands where.

    Example:
        >>> distinct = Distinct(torch.tensor([[7, 3], [3, 7]]))
        >>> distinct.ids
        tensor([3, 7])
        >>> distinct.spread(torch.tensor([[0.3], [0.7]])).shape
        torch.Size([2, 2, 1])
    """

    def __init__(self, ids: Tensor) -> None:
        self.ids, self._which = torch.unique(ids, return_inverse=True)

    def spread(self, x: Tensor) -> Tensor:
        """One row for each id, [R, D] -> [S, L, D]."""
        return x.index_select(0, self._which.flatten()).view(*self._which.shape, -1)

    def pack(self, x: Tensor, places: Places) -> Tensor:
        """One row for each id, [R, ...] -> [N, ...] at the real positions."""
        return x.index_select(0, places.pack(self._which))
