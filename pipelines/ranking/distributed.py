"""A group of training workers by torch.distributed, which goes between machines, and between GPUs."""

from collections.abc import Sequence
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor

from models.group import Rows

_ROW_FLOATS = 2  # an int64 travels as the bits of two floats


class Distributed:
    """A `Group` that swaps by two messages: one of equal shape everywhere, and one of rows."""

    def __init__(self, rank: int, world_size: int, device: torch.device) -> None:
        self.rank, self.world_size = rank, world_size
        self._device = device

    def swap(self, dense: Sequence[Tensor], ragged: Sequence[Rows]) -> tuple[Tensor, list[Rows]]:
        """As `Group.swap`."""
        # Each worker fills its own place and leaves zeros in the others': the sum says all. It is exact up to 2^24.
        slots = torch.zeros(self.world_size, len(ragged))
        slots[self.rank] = torch.tensor([len(rows) for rows, _ in ragged], dtype=torch.float32)
        message = torch.cat([part.flatten() for part in (*dense, slots.to(self._device))])
        dist.all_reduce(message)
        means, sums = torch.split(message, [len(message) - slots.numel(), slots.numel()])
        counts = [[round(count) for count in row] for row in sums.view_as(slots).tolist()]
        return means.div_(self.world_size), self._gather(ragged, counts)

    def gather(self, rows: Tensor, values: Tensor) -> Rows:
        """All workers' rows [R] int64 with values [R, ...] float32, in the order of ranks, however many there are."""
        counts = [torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(self.world_size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=self._device))
        return self._gather([(rows, values)], [[int(count)] for count in counts])[0]

    def _gather(self, ragged: Sequence[Rows], counts: Sequence[Sequence[int]]) -> list[Rows]:
        """All workers' rows of each item, in the order of ranks; `counts` says how many each has."""
        if not ragged:
            return []
        shapes = [
            (max(of), _ROW_FLOATS + prod(values.shape[1:]))
            for of, (_, values) in zip(zip(*counts, strict=True), ragged, strict=True)
        ]
        message = torch.zeros(sum(rows * width for rows, width in shapes), device=self._device)
        for place, (rows, values) in zip(_items(message, shapes), ragged, strict=True):
            dense = rows.new_empty(len(rows)).copy_(rows)  # of a slice with steps the bits could not be viewed
            place[: len(rows), :_ROW_FLOATS] = dense.view(torch.float32).view(-1, _ROW_FLOATS)
            place[: len(rows), _ROW_FLOATS:] = values.reshape(len(rows), prod(values.shape[1:]))
        messages = [torch.empty_like(message) for _ in counts]
        dist.all_gather(messages, message)
        by_worker = [_items(message, shapes) for message in messages]
        gathered = []
        for item, (_, values) in enumerate(ragged):
            whole = torch.cat([items[item][: count[item]] for items, count in zip(by_worker, counts, strict=True)])
            rows = whole[:, :_ROW_FLOATS].reshape(-1).view(torch.int64)
            gathered.append((rows, whole[:, _ROW_FLOATS:].reshape(-1, *values.shape[1:])))
        return gathered


def _items(message: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Views of the parts of a message, one after another."""
    parts = torch.split(message, [rows * width for rows, width in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
