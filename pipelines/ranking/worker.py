"""One worker of data-parallel training, and what workers exchange. Knows torch.distributed, not Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.shard import WHOLE, Shard

Rows = tuple[Tensor, Tensor]
"""Rows of a table [R] int64, and what is said of each, [R, ...] float32."""
_ROW_FLOATS = 2  # an int64 travels as the bits of two floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Which worker this is, and what it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    shards_ids: bool = False
    """Whether of big id tables it has its share of the rows alone: pipelines/ranking/shards.py."""

    @property
    def shard(self) -> Shard:
        """What it has of them."""
        return Shard(self.rank, self.world_size) if self.shards_ids else WHOLE


class Exchange:
    """What workers tell each other in a step, in two messages: one of equal shape everywhere, and one of rows.

    The first is the sum of dense gradients and of the statistics of batch normalisation, which each worker has of its
    own part of the batch; the second the rows of sparse gradients, and of banks. One worker has nobody to tell.
    """

    def __init__(self, module: nn.Module, worker: Worker) -> None:
        self._worker = worker
        self._parameters = list(module.parameters())
        norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm1d)]
        self._statistics = [part for n in norms for part in (n.running_mean, n.running_var) if part is not None]

    def __call__(self, banked: Mapping[str, Rows]) -> dict[str, Rows]:
        """After a backward pass: gives every worker the mean of all workers' gradients; returns the banks' rows of all.

        Each worker must have gradients of the same parameters and rows of the same banks. A bank's rows come in the
        order of ranks.
        """
        if self._worker.world_size == 1:
            return dict(banked)
        learnt = [(p, p.grad) for p in self._parameters if p.grad is not None]
        dense = [parameter for parameter, gradient in learnt if not gradient.is_sparse]
        sparse = [(parameter, gradient.coalesce()) for parameter, gradient in learnt if gradient.is_sparse]
        ragged = [(gradient.indices()[0], gradient.values()) for _, gradient in sparse] + list(banked.values())
        counts = self._mean(dense, [len(rows) for rows, _ in ragged])
        gathered = self._gather(ragged, counts)
        for (parameter, _), (rows, values) in zip(sparse, gathered, strict=False):
            mean = values.div_(self._worker.world_size)
            parameter.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), mean, tuple(parameter.shape), check_invariants=False
            )
        return dict(zip(banked, gathered[len(sparse) :], strict=True))

    def gather(self, rows: Tensor, values: Tensor) -> Rows:
        """All workers' rows [R] int64 with values [R, ...] float32, in the order of ranks."""
        if self._worker.world_size == 1:
            return rows, values
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self._worker.world_size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        return self._gather([(rows, values)], [[int(count)] for count in counts])[0]

    def newest(self, days: Tensor) -> Tensor:
        """The greatest of all workers' values, by place."""
        if self._worker.world_size > 1:
            dist.all_reduce(days, dist.ReduceOp.MAX)
        return days

    def _mean(self, dense: Sequence[nn.Parameter], counts: Sequence[int]) -> list[list[int]]:
        """Means of gradients and statistics over all workers; returns the counts of every worker, by rank.

        A gradient becomes a part of the message, without a copy.
        """
        worker, gradients = self._worker, [parameter.grad for parameter in dense if parameter.grad is not None]
        # Each worker fills its own place and leaves zeros in the others': the sum says all. It is exact up to 2^24.
        slots = torch.zeros(worker.world_size, len(counts))
        slots[worker.rank] = torch.tensor(counts, dtype=torch.float32)
        parts = [*gradients, *self._statistics, slots.to(worker.device)]
        message = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(message)
        *means, sums = torch.split(message, [part.numel() for part in parts])
        all_counts = [[round(count) for count in row] for row in sums.view_as(slots).tolist()]
        message.div_(worker.world_size)
        for parameter, mean in zip(dense, means, strict=False):
            parameter.grad = mean.view_as(parameter)
        for statistic, mean in zip(self._statistics, means[len(dense) :], strict=True):
            statistic.copy_(mean)
        return all_counts

    def _gather(self, ragged: Sequence[Rows], counts: Sequence[Sequence[int]]) -> list[Rows]:
        """All workers' rows of each item, in the order of ranks; `counts` says how many each has."""
        if not ragged:
            return []
        shapes = [
            (max(of), _ROW_FLOATS + values.flatten(1).shape[1])
            for of, (_, values) in zip(zip(*counts, strict=True), ragged, strict=True)
        ]
        message = torch.zeros(sum(rows * width for rows, width in shapes), device=self._worker.device)
        for place, (rows, values) in zip(_items(message, shapes), ragged, strict=True):
            place[: len(rows), :_ROW_FLOATS] = rows.view(torch.float32).view(-1, _ROW_FLOATS)
            place[: len(rows), _ROW_FLOATS:] = values.flatten(1)
        messages = [torch.empty_like(message) for _ in counts]
        dist.all_gather(messages, message)
        by_worker = [_items(message, shapes) for message in messages]
        gathered = []
        for item, (_, values) in enumerate(ragged):
            whole = torch.cat([items[item][: count[item]] for items, count in zip(by_worker, counts, strict=True)])
            rows = whole[:, :_ROW_FLOATS].contiguous().view(torch.int64).squeeze(1)
            gathered.append((rows, whole[:, _ROW_FLOATS:].reshape(-1, *values.shape[1:])))
        return gathered


def _items(message: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Views of the parts of a message, one after another."""
    parts = torch.split(message, [rows * width for rows, width in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def from_first(value: float, worker: Worker) -> float:
    """The first worker's value, on every worker."""
    if worker.world_size == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=worker.device)
    dist.broadcast(shared, src=0)
    return float(shared)
