"""Two-stage rankers (SARM appendix A.1): content features that were made beforehand and stay fixed in training.

They are what SARM is compared with: the base ranker plus tags, semantic ids, or frozen MLLM embeddings of the target
author (in the manner of MMBee) or of the authors in the history (in the manner of SIM).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.artifacts.checkpoint import SavedModel
from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.embeddings import IdTable
from models.layers import RMSNorm, masked_mean, masked_softmax
from models.ranker import Ranker, RankerConfig

READS = ("codes", "target", "history")
"""Learnt vectors of the target's codes, its frozen embedding, or the frozen embeddings of the history."""

_CODE_STD = 0.2  # as the anchor encoder's token vectors, and for the same reason
_SEARCH_TEMPERATURE = 0.1  # of the soft search over cosines


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStageConfig:
    """Sizes and choices of a two-stage ranker."""

    reads: str = "codes"
    """One of READS."""
    num_codes: int = 1
    """Rows of the code table, row 0 (none) included; of no use to the others."""
    embedding_dim: int = 1
    """E, of the frozen embeddings; of no use to codes."""
    width: int = 64
    """D, of what reaches the ranker."""
    ranker: RankerConfig = field(default_factory=RankerConfig)
    """The base ranker; its extra widths must be left at 0."""

    def __post_init__(self) -> None:
        if self.reads not in READS:
            raise ValueError(f"reads: wanted one of {', '.join(READS)}, got {self.reads!r}")
        if min(self.num_codes, self.embedding_dim, self.width) < 1:
            raise ValueError(f"widths and rows of TwoStageConfig must be >= 1, got {self}")
        if self.ranker.extra_dim:
            raise ValueError(f"the ranker's extra widths are set here; leave them at 0, got {self.ranker}")


class TwoStageRanker(SavedModel):
    """The base ranker and one fixed content feature. ``forward(batch, content)`` gives logits [B, K].

    ``content`` is a table by author row: codes [N+1, J] int64 (0 = none), or embeddings [N+1, E] float32 (a row of
    zeros = none). It is an input, because it moves forward day by day, and never a parameter.
    """

    version = 1
    parts = {"config": TwoStageConfig, "sizes": CatalogSizes}

    def __init__(self, config: TwoStageConfig, sizes: CatalogSizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        of_user = config.reads == "history"
        ranker = replace(
            config.ranker, extra_author_dim=config.width * (not of_user), extra_user_dim=config.width * of_user
        )
        self.ranker = Ranker(ranker, sizes)
        if config.reads == "codes":
            self.codes = IdTable(config.num_codes, config.width, _CODE_STD)
        else:
            self.project = nn.Linear(config.embedding_dim, config.width, bias=False)
        # The ranker expects extras at unit scale, as SARM's come.
        self.norm = RMSNorm(config.width)

    def forward(self, batch: RankingBatch, content: Tensor) -> Tensor:
        """Raises ValueError where the content has not one row per author row."""
        if len(content) != self.sizes.num_authors + 1:
            raise ValueError(f"wanted content of {self.sizes.num_authors + 1} author rows, got {tuple(content.shape)}")
        read = {"codes": self._codes, "target": self._target, "history": self._history}[self.config.reads]
        logits: Tensor = self.ranker(batch, self.norm(read(content, batch)))
        return logits

    def _codes(self, content: Tensor, batch: RankingBatch) -> Tensor:
        """The mean of the vectors of the target's codes, [B, D]; zeros where it has none."""
        codes = content[batch.author]
        return masked_mean(self.codes(codes), codes != 0)

    def _target(self, content: Tensor, batch: RankingBatch) -> Tensor:
        """The target's embedding, projected, [B, D]."""
        projected: Tensor = self.project(content[batch.author])
        return projected

    def _history(self, content: Tensor, batch: RankingBatch) -> Tensor:
        """Soft search: embeddings of the history [B, L, E], weighted by their cosine to the target's, [B, D]."""
        target, items = (F.normalize(content[rows], dim=-1) for rows in (batch.author, batch.history))
        cosine = torch.bmm(items, target.unsqueeze(-1)).squeeze(-1)
        weights = masked_softmax(cosine / _SEARCH_TEMPERATURE, batch.history_mask)
        found: Tensor = self.project(torch.bmm(weights.unsqueeze(1), items).squeeze(1))
        return found
