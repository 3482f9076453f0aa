"""One training step of SARM: which authors are encoded, what the rest reads, the loss (eq. 12 to 15)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import TASKS
from models.batch import RankingBatch
from models.losses import auxiliary_bce, multi_task_bce
from models.ops.packing import Distinct
from models.sarm.choice import choose_authors, distinct_histories
from models.sarm.memory_bank import MemoryBank
from models.sarm.model import SARM


class TrainingStep(NamedTuple):
    """What a step gives back to the loop."""

    loss: Tensor
    """Scalar to call backward on."""
    parts: dict[str, Tensor]
    """Detached scalars: rec, aux and each task by its name."""
    rows: Tensor
    """[A] int64, the authors that were encoded, ascending."""
    vectors: Tensor
    """[A, 2, D] detached, for ``MemoryBank.write``."""


class TrainingSARM(nn.Module):
    """The training step as one ``forward``, for DistributedDataParallel to wrap: every parameter takes part.

    ``base`` and ``live`` [N+1, T] are the tokens of all author rows; plain tensors, neither saved nor broadcast.
    The step reads the bank and never writes it: the loop does, with the rows of every worker.
    """

    def __init__(self, sarm: SARM, base: Tensor, live: Tensor) -> None:
        super().__init__()
        wanted = sarm.sizes.num_authors + 1
        if base.shape != live.shape or len(base) != wanted:
            raise ValueError(f"wanted tokens of {wanted} author rows, got {tuple(base.shape)} and {tuple(live.shape)}")
        self.sarm = sarm
        self.base, self.live = base, live

    def forward(self, batch: RankingBatch, bank: MemoryBank) -> TrainingStep:
        """Encode the chosen authors with gradient, read the others and all histories from the bank, and score."""
        authors, of_row, counts = torch.unique(batch.author, return_inverse=True, return_counts=True)
        chosen = choose_authors(authors, counts, bank.written_step[authors], self.sarm.config.encode_budget)
        rows = authors[chosen]
        cls, tar = self.sarm.encode_authors(rows, self.base[rows], self.live[rows])
        fresh = torch.stack([cls, tar], dim=1)
        vectors = bank.read(authors).index_copy(0, chosen, fresh)
        # An embedding lookup, because its gradient is deterministic and fast where plain indexing's is not.
        of_target = F.embedding(of_row, vectors.flatten(1)).view(batch.size, 2, -1)
        target_cls, target_tar = of_target.unbind(dim=1)
        output = self.sarm.rank(batch, target_cls, target_tar, self._user_interest(batch, bank))
        per_task = multi_task_bce(output.logits, batch.labels)
        aux = auxiliary_bce(output.aux_logit, batch.labels[:, TASKS.index("click")])
        recommendation = per_task.sum()
        parts = {"rec": recommendation, "aux": aux, **dict(zip(TASKS, per_task, strict=True))}
        return TrainingStep(
            loss=recommendation + self.sarm.config.aux_weight * aux,
            parts={name: value.detach() for name, value in parts.items()},
            rows=rows,
            vectors=fresh.detach(),
        )

    def _user_interest(self, batch: RankingBatch, bank: MemoryBank) -> Tensor | None:
        if "uin" not in self.sarm.config.representations:
            return None
        # Impressions of one request share their history, and [UIN] depends on nothing else: compute each one once.
        first, of_row = distinct_histories(batch)
        authors = Distinct(batch.history[first])
        vectors = bank.read_part(authors.ids, self.sarm.history_part)
        return F.embedding(of_row, self.sarm.interest.packed(vectors, authors, batch.history_mask[first]))
