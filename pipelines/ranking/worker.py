"""One worker of data-parallel training, and what workers exchange. Knows torch.distributed, not Ray."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.ranking.channel import Channel, Distributed, Rows
from pipelines.ranking.shared_memory import Place, SharedMemory, listening


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """Which worker this is, what it computes on, and how it tells the others of its steps."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    channel: Channel | None = None
    """None is torch.distributed: see `joined`."""


@contextmanager
def joined(worker: Worker, log_line: Callable[[str], None]) -> Iterator[Worker]:
    """The worker with the fastest channel that all of its group can use; `log_line` gets which one, and why.

    That is shared memory where all are on one machine and compute on its CPU. Every worker must call this, when
    torch.distributed has joined them. The channel is closed behind the block.
    """
    if worker.world_size == 1:
        yield worker
        return
    with listening() as listener:
        places: list[Place] = [Place.of(listener, worker.device)] * worker.world_size
        dist.all_gather_object(places, places[worker.rank])
        machines, devices = ({getattr(place, name) for place in places} for name in ("machine", "device"))
        on = " and ".join(sorted(devices))
        where = f"{worker.world_size} workers on {len(machines)} machine(s), which compute on {on},"
        if len(machines) > 1 or devices != {"cpu"}:
            log_line(f"{where} exchange by torch.distributed ({dist.get_backend()})")
            yield worker
            return
        channel = SharedMemory.connect(worker.rank, listener, [place.address for place in places], dist.barrier)
    log_line(f"{where} exchange by shared memory")
    try:
        yield replace(worker, channel=channel)
    finally:
        channel.close()


class Exchange:
    """What workers tell each other in a step: sums of equal shape everywhere, and rows.

    The sums are those of dense gradients and of the statistics of batch normalisation, which each worker has of its own
    part of the batch; the rows those of sparse gradients, and of banks. One worker has nobody to tell.
    """

    def __init__(self, module: nn.Module, worker: Worker) -> None:
        self._worker = worker
        self._distributed = Distributed(worker.rank, worker.world_size, worker.device)
        self._channel = worker.channel or self._distributed
        self._parameters = list(module.parameters())
        norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm1d)]
        self._statistics = [part for n in norms for part in (n.running_mean, n.running_var) if part is not None]

    def __call__(self, banked: Mapping[str, Rows]) -> dict[str, Rows]:
        """After a backward pass: gives every worker the mean of all workers' gradients; returns the banks' rows of all.

        Each worker must have gradients of the same parameters and rows of the same banks. A bank's rows come in the
        order of ranks. Raises the channel's error where another worker is gone.
        """
        if self._worker.world_size == 1:
            return dict(banked)
        learnt = [(p, p.grad) for p in self._parameters if p.grad is not None]
        dense = [(parameter, gradient) for parameter, gradient in learnt if not gradient.is_sparse]
        sparse = [(parameter, gradient.coalesce()) for parameter, gradient in learnt if gradient.is_sparse]
        rows_of = [(gradient.indices()[0], gradient.values()) for _, gradient in sparse]
        same = [*(gradient for _, gradient in dense), *self._statistics]
        means, gathered = self._channel.swap(same, [*rows_of, *banked.values()])
        parts = torch.split(means, [part.numel() for part in same])
        for (parameter, _), mean in zip(dense, parts, strict=False):  # a gradient is a part of the message, not a copy
            parameter.grad = mean.view_as(parameter)
        for statistic, mean in zip(self._statistics, parts[len(dense) :], strict=True):
            statistic.copy_(mean.view_as(statistic))
        for (parameter, _), (rows, values) in zip(sparse, gathered, strict=False):
            mean = values.div_(self._worker.world_size)
            parameter.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), mean, tuple(parameter.shape), check_invariants=False
            )
        return dict(zip(banked, gathered[len(sparse) :], strict=True))

    def gather(self, rows: Tensor, values: Tensor) -> Rows:
        """All workers' rows [R] int64 with values [R, ...] float32, in the order of ranks; not for every step."""
        return (rows, values) if self._worker.world_size == 1 else self._distributed.gather(rows, values)

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
