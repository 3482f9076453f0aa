"""Which rows of a big table a worker has, where its rows are spread over all workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows of a table whose number leaves `rank` when it is divided by `world`: its place here is the quotient.

    Neighbours go to different workers, so that the newest ids, which are asked for most, are nobody's alone.

    Example:
        >>> import torch
        >>> Shard(1, 3).of(torch.arange(8)).tolist(), Shard(1, 3).count(8)
        ([1, 4, 7], 3)
    """

    rank: int = 0
    world: int = 1

    def of(self, rows: Tensor, first: int = 0) -> Tensor:
        """Those that belong here among consecutive rows [R, ...] of a table, of which `first` is the first; a view."""
        return rows[(self.rank - first) % self.world :: self.world]

    def count(self, num_rows: int) -> int:
        """How many of the rows of a table belong here."""
        return len(range(self.rank, num_rows, self.world))


WHOLE = Shard()
_current: ContextVar[Shard] = ContextVar("shard", default=WHOLE)


def current() -> Shard:
    """The shard that big id tables have which are made now."""
    return _current.get()


@contextmanager
def spread(shard: Shard) -> Iterator[None]:
    """Big id tables that are made within have the rows of this shard alone.

    Example:
        >>> with spread(Shard(0, 2)):
        ...     current()
        Shard(rank=0, world=2)
    """
    token = _current.set(shard)
    try:
        yield
    finally:
        _current.reset(token)
