"""Training steps of a ranker: what sources learn from a batch, the loss (SARM eq. 12 to 15), and windows of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.batch import RankingBatch
from models.composed import ComposedRanker
from models.group import Alone, Group
from models.losses import multi_task_bce
from models.sarm.memory_bank import MemoryBank
from models.sources import Encoded, Inputs


class TrainingStep(NamedTuple):
    """What a step gives back to the loop."""

    loss: Tensor
    """Scalar to call backward on."""
    parts: dict[str, Tensor]
    """Detached scalars: rec, aux (0 without sources that have a loss of their own) and each task by its name."""


class TrainingRanker(nn.Module):
    """The training step as one `forward`, over authors that a window has encoded.

    The step reads banks and never writes them: the loop does, with the rows of every worker.

    Example:
        >>> from models.catalog import CatalogSizes
        >>> from models.ranker import RankerConfig
        >>> sizes = CatalogSizes(num_users=2, num_authors=3, profile_cardinalities=(2,), num_categories=2)
        >>> step = TrainingRanker(ComposedRanker(RankerConfig(), sizes))
        >>> step.inputs  # without sources there is nothing to read
        {}
    """

    def __init__(self, model: ComposedRanker) -> None:
        super().__init__()
        self.model = model
        self._inputs: Mapping[str, Inputs] = {}

    @property
    def inputs(self) -> Mapping[str, Inputs]:
        """By source, what it is made from now; plain tensors, neither saved nor broadcast.

        Setting them raises ValueError unless every source has those of all author rows.
        """
        return self._inputs

    @inputs.setter
    def inputs(self, inputs: Mapping[str, Inputs]) -> None:
        self.model.check_inputs(inputs)
        self._inputs = inputs

    def choose(
        self, batches: Sequence[RankingBatch], banks: Mapping[str, MemoryBank], group: Group
    ) -> dict[str, Tensor]:
        """By source that encodes, rows [A] of authors that are encoded for these batches and those of other workers.

        They are ascending and the same on every worker. `banks` are those of the sources that have one.
        """
        if not banks:
            return {}
        authors, counts = torch.unique(torch.cat([batch.author for batch in batches]), return_counts=True)
        if group.world_size > 1:
            _, ((of_all, counts_of_all),) = group.swap([], [(authors, counts.float())])
            authors, place = torch.unique(of_all, return_inverse=True)
            counts = counts_of_all.new_zeros(len(authors)).index_add_(0, place, counts_of_all).long()
        return {name: self.model.source(name).choose(authors, counts, bank) for name, bank in banks.items()}

    def encode(self, name: str, rows: Tensor) -> Tensor:
        """Vectors [A, 2, D] of author rows [A], by the source of that name."""
        return self.model.source(name).encode(rows, self.inputs[name], self.model.ranker.authors)

    def forward(
        self, batch: RankingBatch, banks: Mapping[str, MemoryBank], encoded: Mapping[str, Encoded]
    ) -> TrainingStep:
        """The loss of one batch, whose authors are among the `encoded` of their sources."""
        ids = self.model.ranker.authors
        learnt = {
            name: source.learn(batch, self.inputs[name], encoded.get(name), banks.get(name), ids)
            for name, source in self.model.items()
        }
        logits = self.model(batch, [part.representations for part in learnt.values()])
        per_task = multi_task_bce(logits, batch.labels, batch.label_mask)
        recommendation = loss = per_task.sum()
        aux = loss.new_zeros(())
        for part in learnt.values():
            if part.aux is not None:
                aux = aux + part.aux
                loss = loss + part.aux_weight * part.aux
        parts = {"rec": recommendation, "aux": aux, **dict(zip(self.model.config.tasks, per_task, strict=True))}
        return TrainingStep(
            loss=loss,
            parts={name: value.detach() for name, value in parts.items()},
        )


class Window:
    """Consecutive training steps that share one encoding of their authors.

    The steps read the vectors as they were at its start, and gather their gradients there. `backward` takes their sum
    through the encoders, once. Until then what only the encoders use has no gradient, and an optimizer that skips
    parameters without one, as torch's do, leaves it where it is. What the ranker uses too, such as the table of author
    ids that [TAR] asks with, steps at each batch, and has the encoders' gradient added to that of the last one.

    Workers share it as well: each encodes its part of the authors that they read together, and they tell each other.

    Example:
        >>> from models.catalog import CatalogSizes
        >>> from models.ranker import RankerConfig
        >>> sizes = CatalogSizes(num_users=2, num_authors=3, profile_cardinalities=(2,), num_categories=2)
        >>> window = Window(TrainingRanker(ComposedRanker(RankerConfig(), sizes)), batches=[], banks={})
        >>> window.encoded  # without sources nothing is encoded
        {}
        >>> window.backward()
    """

    def __init__(
        self,
        step: TrainingRanker,
        batches: Sequence[RankingBatch],
        banks: Mapping[str, MemoryBank],
        group: Group | None = None,
        begin: Callable[[Sequence[Tensor]], None] = lambda rows: None,
    ) -> None:
        """`begin` is told the author rows that this worker encodes, [A'] for each source that does, before it does."""
        self._group = group or Alone()
        chosen = step.choose(batches, banks, self._group)
        begin([rows[_own(rows, self._group)] for rows in chosen.values()])
        self._parts = {name: _Part.of(step, name, rows, self._group) for name, rows in chosen.items()}
        self.encoded = {
            name: Encoded(chosen[name], part.vectors_of_all(chosen[name], self._group).requires_grad_())
            for name, part in self._parts.items()
        }
        """What the steps read, by source; the same on every worker."""

    def backward(self) -> None:
        """Adds the encoders' gradients to those of the last step, each worker those of the authors that it encoded."""
        for name, part in self._parts.items():
            vectors = self.encoded[name].vectors
            gradient = vectors.grad
            if self._group.world_size > 1:
                mean, _ = self._group.swap([torch.zeros_like(vectors) if gradient is None else gradient], [])
                # Gradients of parameters become means over workers, and each of these has one of so many parts.
                gradient = mean.view_as(vectors).mul_(part.parts)
            if gradient is not None:
                torch.autograd.backward(part.made, gradient[part.own])


class _Part(NamedTuple):
    """One worker's part of the authors of a window."""

    parts: int
    """How many there are: one for each worker, or one that all have, where there are fewer authors than workers."""
    own: slice
    """Which of the authors are in it."""
    made: Tensor
    """[A', 2, D], their vectors, from the encoder."""

    @classmethod
    def of(cls, step: TrainingRanker, name: str, rows: Tensor, group: Group) -> _Part:
        """This worker's part of author rows [A], encoded."""
        own = _own(rows, group)
        return cls(own.step, own, step.encode(name, rows[own]))

    def vectors_of_all(self, rows: Tensor, group: Group) -> Tensor:
        """[A, 2, D], those of all parts, without a gradient."""
        vectors = self.made.detach()
        if self.parts == 1:
            return vectors
        _, ((of_all, vectors_of_all),) = group.swap([], [(rows[self.own], vectors)])
        return vectors_of_all[torch.argsort(of_all)]


def _own(rows: Tensor, group: Group) -> slice:
    """This worker's part of author rows [A], all of them where there are fewer than workers.

    It is every so many-th, because anchors of neighbours are no longer than others'.
    """
    parts = group.world_size if len(rows) >= group.world_size else 1
    return slice(group.rank % parts, None, parts)
