"""Id tables whose rows are spread over workers: each has its share of the rows, with all that the optimizer knows of
them, and asks the others for what a step reads.

A window of steps asks once for the rows of all its steps, by number. Each step then gets their vectors, caught up by
their owners, and gives their owners the gradients. All workers call each method in the same order.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import RankingBatch
from models.composed import ComposedRanker
from models.embeddings import IdTable
from models.optimizer import RankerOptimizer
from models.shard import WHOLE
from pipelines.ranking.worker import Worker

_FOUND_TOGETHER = 65_536
Counts = list[list[int]]
"""By worker, for each item of a message, how many rows."""


class _Asked(NamedTuple):
    """Rows of one table for one read."""

    name: str
    """Of the table."""
    rows: Tensor
    """[R] int64, ascending, each once: those that this worker reads."""
    order: Tensor
    """[R], their places in the order of owners."""
    sent: list[int]
    """How many each owner is asked for."""
    wanted: Tensor
    """[Q] int64, places in this worker's shard that workers ask it for, in the order of ranks."""
    counts: list[int]
    """How many each of them asks for."""


class _Read(NamedTuple):
    """Rows of one table that are here for a while."""

    asked: _Asked
    vectors: Tensor
    """[R, D], which gather a gradient."""


class Shards:
    """The tables of a ranker that are spread, for one worker. Without any, every method is done at once.

    The tables are read for learning after `open` or `next`, and within `reading` at any time.
    """

    def __init__(self, model: ComposedRanker, optimizer: RankerOptimizer, worker: Worker) -> None:
        tables = {"users": model.ranker.users, "authors": model.ranker.authors}
        self.tables: dict[str, IdTable] = {name: table for name, table in tables.items() if table.shard != WHOLE}
        """By name, those that are spread."""
        self.worker, self.optimizer = worker, optimizer
        self._coming: list[list[_Asked]] = []
        self._reads: dict[str, _Read] = {}
        self._of_window: list[_Read] = []
        self._is_open = False
        for name, table in self.tables.items():
            table.reader = partial(self._look_up, name)

    def open(self, batches: Sequence[RankingBatch], encoded: Sequence[Tensor]) -> None:
        """A window of steps begins: asks for the rows of all of them, and reads the authors [A] that are `encoded`."""
        if not self.tables:
            return
        steps = [{"users": batch.user, "authors": _authors(batch)} for batch in batches]
        self._coming, _ = self._ask([*({"authors": torch.cat(list(encoded))} for _ in encoded[:1]), *steps])
        if encoded:
            self.next()
        self._of_window = list(self._reads.values()) if encoded else []

    def next(self) -> None:
        """The next step begins: its rows come, as the newest step has them."""
        if self.tables:
            self._reads = self._fetch(self._coming.pop(0))

    def give_back(self, *, is_last: bool) -> None:
        """After the backward pass: the owners' gradients become the mean of all workers'.

        Those that go through the window's encoders come with the last step.
        """
        if not self.tables:
            return
        reads = [*self._reads.values(), *(self._of_window if is_last else ())]
        gradients = [torch.zeros_like(of.vectors) if of.vectors.grad is None else of.vectors.grad for of in reads]
        came = self._to_owners([read.asked for read in reads], gradients)
        for name, table in self.tables.items():
            mine = [(of.asked.wanted, values) for of, values in zip(reads, came, strict=True) if of.asked.name == name]
            rows, place = torch.unique(torch.cat([wanted for wanted, _ in mine]), return_inverse=True)
            values = torch.cat([values for _, values in mine]).div_(self.worker.world_size)
            summed = values.new_zeros(len(rows), values.shape[1]).index_add_(0, place, values)
            table.weight.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), summed, table.weight.shape, is_coalesced=True, check_invariants=False
            )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within, any worker reads any rows whenever it likes; each stays until all are done, and answers."""
        self._is_open = bool(self.tables)
        yield
        while self._is_open:
            asked, self._is_open = self._ask([{}], is_done=True)
            if self._is_open:
                self._fetch(asked[0])

    @torch.no_grad()
    def rows_of(self, weight: nn.Parameter, said: Tensor, rows: Tensor) -> Tensor:
        """What is said of rows [R] of a table, [R, ...], from what each worker says of those of its shard, [n, ...].

        `weight` is the table's, which may be one that is not spread.
        """
        name = next((name for name, table in self.tables.items() if table.weight is weight), None)
        if name is None:
            return said.index_select(0, rows)
        pieces = list(torch.split(rows, _FOUND_TOGETHER))
        most = torch.tensor(len(pieces), device=rows.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        pieces += [rows[:0]] * (int(most) - len(pieces))
        return torch.cat([self._found(name, said, piece) for piece in pieces])

    def _found(self, name: str, said: Tensor, rows: Tensor) -> Tensor:
        (asked,), _ = self._ask([{name: rows}])
        answers = [said.index_select(0, of.wanted) if of.name == name else said[:0] for of in asked]
        came = dict(zip(self.tables, self._from_owners(asked, answers), strict=True))[name]
        return came.index_select(0, torch.searchsorted(torch.unique(rows), rows))

    def _look_up(self, name: str, rows: Tensor) -> Tensor:
        """Rows [...] of a table -> vectors [..., D]."""
        if self._is_open:
            asked, _ = self._ask([{name: rows}])
            read = self._fetch(asked[0])[name]
        elif torch.is_grad_enabled() and name in self._reads:
            read = self._reads[name]
        else:
            raise RuntimeError(f"table {name} is spread over workers: read it for a step, or within Shards.reading()")
        place = torch.searchsorted(read.asked.rows, rows).clamp_(max=len(read.asked.rows) - 1)
        if not torch.equal(read.asked.rows[place], rows):
            raise RuntimeError(f"table {name}: a step reads rows that it has not asked for")
        vectors: Tensor = F.embedding(place, read.vectors)
        return vectors

    def _ask(self, reads: Sequence[Mapping[str, Tensor]], *, is_done: bool = False) -> tuple[list[list[_Asked]], bool]:
        """What each read [rows by table] asks for, and is asked for; and whether anybody is not done."""
        nothing = torch.empty(0, dtype=torch.int64, device=self.worker.device)
        items = [(name, torch.unique(read.get(name, nothing))) for read in reads for name in self.tables]
        world = self.worker.world_size
        owners = [rows % world for _, rows in items]
        orders = [torch.argsort(of, stable=True) for of in owners]
        sent = torch.stack([torch.bincount(of, minlength=world) for of in owners], dim=1)
        told = torch.cat([sent, torch.full_like(sent[:, :1], int(is_done))], dim=1)  # [world, items + 1]
        heard = torch.empty_like(told)
        dist.all_to_all_single(heard, told)
        *of_items, done = heard.t().tolist()
        parts = [rows[order] // world for (_, rows), order in zip(items, orders, strict=True)]
        to_each = sent.tolist()
        wanted = self._swap(parts, to_each, [list(of) for of in zip(*of_items, strict=True)])
        asked = [
            _Asked(name, rows, order, [of[index] for of in to_each], came, of_items[index])
            for index, ((name, rows), order, came) in enumerate(zip(items, orders, wanted, strict=True))
        ]
        size = len(self.tables)
        return [asked[start : start + size] for start in range(0, len(asked), size)], not all(done)

    def _fetch(self, asked: Sequence[_Asked]) -> dict[str, _Read]:
        """The vectors of a read, by table; answers others who ask."""
        came = self._from_owners(asked, [self._answer(of) for of in asked])
        learnt = torch.is_grad_enabled()
        return {of.name: _Read(of, vectors.requires_grad_(learnt)) for of, vectors in zip(asked, came, strict=True)}

    def _answer(self, asked: _Asked) -> Tensor:
        """[Q, D]: what others want of a table."""
        rows, place = torch.unique(asked.wanted, return_inverse=True)
        assert self.optimizer.by_row is not None
        return self.optimizer.by_row.hold(self.tables[asked.name].weight, rows).index_select(0, place)

    def _from_owners(self, asked: Sequence[_Asked], answers: Sequence[Tensor]) -> list[Tensor]:
        """What this worker says of rows that it is asked for, [Q, ...] -> what is said of those it reads, [R, ...]."""
        came = self._swap(answers, _by_worker([of.counts for of in asked]), _by_worker([of.sent for of in asked]))
        return [torch.empty_like(of).index_copy_(0, ask.order, of) for of, ask in zip(came, asked, strict=True)]

    def _to_owners(self, asked: Sequence[_Asked], values: Sequence[Tensor]) -> list[Tensor]:
        """What this worker says of rows that it has read -> what all say of those that it owns, [Q, D] each."""
        parts = [of.index_select(0, ask.order) for of, ask in zip(values, asked, strict=True)]
        return self._swap(parts, _by_worker([of.sent for of in asked]), _by_worker([of.counts for of in asked]))

    def _swap(self, items: Sequence[Tensor], to_each: Counts, from_each: Counts) -> list[Tensor]:
        """One message to each worker, and one from each: of every item [n, ...] its part for that worker.

        Returns for every item what came of it, in the order of ranks.
        """
        split = [torch.split(item, [of[index] for of in to_each]) for index, item in enumerate(items)]
        message = torch.cat([part[worker].flatten() for worker in range(len(to_each)) for part in split])
        widths = [item.shape[1:].numel() for item in items]
        sent, coming = (
            [sum(n * width for n, width in zip(of, widths, strict=True)) for of in counts]
            for counts in (to_each, from_each)
        )
        came = message.new_empty(sum(coming))
        dist.all_to_all_single(came, message, coming, sent)
        sizes = [n * width for of in from_each for n, width in zip(of, widths, strict=True)]
        pieces = torch.split(came, sizes)
        return [torch.cat(pieces[index :: len(items)]).view(-1, *item.shape[1:]) for index, item in enumerate(items)]


def _authors(batch: RankingBatch) -> Tensor:
    """Rows that a step reads of the authors."""
    return torch.cat([batch.author.unsqueeze(1), batch.history], dim=1)


def _by_worker(counts: Sequence[Sequence[int]]) -> Counts:
    """Counts by item -> by worker."""
    return [list(of) for of in zip(*counts, strict=True)]
