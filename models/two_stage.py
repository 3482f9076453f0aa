"""Two-stage sources (SARM appendix A.1): content features that were made beforehand and stay fixed in training.

They are what SARM is compared with: tags, semantic ids, or frozen MLLM embeddings of the target author (in the manner
of MMBee) or of the authors in the history (in the manner of SIM). Tables move forward in time and are no parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import RankingBatch
from models.embeddings import IdTable
from models.layers import RMSNorm, masked_mean, masked_softmax
from models.quantize import ResidualConfig
from models.ranker import RankerConfig
from models.sources import Representations, Source

_CODE_STD = 0.2  # as the anchor encoder's token vectors, and for the same reason
_SEARCH_TEMPERATURE = 0.1  # of the soft search over cosines


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStageConfig:
    """Choices of a two-stage source."""

    width: int = 64
    """D, of what reaches the ranker."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be >= 1, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SemanticIdsConfig(TwoStageConfig):
    """Choices of semantic ids."""

    codes: ResidualConfig = field(default_factory=ResidualConfig)
    """How embeddings become codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeFacts:
    """What the data tell of codes."""

    num_codes: int
    """Rows of the code table, row 0 (none) included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingFacts:
    """What the data tell of embeddings."""

    embedding_dim: int
    """E."""


class Codes(Source):
    """Learnt vectors of the target's codes. The table is [N+1, J] int64, 0 = none.

    Example:
        >>> codes = Codes(TwoStageConfig(width=4), CodeFacts(num_codes=3), RankerConfig())
        >>> codes.mean(torch.tensor([[1, 2], [2, 0]])).shape
        torch.Size([2, 4])
    """

    Config = TwoStageConfig
    Facts = CodeFacts

    def __init__(self, config: TwoStageConfig, facts: CodeFacts, ranker: RankerConfig) -> None:
        super().__init__(config, facts, ranker)
        self.codes = IdTable(facts.num_codes, config.width, _CODE_STD)
        # The ranker expects extras at unit scale, as SARM's come.
        self.norm = RMSNorm(config.width)

    @classmethod
    def dims(cls, config: TwoStageConfig) -> tuple[int, int]:
        """Of the author alone."""
        return config.width, 0

    def check_table(self, table: npt.NDArray[Any]) -> None:
        """[n, J] int64, of codes that there are."""
        num_codes = len(self.codes.weight)
        if table.ndim != 2 or table.dtype != np.int64 or not ((table >= 0) & (table < num_codes)).all():
            raise ValueError(f"wanted [n, J] int64 codes below {num_codes}, got {table.shape} {table.dtype}")

    def mean(self, codes: Tensor) -> Tensor:
        """codes [B, J] -> the mean of the vectors of those that are there, [B, D]; zeros where none is."""
        return masked_mean(self.codes(codes), codes != 0)

    def read(self, batch: RankingBatch, target: Tensor, history: Tensor | None) -> Representations:
        """target [B, J]."""
        return Representations(author=(self.norm(self.mean(target)),))


class SemanticIds(Codes):
    """Codes that residual k-means makes of frozen embeddings (LARM)."""

    Config = SemanticIdsConfig


class _Embedding(Source):
    """A frozen embedding, projected. The table is [N+1, E] float32, a row of zeros = none."""

    Config = TwoStageConfig
    Facts = EmbeddingFacts

    def __init__(self, config: TwoStageConfig, facts: EmbeddingFacts, ranker: RankerConfig) -> None:
        super().__init__(config, facts, ranker)
        self.project = nn.Linear(facts.embedding_dim, config.width, bias=False)
        self.norm = RMSNorm(config.width)

    def check_table(self, table: npt.NDArray[Any]) -> None:
        """[n, E] float32."""
        wanted = (self.project.in_features,)
        if table.shape[1:] != wanted or table.dtype != np.float32:
            raise ValueError(f"wanted rows of {wanted} float32, got {table.shape[1:]} {table.dtype}")

    def vectors(self, rows: Any) -> dict[str, Any]:
        """The embedding."""
        return {"embedding": rows}


class TargetEmbedding(_Embedding):
    """The target's frozen embedding, projected.

    Example:
        >>> source = TargetEmbedding(TwoStageConfig(width=4), EmbeddingFacts(embedding_dim=6), RankerConfig())
        >>> source.dims(TwoStageConfig(width=4)), source.project(torch.randn(2, 6)).shape
        ((4, 0), torch.Size([2, 4]))
    """

    @classmethod
    def dims(cls, config: TwoStageConfig) -> tuple[int, int]:
        """Of the author alone."""
        return config.width, 0

    def read(self, batch: RankingBatch, target: Tensor, history: Tensor | None) -> Representations:
        """target [B, E]."""
        return Representations(author=(self.norm(self.project(target)),))


class HistoryEmbeddings(_Embedding):
    """Soft search: frozen embeddings of the history, weighted by their cosine to the target's.

    Example:
        >>> source = HistoryEmbeddings(TwoStageConfig(width=4), EmbeddingFacts(embedding_dim=6), RankerConfig())
        >>> source.dims(TwoStageConfig(width=4))
        (0, 4)
    """

    @classmethod
    def dims(cls, config: TwoStageConfig) -> tuple[int, int]:
        """Of the user alone."""
        return 0, config.width

    def of_history(self, rows: Tensor) -> Tensor:
        """All of it."""
        return rows

    def search(self, batch: RankingBatch, target: Tensor, history: Tensor) -> Tensor:
        """target [B, E], history [B or 1, L, E] -> what is like the target, [B, D]; zeros without history."""
        target, items = F.normalize(target, dim=-1), F.normalize(history, dim=-1).expand(batch.size, -1, -1)
        cosine = torch.bmm(items, target.unsqueeze(-1)).squeeze(-1)
        weights = masked_softmax(cosine / _SEARCH_TEMPERATURE, batch.history_mask)
        projected: Tensor = self.project(torch.bmm(weights.unsqueeze(1), items).squeeze(1))
        return projected

    def read(self, batch: RankingBatch, target: Tensor, history: Tensor | None) -> Representations:
        """target [B, E], history [B or 1, L, E]."""
        assert history is not None
        return Representations(user=(self.norm(self.search(batch, target, history)),))
