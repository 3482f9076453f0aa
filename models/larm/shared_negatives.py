"""Several workers as one: the lives of each are negatives of the users of all (LARM eq. 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.group import Group


class Shared(NamedTuple):
    """What `sampled_softmax` compares this worker's users with."""

    items: Tensor
    """[B, D], of all workers, in the order of ranks."""
    keys: Tensor
    """[B] int64."""
    log_q: Tensor
    """[B]."""
    first: int
    """Where this worker's own begin."""
    share: float
    """b times the number of workers over B: with it as a weight, the mean of the workers' losses is that of all rows,
    also where one has a row more than another."""


def shared(items: Tensor, keys: Tensor, log_q: Tensor, group: Group) -> Shared:
    """All workers' items [b, D], keys [b] int64 and log q [b]; the gradient of an item is summed over the workers.

    Every worker must call this, and go backward through it, in the same steps.

    Example:
        >>> from models.group import Alone
        >>> shared(torch.eye(2), torch.tensor([5, 6]), torch.zeros(2), Alone())[3:]
        (0, 1.0)
    """
    if group.world_size == 1:
        return Shared(items, keys, log_q, 0, 1.0)
    told = torch.stack([log_q, torch.full_like(log_q, group.rank)], dim=1)
    with torch.no_grad():
        _, ((all_keys, values),) = group.swap([], [(keys, torch.cat([items, told], dim=1))])
    all_items, all_log_q, rank = torch.split(values, [items.shape[1], 1, 1], dim=1)
    first = int((rank < group.rank).sum())
    gathered: Tensor = _Gathered.apply(items, all_items, first, group)  # type: ignore[no-untyped-call]
    share = len(keys) * group.world_size / len(all_keys)
    return Shared(gathered, all_keys, all_log_q.squeeze(1), first, share)


class _Gathered(torch.autograd.Function):
    """All workers' items, of which this worker's are `first` and those that follow."""

    @staticmethod
    def forward(ctx: Any, items: Tensor, all_items: Tensor, first: int, group: Group) -> Tensor:
        ctx.first, ctx.size, ctx.group = first, len(items), group
        return all_items.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        means, _ = ctx.group.swap([gradients[0].contiguous()], [])
        summed = means.view_as(gradients[0]) * ctx.group.world_size
        return summed[ctx.first : ctx.first + ctx.size], None, None, None
