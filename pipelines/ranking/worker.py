"""One worker of data-parallel training, and what workers exchange. Knows torch.distributed, not Ray."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Which worker this is, and what it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gives every worker the mean of all workers' gradients, in one exchange; each must have those of the same ones."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(total)
    total /= dist.get_world_size()
    for gradient, mean in zip(gradients, torch.split(total, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def from_first(value: float, device: torch.device) -> float:
    """The first worker's value, on every worker."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(shared, src=0)
    return float(shared)


def all_gather_rows(rows: Tensor, vectors: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Every worker's freshly encoded rows [A] and vectors [A, 2, D], in the order of ranks: the same everywhere.

    `capacity` is the most rows that any worker has; what is missing to it travels as padding.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows, vectors
    padded_rows = rows.new_full((capacity,), -1)
    padded_rows[: len(rows)] = rows
    padded = vectors.new_zeros(capacity, *vectors.shape[1:])
    padded[: len(rows)] = vectors
    their_rows = [torch.empty_like(padded_rows) for _ in range(dist.get_world_size())]
    their_vectors = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(their_rows, padded_rows)
    dist.all_gather(their_vectors, padded)
    all_rows = torch.cat(their_rows)
    real = all_rows >= 0
    return all_rows[real], torch.cat(their_vectors)[real]
