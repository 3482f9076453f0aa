from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from models.sync_batch_norm import SyncBatchNorm1d

PARTS = ((0, 3), (3, 10))


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 5.0 + torch.randn(10, 4, generator=generator), torch.randn(10, 4, generator=generator)


def run_worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(PARTS))
    start, end = PARTS[rank]
    x, upstream = (tensor[start:end] for tensor in inputs())
    x.requires_grad_()
    norm = SyncBatchNorm1d(4)
    out = norm(x)
    out.backward(upstream)
    assert norm.weight.grad is not None
    result = [out.detach(), x.grad, norm.weight.grad, norm.running_mean, norm.running_var, norm.num_batches_tracked]
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_equal_batch_norm_over_the_union_of_their_batches(tmp_path: Path) -> None:
    mp.spawn(run_worker, args=(str(tmp_path),), nprocs=len(PARTS))  # type: ignore[attr-defined, no-untyped-call]
    x, upstream = inputs()
    x.requires_grad_()
    reference = nn.BatchNorm1d(4)
    out = reference(x)
    out.backward(upstream)
    assert x.grad is not None and reference.weight.grad is not None
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(PARTS))]
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), out.detach())
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), x.grad)
    torch.testing.assert_close(parts[0][2] + parts[1][2], reference.weight.grad)
    for part in parts:
        torch.testing.assert_close(part[3:5], [reference.running_mean, reference.running_var])
        assert part[5] == 1


def test_one_worker_is_batch_norm() -> None:
    x, _ = inputs()
    ours, reference = SyncBatchNorm1d(4), nn.BatchNorm1d(4)
    assert torch.equal(ours(x), reference(x))
    assert torch.equal(ours.eval()(x), reference.eval()(x))
