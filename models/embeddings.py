"""Tables of learnt vectors for ids and buckets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops import huge_pages
from models.ops.lookup import look_up
from models.shard import WHOLE, Shard, current

_UNDRAWN: ContextVar[bool] = ContextVar("undrawn", default=False)

SPARSE_FROM = 16_384
"""Rows from which a table has gradients only of the rows that were read: below it, all of them at once are cheaper."""
_DRAWN_TOGETHER = 65_536


class IdTable(nn.Module):
    """Learnt rows for ids, tokens or small categorical values. Row 0 is the unknown one and starts at zero.

    Its parameter is the group "ids" of models/optimizer.py, or "rows" where it is sparse. Whole in every worker, unless
    `sharded`: then a sparse one has the rows of its `shard` alone, that of `models.shard.spread` around its making.

    Example:
        >>> table = IdTable(num_rows=3, dim=2, init_std=0.05)
        >>> table(torch.tensor([0])).tolist()
        [[0.0, 0.0]]
        >>> table(torch.tensor([[1, 2], [2, 0]])).shape
        torch.Size([2, 2, 2])
    """

    def __init__(self, num_rows: int, dim: int, init_std: float, *, sharded: bool = False) -> None:
        super().__init__()
        if num_rows < 1:
            raise ValueError(f"an id table needs at least row 0, got num_rows={num_rows}")
        self.num_rows = num_rows
        """Of all shards together; those of `weight` are the rows that are here."""
        self.shard = current() if sharded and self.is_sparse else WHOLE
        self.weight = nn.Parameter(_drawn(num_rows, dim, init_std, self.shard))
        self.reader: Callable[[Tensor], Tensor] | None = None
        """How it is read, where not plainly: see `RowAdam`, and for a shard pipelines/ranking/shards.py."""

    @property
    def is_sparse(self) -> bool:
        """Whether its gradient is a sparse tensor of the rows that were read."""
        return self.num_rows >= SPARSE_FROM

    def forward(self, rows: Tensor) -> Tensor:
        """rows [...] int64 -> vectors [..., dim]. Raises RuntimeError for a shard that has no reader."""
        if self.reader is not None:
            return self.reader(rows)
        if self.shard != WHOLE:
            raise RuntimeError(
                f"this table has {len(self.weight)} of {self.num_rows} rows, and no reader of the others"
            )
        return F.embedding(rows, self.weight, sparse=True) if self.is_sparse else look_up(self.weight, rows)

    def append(self, vectors: Tensor) -> None:
        """Rows [n, dim] behind those that exist, which stay. Make the optimizer afterwards."""
        assert self.shard == WHOLE, "a shard does not grow: make a new table"
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), vectors.detach()]))
        self.num_rows = len(self.weight)

    def own(self, rows: Tensor) -> Tensor:
        """Of something that is said of every row [num_rows, ...], what belongs here; what is of this shard stays."""
        return self.shard.of(rows) if len(rows) == self.num_rows else rows

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (name := f"{prefix}weight") in state_dict:
            state_dict[name] = self.own(state_dict[name])
        super()._load_from_state_dict(state_dict, prefix, *args)


@contextmanager
def undrawn() -> Iterator[None]:
    """Tables that are made meanwhile hold nothing of use: for models whose weights are put in their place at once."""
    before = _UNDRAWN.set(True)
    try:
        yield
    finally:
        _UNDRAWN.reset(before)


def _drawn(num_rows: int, dim: int, init_std: float, shard: Shard) -> Tensor:
    """The shard's rows of a new table; all shards together are the whole one, and torch's generator moves on alike."""
    if _UNDRAWN.get():
        return torch.empty(shard.count(num_rows), dim)  # memory that nobody touches is none
    weight, done = huge_pages.zeros(shard.count(num_rows), dim), 0
    for first in range(0, num_rows, _DRAWN_TOGETHER):
        piece = torch.empty(min(_DRAWN_TOGETHER, num_rows - first), dim).normal_().mul_(init_std)
        own = shard.of(piece, first)
        weight[done : done + len(own)] = own
        done += len(own)
    if shard.rank == 0:
        weight[0] = 0.0
    return weight


def log2_bucket(values: Tensor, num_buckets: int) -> Tensor:
    """floor(log2(1 + value)) as int64, held within 0 and num_buckets - 1; negative values fall in bucket 0.

    Computed from the exponent of the float, so that it is exact at powers of two.

    Example:
        >>> log2_bucket(torch.tensor([0.0, 1.0, 2.9, 3.0, 1e9]), num_buckets=8)
        tensor([0, 1, 1, 2, 7])
    """
    exponent = torch.frexp(values.clamp(min=0.0) + 1.0).exponent
    return (exponent.long() - 1).clamp(max=num_buckets - 1)
