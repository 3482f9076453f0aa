"""Workers that share their lives as negatives are one worker with all rows, however the rows are spread."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from models.group import Rows
from models.larm.sampled_softmax import sampled_softmax
from models.larm.shared_negatives import shared


class Threads:
    """A `Group` of threads."""

    def __init__(self, rank: int, world_size: int, board: list[object], barrier: threading.Barrier) -> None:
        self.rank, self.world_size = rank, world_size
        self._board, self._barrier = board, barrier

    def swap(self, dense: Sequence[Tensor], ragged: Sequence[Rows]) -> tuple[Tensor, list[Rows]]:
        flat = torch.cat([of.detach().flatten() for of in dense]) if dense else torch.zeros(0)
        self._board[self.rank] = (flat, [(rows.clone(), values.clone()) for rows, values in ragged])
        self._barrier.wait()
        said: list[tuple[Tensor, list[Rows]]] = list(self._board)  # type: ignore[arg-type]
        self._barrier.wait()
        gathered = [
            (torch.cat([rows for rows, _ in of]), torch.cat([values for _, values in of]))
            for of in zip(*(one for _, one in said), strict=True)
        ]
        return torch.stack([of for of, _ in said]).mean(dim=0), gathered


@pytest.mark.parametrize("bounds", [(0, 3, 6), (0, 2, 3, 6)])
def test_loss_and_gradients_are_those_of_one_worker(bounds: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    users, items = torch.randn(6, 4), torch.randn(6, 4)
    keys, log_q = torch.tensor([1, 2, 3, 1, 5, 2]), torch.randn(6)
    u, i = users.clone().requires_grad_(), items.clone().requires_grad_()
    whole = sampled_softmax(u, i, keys, log_q, 0.2)
    whole.backward()
    world = len(bounds) - 1
    board, barrier = [None] * world, threading.Barrier(world)
    found: dict[int, tuple[float, Tensor, Tensor]] = {}

    def work(rank: int) -> None:
        own = slice(bounds[rank], bounds[rank + 1])
        v, j = users[own].clone().requires_grad_(), items[own].clone().requires_grad_()
        among = shared(j, keys[own], log_q[own], Threads(rank, world, board, barrier))  # type: ignore[arg-type]
        loss = sampled_softmax(v, among.items, among.keys, among.log_q, 0.2, among.first) * among.share
        loss.backward()
        assert v.grad is not None and j.grad is not None
        found[rank] = loss.item(), v.grad / world, j.grad / world

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    losses, of_users, of_items = zip(*(found[rank] for rank in range(world)), strict=True)
    assert sum(losses) / world == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(torch.cat(of_users), u.grad)
    torch.testing.assert_close(torch.cat(of_items), i.grad)
