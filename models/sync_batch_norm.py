"""Batch normalisation whose statistics span all data-parallel workers, on CPU too."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverWorkers(torch.autograd.Function):
    """Sum over the default process group; the gradient is summed over it as well."""

    @staticmethod
    def forward(ctx: object, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over [B, D], with mean and variance of the union of all workers' batches.

    `torch.nn.SyncBatchNorm` does the same on GPUs only. With one worker, or in evaluation, it is `nn.BatchNorm1d`.
    Workers may hold batches of different sizes; each forward in training costs one all-reduce.

    Example:
        >>> norm = SyncBatchNorm1d(2)
        >>> norm(torch.tensor([[0.0, 5.0], [2.0, 9.0]])).detach().round(decimals=2)
        tensor([[-1., -1.],
                [ 1.,  1.]])
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        mean, variance, count = _global_moments(input)
        self._track(mean.detach(), variance.detach(), count)
        scaled = (input - mean) * torch.rsqrt(variance + self.eps)
        return scaled * self.weight + self.bias

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        unbiased = variance * (count / (count - 1.0).clamp(min=1.0)).to(variance.dtype)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def _global_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Double precision, because the variance is the difference of two sums.
    wide = x.double()
    local = torch.cat([wide.sum(dim=0), wide.square().sum(dim=0), wide.new_tensor([float(len(x))])])
    total: Tensor = _SumOverWorkers.apply(local)  # type: ignore[no-untyped-call]
    count = total[-1].detach()
    mean, second = (total[:-1] / count).chunk(2)
    variance = (second - mean.square()).clamp(min=0.0)
    return mean.to(x.dtype), variance.to(x.dtype), count
