"""The workers that train one model together, each on its own part of a batch, as the model's training sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor]
"""Rows of a table [R] int64, and what is said of each, [R, ...] float32."""


class Group(Protocol):
    """What joins workers."""

    @property
    def rank(self) -> int:
        """Of this worker."""
        ...

    @property
    def world_size(self) -> int:
        """How many workers there are."""
        ...

    def swap(self, dense: Sequence[Tensor], ragged: Sequence[Rows]) -> tuple[Tensor, list[Rows]]:
        """Means of dense tensors over all workers, and the rows of all workers.

        Every worker gives float32 tensors of the same shapes, and rows of the same tables in the same order. The means
        come as one tensor [N], one after another; rows of each table in the order of ranks.
        """
        ...


class Alone:
    """A group of one worker, who keeps what it has.

    Example:
        >>> mean, _ = Alone().swap([torch.ones(1, 2), torch.zeros(1)], [])
        >>> mean.tolist()
        [1.0, 1.0, 0.0]
    """

    rank, world_size = 0, 1

    def swap(self, dense: Sequence[Tensor], ragged: Sequence[Rows]) -> tuple[Tensor, list[Rows]]:
        """As `Group.swap`."""
        return torch.cat([part.flatten() for part in dense]) if dense else torch.zeros(0), list(ragged)
