"""One worker of data-parallel training, and what workers exchange. Knows torch.distributed, not Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.group import Alone, Group, Rows
from models.shard import WHOLE, Shard
from pipelines.ranking.distributed import Distributed
from pipelines.ranking.shared_memory import Place, SharedMemory, listening


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Which worker this is, what it computes on, and by what it reaches the others."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory: Group | None = None
    """What all workers share; None where they reach each other by torch.distributed: see `joined`."""

    shards_ids: bool = False
    """Whether of big id tables it has its share of the rows alone: pipelines/ranking/shards.py."""

    @property
    def shard(self) -> Shard:
        """What it has of them."""
        return Shard(self.rank, self.world_size) if self.shards_ids else WHOLE

    @property
    def group(self) -> Group:
        """All workers."""
        if self.world_size == 1:
            return Alone()
        return self.memory or Distributed(self.rank, self.world_size, self.device)


@contextmanager
def joined(worker: Worker, log_line: Callable[[str], None]) -> Iterator[Worker]:
    """The worker with the fastest way that all of its group can use; `log_line` gets which one, and why.

    That is shared memory where all are on one machine and compute on its CPU. Every worker must call this, when
    torch.distributed has joined them. It leaves the others behind the block, after an error when its process ends.
    """
    memory = _shared_memory(worker, log_line) if worker.world_size > 1 else None
    yield replace(worker, memory=memory)
    # Not after an error: the others would raise as well, and whoever started all of them might hear of that first.
    if memory is not None:
        memory.close()


def _shared_memory(worker: Worker, log_line: Callable[[str], None]) -> SharedMemory | None:
    with listening() as listener:
        own = Place.of(listener, worker.device)
        places = [own] * worker.world_size
        dist.all_gather_object(places, own)
        machines, devices = {place.machine for place in places}, sorted({place.device for place in places})
        where = f"{len(places)} workers on {len(machines)} machine(s), which compute on {' and '.join(devices)}"
        if len(machines) > 1 or devices != ["cpu"]:
            log_line(f"{where}, exchange by torch.distributed ({dist.get_backend()})")
            return None
        log_line(f"{where}, exchange by shared memory")
        return SharedMemory.connect(worker.rank, listener, [place.address for place in places], dist.barrier)


class Exchange:
    """What workers tell each other at the end of a step: dense gradients, rows of sparse ones, and statistics.

    The statistics are those of batch normalisation, which each worker has of its own part of the batch. One worker has
    nobody to tell.
    """

    def __init__(self, module: nn.Module, worker: Worker) -> None:
        self._worker, self._group = worker, worker.group
        self._parameters = list(module.parameters())
        norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm1d)]
        self._statistics = [part for n in norms for part in (n.running_mean, n.running_var) if part is not None]

    def __call__(self) -> None:
        """After a backward pass: gives every worker the mean of all workers' gradients and statistics.

        Each worker must have gradients of the same parameters. Raises the group's error where another worker is gone.
        """
        if self._worker.world_size == 1:
            return
        learnt = [(p, p.grad) for p in self._parameters if p.grad is not None]
        dense = [(parameter, gradient) for parameter, gradient in learnt if not gradient.is_sparse]
        sparse = [(parameter, gradient.coalesce()) for parameter, gradient in learnt if gradient.is_sparse]
        same = [*(gradient for _, gradient in dense), *self._statistics]
        means, gathered = self._group.swap(same, [(gradient.indices()[0], gradient.values()) for _, gradient in sparse])
        parts = torch.split(means, [part.numel() for part in same])
        for (parameter, _), mean in zip(dense, parts, strict=False):  # a gradient is a part of the message, not a copy
            parameter.grad = mean.view_as(parameter)
        for statistic, mean in zip(self._statistics, parts[len(dense) :], strict=True):
            statistic.copy_(mean.view_as(statistic))
        for (parameter, _), (rows, values) in zip(sparse, gathered, strict=True):
            mean = values.div_(self._worker.world_size)
            parameter.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), mean, tuple(parameter.shape), check_invariants=False
            )

    def gather(self, rows: Tensor, values: Tensor) -> Rows:
        """All workers' rows [R] int64 with values [R, ...] float32, in the order of ranks; for more than a step has."""
        if self._worker.world_size == 1:
            return rows, values
        worker = self._worker
        return Distributed(worker.rank, worker.world_size, worker.device).gather(rows, values)

    def newest(self, days: Tensor) -> Tensor:
        """The greatest of all workers' values, by place."""
        if self._worker.world_size > 1:
            dist.all_reduce(days, dist.ReduceOp.MAX)
        return days


def from_first(value: float, worker: Worker) -> float:
    """The first worker's value, on every worker."""
    if worker.world_size == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=worker.device)
    dist.broadcast(shared, src=0)
    return float(shared)
