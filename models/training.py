"""Training steps of a ranker: what sources learn from a batch, the loss (SARM eq. 12 to 15), and windows of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.batch import RankingBatch
from models.composed import ComposedRanker
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
    """The training step as one `forward`, over authors that `encode` has encoded.

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

    def encode(self, batches: Sequence[RankingBatch], banks: Mapping[str, MemoryBank]) -> dict[str, Encoded]:
        """By source that encodes, the authors of the batches; `banks` are those of the sources that have one."""
        ids = self.model.ranker.authors
        made = {
            name: source.encode(batches, self.inputs[name], banks.get(name), ids) for name, source in self.model.items()
        }
        return {name: encoded for name, encoded in made.items() if encoded is not None}

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

    Example:
        >>> from models.catalog import CatalogSizes
        >>> from models.ranker import RankerConfig
        >>> sizes = CatalogSizes(num_users=2, num_authors=3, profile_cardinalities=(2,), num_categories=2)
        >>> window = Window(TrainingRanker(ComposedRanker(RankerConfig(), sizes)), batches=[], banks={})
        >>> window.encoded  # without sources nothing is encoded
        {}
        >>> window.backward()
    """

    def __init__(self, step: TrainingRanker, batches: Sequence[RankingBatch], banks: Mapping[str, MemoryBank]) -> None:
        self._made = step.encode(batches, banks)
        self.encoded = {name: Encoded(of.rows, of.vectors.detach().requires_grad_()) for name, of in self._made.items()}
        """What the steps read, by source."""

    def backward(self) -> None:
        """Adds the encoders' gradients to those of the last step."""
        for name, made in self._made.items():
            gradient = self.encoded[name].vectors.grad
            if gradient is not None:
                torch.autograd.backward(made.vectors, gradient)
