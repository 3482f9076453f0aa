"""The retrieval model (LARM 2.2, 2.3.2): a user's vector and a live's, as of a moment, whose product is the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.artifacts.checkpoint import SavedModel
from models.catalog import CatalogSizes
from models.embeddings import IdTable
from models.group import Alone, Group
from models.larm.alignment import PARTS, GatedAlignment
from models.larm.sampled_softmax import sampled_softmax
from models.larm.shared_negatives import shared
from models.larm.user_history import WatchedSum

_SHORT = 1e-6
"""Squared length below which a vector counts as none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoTowerConfig:
    """Choices of the retrieval model."""

    dim: int = 64
    """D, of both towers' vectors; 256 in the paper."""
    profile_dim: int = 8
    """Of each profile column."""
    hidden: int = 128
    """Of the user tower."""
    parts: str = "gated"
    """What an item is made of: gated, id, or content."""
    temperature: float = 0.1
    """That cosines are divided by."""
    init_std: float = 0.05
    """Of id tables."""

    def __post_init__(self) -> None:
        if min(self.dim, self.profile_dim, self.hidden) < 1 or self.init_std < 0 or self.temperature <= 0:
            raise ValueError(f"widths must be >= 1, init_std >= 0 and temperature > 0, got {self}")
        if self.parts not in PARTS:
            raise ValueError(f"parts: wanted one of {', '.join(PARTS)}, got {self.parts!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoTowerFacts:
    """What the data tell of lives."""

    embedding_dim: int
    """E, of segment embeddings."""
    num_codes: int = 0
    """Rows of the code table, row 0 (none) included; 0 = histories without codes."""


class Lives(NamedTuple):
    """Lives as of a moment each."""

    author: Tensor
    """[B] int64, rows of authors, 0 = unknown."""
    now: Tensor
    """[B, E] float32, vector of the newest segment that was known; zeros where there was none."""
    mean: Tensor
    """[B, E] float32, mean of the author's vectors that were known."""
    known: Tensor
    """[B] bool, whether there were any."""

    def to(self, device: torch.device | str) -> Lives:
        """The same lives on another device."""
        return Lives._make(of.to(device) for of in self)


class Viewers(NamedTuple):
    """Users as of a moment each; rows and masks as in `RankingBatch`."""

    user: Tensor
    """[B] int64, 0 = unknown."""
    profile: Tensor
    """[B, P] int64."""
    history: Tensor
    """[B, H] int64, rows of authors, newest last."""
    history_mask: Tensor
    """[B, H] bool."""
    history_codes: Tensor | None = None
    """[B, H, L] int64, rows of the code table: what was on screen at each click; None = a model without codes."""

    def to(self, device: torch.device | str) -> Viewers:
        """The same users on another device."""
        return Viewers._make(None if of is None else of.to(device) for of in self)


class TwoTower(SavedModel):
    """Vectors of length 1. Item side: the gated alignment. User side: FFN over [id, profile, what was watched].

    The paper is silent on the user tower and on lengths: vectors are brought to length 1, so that a search by inner
    product is one by angle, and the id vectors of authors are those of the history. Codes are made of `lives`' vectors
    (eq. 3), the very ones that retrieval compares: `ResidualQuantizer`.

    Example:
        >>> sizes = CatalogSizes(num_users=5, num_authors=9, profile_cardinalities=(3, 4), num_categories=1)
        >>> model = TwoTower(TwoTowerConfig(dim=8), TwoTowerFacts(embedding_dim=6), sizes)
        >>> lives = Lives(torch.tensor([1, 2]), torch.randn(2, 6), torch.randn(2, 6), torch.tensor([True, True]))
        >>> viewers = Viewers(torch.tensor([1]), torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[0, 4]]),
        ...                   torch.tensor([[False, True]]))
        >>> (model.viewers(viewers) @ model.lives(lives)[0].T).shape
        torch.Size([1, 2])
    """

    version = 1
    parts = {"config": TwoTowerConfig, "facts": TwoTowerFacts, "sizes": CatalogSizes}
    center: Tensor
    axes: Tensor

    def __init__(self, config: TwoTowerConfig, facts: TwoTowerFacts, sizes: CatalogSizes) -> None:
        super().__init__()
        self.config, self.facts, self.sizes = config, facts, sizes
        dim, std = config.dim, config.init_std
        self.users = IdTable(sizes.num_users + 1, dim, std)
        self.authors = IdTable(sizes.num_authors + 1, dim, std)
        self.profile = nn.ModuleList(IdTable(of, config.profile_dim, std) for of in sizes.profile_cardinalities)
        self.watched = WatchedSum(dim, facts.num_codes, std)
        self.alignment = GatedAlignment(dim, facts.embedding_dim, config.parts)
        self.register_buffer("center", torch.zeros(facts.embedding_dim))
        self.register_buffer("axes", torch.eye(facts.embedding_dim))
        fields = 2 * dim + len(sizes.profile_cardinalities) * config.profile_dim
        self.up, self.down = nn.Linear(fields, config.hidden), nn.Linear(config.hidden, dim)

    def read_by(self, center: Tensor, axes: Tensor) -> None:
        """Segment embeddings x are read as (x - center) axes from now on: [E], [E, E]; see models/whitening.py.

        Those of a frozen model share one large mean, beside which an FFN is slow to find what tells them apart.
        """
        self.center.copy_(center)
        self.axes.copy_(axes)

    def lives(self, lives: Lives) -> tuple[Tensor, Tensor]:
        """Vectors [B, D] of length 1, zeros for who is not known at all, and the weight of the content in each, [B]."""
        is_known = lives.known.unsqueeze(-1)
        now, mean = (((of - self.center) * is_known) @ self.axes for of in (lives.now, lives.mean))
        fused, gate = self.alignment(self.authors(lives.author), now, mean, lives.known)
        return _unit(fused), gate

    def viewers(self, viewers: Viewers) -> Tensor:
        """Vectors [B, D] of length 1."""
        watched = self.watched(self.authors(viewers.history), viewers.history_mask, viewers.history_codes)
        profile = [table(viewers.profile[:, column]) for column, table in enumerate(self.profile)]
        user = torch.cat([self.users(viewers.user), watched, *profile], dim=-1)
        return _unit(self.down(F.gelu(self.up(user))))

    def loss(self, viewers: Viewers, lives: Lives, log_q: Tensor, group: Group | None = None) -> tuple[Tensor, Tensor]:
        """Eq. 2 of clicks, row by row a viewer and the live that was clicked: loss, gates [B].

        Args: log_q [B], see `sampled_softmax`, by author; the `group` of workers that share their lives as negatives:
        the mean of their losses is then the loss of one worker with the rows of all, whoever has how many.
        """
        items, gate = self.lives(lives)
        among = shared(items, lives.author, log_q, group or Alone())
        loss = sampled_softmax(
            self.viewers(viewers), among.items, among.keys, among.log_q, self.config.temperature, among.first
        )
        return loss * among.share, gate


def _unit(vectors: Tensor) -> Tensor:
    """To length 1. Near zero the gradient stays bounded, as it would not by the length alone."""
    return vectors * torch.rsqrt(vectors.square().sum(dim=-1, keepdim=True) + _SHORT)
