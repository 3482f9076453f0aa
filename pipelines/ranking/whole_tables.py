"""What a checkpoint has of tables that are spread over workers: whole, as if one worker had them.

The first worker gets them piece by piece into files, which the kernel keeps in memory or not as it likes, so that no
worker needs memory for a whole table, and the checkpoint of any number of workers looks the same.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.embeddings import IdTable
from models.optimizer import RankerOptimizer
from pipelines.ranking.shards import Shards
from pipelines.ranking.worker import Worker

Point = dict[str, Any]
"""`model`, `optimizer` and `banks`: a point of training, from which it can go on."""
_ROWS_TOGETHER = 65_536


@contextmanager
def gathered(points: Mapping[str, Point], shards: Shards) -> Iterator[dict[str, Point]]:
    """On the first worker: the same points with whole tables, for as long as their files stand.

    Every worker calls it, with points of the same names; what others get is of no use.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = _Whole(Path(folder), shards.worker)
        yield {name: _with_tables(point, shards, whole) for name, point in points.items()}


def own(point: Point, shards: Shards) -> Point:
    """A point with whole tables, which may be a file's -> the same in memory, with this worker's rows alone."""
    return copy.deepcopy(_with_tables(point, shards, lambda rows, table: table.own(rows).clone()))


def _with_tables(point: Point, shards: Shards, change: Callable[[Tensor, IdTable], Tensor]) -> Point:
    """A point whose tables, and what the optimizer knows of their rows, are changed where they are spread."""
    model, optimizer = dict(point["model"]), dict(point["optimizer"])
    for name, table in shards.tables.items():
        key, of = f"ranker.{name}.weight", _place(table, shards.optimizer)
        model[key] = change(model[key], table)
        rows = optimizer["rows"]
        known = {
            what: change(value, table) if isinstance(value, Tensor) else value
            for what, value in rows["state"][of].items()
        }
        optimizer["rows"] = {**rows, "state": {**rows["state"], of: known}}
    return {**point, "model": model, "optimizer": optimizer}


def _place(table: IdTable, optimizer: RankerOptimizer) -> int:
    """The number by which an optimizer's `state_dict` knows a table."""
    assert optimizer.by_row is not None
    (group,) = optimizer.by_row.param_groups
    return next(index for index, weight in enumerate(group["params"]) if weight is table.weight)


class _Whole:
    """Gathers shards into files of a folder."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self._folder, self._worker, self._made = folder, worker, 0

    def __call__(self, rows: Tensor, table: IdTable) -> Tensor:
        """A shard's rows [n, ...] of something -> those of all, [num_rows, ...], on the first worker."""
        own, shape = table.own(rows), rows.shape[1:]
        whole = self._file(torch.Size([table.num_rows, *shape]), rows.dtype) if self._worker.rank == 0 else None
        world = self._worker.world_size
        for first in range(0, table.num_rows, _ROWS_TOGETHER * world):
            last = min(first + _ROWS_TOGETHER * world, table.num_rows)
            pieces = self._piece(own, first // world, [len(range(first + rank, last, world)) for rank in range(world)])
            if whole is not None:
                for rank, piece in enumerate(pieces):
                    whole[first + rank : last : world] = piece.cpu()
        return own if whole is None else whole

    def _piece(self, own: Tensor, start: int, counts: list[int]) -> list[Tensor]:
        """All workers' rows from a place on, in the order of ranks, on the first worker."""
        rank, world = self._worker.rank, self._worker.world_size
        mine = own[start : start + counts[rank]].to(self._worker.device).contiguous()
        coming = counts if rank == 0 else [0] * world
        came = mine.new_empty(sum(coming), *mine.shape[1:])
        dist.all_to_all_single(came, mine, coming, [len(mine)] + [0] * (world - 1))
        return list(torch.split(came, coming))

    def _file(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        self._made += 1
        name = str(self._folder / str(self._made))
        return torch.from_file(name, shared=True, size=shape.numel(), dtype=dtype).view(shape)
