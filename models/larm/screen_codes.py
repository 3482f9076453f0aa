"""Codes of what is on screen as a source of a ranker (LARM 2.3.2, eq. 5): the target asks what the user has watched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.batch import OnScreen, RankingBatch
from models.embeddings import IdTable
from models.layers import RMSNorm
from models.ranker import RankerConfig, TargetAttention
from models.sarm.memory_bank import MemoryBank
from models.sources import CodesRead, Encoded, Inputs, Learnt, Representations, Source

_CODE_STD = 0.2  # at unit scale, as the anchor encoder's token vectors: a code is seen all the time


@dataclass(frozen=True, kw_only=True, slots=True)
class ScreenCodesConfig:
    """Choices."""

    width: int = 32
    """D, of code vectors and of both representations."""
    valid_watch_s: float = 3.0
    """Items that were watched for no longer are passed over, as in the paper. How many items there are at most is the
    matter of `examples.history_length`: 50 in the paper."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.valid_watch_s < 0:
            raise ValueError(f"wanted width >= 1 and valid_watch_s >= 0, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScreenCodesFacts:
    """What the data tell of codes."""

    table: str
    """Which of a batch's codes are read."""
    codebook: str
    """Its version: codes of two never mix."""
    clusters: tuple[int, ...]
    """[J], codes of each level."""


class ScreenCodes(Source):
    """The target's codes, and target attention over what was on screen in the history.

    An item is W a + sum of c over the levels: a the author's id vector, the ranker's own, c a learnt vector of each
    code. The query is that of the target, keys and values those of the valid items (eq. 5). The author's representation
    is the sum of the target's code vectors, the user's is what attention reads; zeros where nothing valid was watched.

    The paper is silent on how ids and codes are put together; here they are added, as in retrieval, whose sum over
    items needs it. Codes of all levels are rows of one table, 1 + code + offset of the level. Row 0 is "nothing was
    known yet": it is learnt like the others. The table by author row is the id vectors, [N+1, id_dim].

    Example:
        >>> facts = ScreenCodesFacts(table="item_codes", codebook="v1", clusters=(4, 2))
        >>> source = ScreenCodes(ScreenCodesConfig(width=8), facts, RankerConfig())
        >>> source.rows_of(torch.tensor([[0, 0], [4, 2]])).tolist()
        [[0, 0], [4, 6]]
    """

    Config = ScreenCodesConfig
    Facts = ScreenCodesFacts

    def __init__(self, config: ScreenCodesConfig, facts: ScreenCodesFacts, ranker: RankerConfig) -> None:
        super().__init__(config, facts, ranker)
        self.config, self.facts = config, facts
        self.codes = IdTable(1 + sum(facts.clusters), config.width, _CODE_STD)
        self.identity = nn.Linear(ranker.id_dim, config.width, bias=False)
        self.attention = TargetAttention(config.width, config.width)
        # To unit scale, as SARM's representations come.
        self.author_norm, self.user_norm = RMSNorm(config.width), RMSNorm(config.width)
        offsets = torch.tensor((0, *facts.clusters)).cumsum(dim=0)[:-1]
        self.register_buffer("offsets", offsets, persistent=False)

    @classmethod
    def dims(cls, config: ScreenCodesConfig) -> tuple[int, int]:
        """Of the author and of the user."""
        return config.width, config.width

    def rows_of(self, codes: Tensor) -> Tensor:
        """Codes of a batch [..., J], 0 = none -> rows of the table [..., J]."""
        offsets = self.get_buffer("offsets")
        return torch.where(codes > 0, codes + offsets, 0)

    def seen(self, codes: Tensor) -> Tensor:
        """Codes [..., J] -> sum of their vectors [..., D]."""
        vectors: Tensor = self.codes(self.rows_of(codes))
        return vectors.sum(dim=-2)

    def read(self, batch: RankingBatch, target: Tensor, history: Tensor | None) -> Representations:
        """target [B, id_dim], history [B or 1, L, id_dim]. Raises ValueError for a batch without its table's codes."""
        assert history is not None
        codes = self._codes_of(batch)
        now = self.seen(codes.target)
        items = (self.identity(history) + self.seen(codes.history)).expand(batch.size, -1, -1)
        is_valid = batch.history_mask & (batch.history_watch_s > self.config.valid_watch_s)
        watched = self.attention(self.identity(target) + now, items, is_valid)
        return Representations(author=(self.author_norm(now),), user=(self.user_norm(watched),))

    def learn(
        self, batch: RankingBatch, inputs: Inputs, encoded: Encoded | None, bank: MemoryBank | None, ids: IdTable
    ) -> Learnt:
        """Reads the id vectors that the ranker learns."""
        return Learnt(self.read(batch, ids(batch.author), ids(batch.history)))

    def table(self, inputs: Inputs, ids: IdTable) -> Tensor:
        """The id vectors of all author rows, [N+1, id_dim]."""
        device = self.get_buffer("offsets").device
        vectors: Tensor = ids(torch.arange(ids.num_rows, device=device))
        return vectors

    def screens(self) -> dict[str, CodesRead]:
        """Its one table."""
        return {self.facts.table: CodesRead(self.facts.codebook, self.facts.clusters)}

    def of_history(self, rows: Tensor) -> Tensor:
        """All of it."""
        return rows

    def _codes_of(self, batch: RankingBatch) -> OnScreen:
        found, wanted = (batch.on_screen or {}).get(self.facts.table), len(self.facts.clusters)
        if found is None or found.target.shape[-1] != wanted:
            got = "none" if found is None else f"{found.target.shape[-1]} in each row"
            raise ValueError(f"wanted {wanted} codes of {self.facts.table} in each row of the batch, got {got}")
        return found
