"""Tables of learnt vectors for ids and buckets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops import huge_pages
from models.ops.lookup import look_up

SPARSE_FROM = 16_384
"""Rows from which a table has gradients only of the rows that were read: below it, all of them at once are cheaper."""


class IdTable(nn.Module):
    """Learnt rows for ids, tokens or small categorical values. Row 0 is the unknown one and starts at zero.

    Replicated in every worker. Its parameter is the group "ids" of models/optimizer.py, or "rows" where it is sparse.

    Example:
        >>> table = IdTable(num_rows=3, dim=2, init_std=0.05)
        >>> table(torch.tensor([0])).tolist()
        [[0.0, 0.0]]
        >>> table(torch.tensor([[1, 2], [2, 0]])).shape
        torch.Size([2, 2, 2])
    """

    def __init__(self, num_rows: int, dim: int, init_std: float) -> None:
        super().__init__()
        if num_rows < 1:
            raise ValueError(f"an id table needs at least row 0, got num_rows={num_rows}")
        weight = huge_pages.zeros(num_rows, dim).normal_().mul_(init_std)
        weight[0] = 0.0
        self.weight = nn.Parameter(weight)
        self.reader: Callable[[Tensor], Tensor] | None = None
        """How it is read, where not plainly: see `RowAdam`."""

    @property
    def is_sparse(self) -> bool:
        """Whether its gradient is a sparse tensor of the rows that were read."""
        return len(self.weight) >= SPARSE_FROM

    def forward(self, rows: Tensor) -> Tensor:
        """rows [...] int64 -> vectors [..., dim]."""
        if self.reader is not None:
            return self.reader(rows)
        return F.embedding(rows, self.weight, sparse=True) if self.is_sparse else look_up(self.weight, rows)

    def append(self, vectors: Tensor) -> None:
        """Rows [n, dim] behind those that exist, which stay. Make the optimizer afterwards."""
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), vectors.detach()]))


def log2_bucket(values: Tensor, num_buckets: int) -> Tensor:
    """floor(log2(1 + value)) as int64, held within 0 and num_buckets - 1; negative values fall in bucket 0.

    Computed from the exponent of the float, so that it is exact at powers of two.

    Example:
        >>> log2_bucket(torch.tensor([0.0, 1.0, 2.9, 3.0, 1e9]), num_buckets=8)
        tensor([0, 1, 1, 2, 7])
    """
    exponent = torch.frexp(values.clamp(min=0.0) + 1.0).exponent
    return (exponent.long() - 1).clamp(max=num_buckets - 1)
