"""One training step of a ranker: what its sources learn from the batch, and the loss (SARM eq. 12 to 15)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from models import TASKS
from models.batch import RankingBatch
from models.composed import ComposedRanker
from models.losses import multi_task_bce
from models.sarm.memory_bank import MemoryBank
from models.sources import Fresh, Inputs


class TrainingStep(NamedTuple):
    """What a step gives back to the loop."""

    loss: Tensor
    """Scalar to call backward on."""
    parts: dict[str, Tensor]
    """Detached scalars: rec, aux (0 without sources that have a loss of their own) and each task by its name."""
    fresh: dict[str, Fresh]
    """By source, what `MemoryBank.write` takes."""


class TrainingRanker(nn.Module):
    """The training step as one `forward`, for DistributedDataParallel to wrap: every parameter takes part.

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

    def forward(self, batch: RankingBatch, banks: Mapping[str, MemoryBank]) -> TrainingStep:
        """The loss of one batch; `banks` are those of the sources that have one."""
        ids = self.model.ranker.authors
        learnt = {
            name: source.learn(batch, self.inputs[name], banks.get(name), ids) for name, source in self.model.items()
        }
        per_task = multi_task_bce(self.model(batch, [part.representations for part in learnt.values()]), batch.labels)
        recommendation = loss = per_task.sum()
        aux = loss.new_zeros(())
        for part in learnt.values():
            if part.aux is not None:
                aux = aux + part.aux
                loss = loss + part.aux_weight * part.aux
        parts = {"rec": recommendation, "aux": aux, **dict(zip(TASKS, per_task, strict=True))}
        return TrainingStep(
            loss=loss,
            parts={name: value.detach() for name, value in parts.items()},
            fresh={name: part.fresh for name, part in learnt.items() if part.fresh is not None},
        )
