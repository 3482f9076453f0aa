"""The base ranker: ids, profile, context, target attention over the history, feature crossing, HoME."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models import TASK_CATEGORIES
from models.artifacts.checkpoint import SavedModel
from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.embeddings import IdTable, log2_bucket
from models.home import HoME, HoMEConfig, check_tasks
from models.layers import masked_softmax

_HOURS = 24
# Scales at the start. Id vectors (init_std) start small, because most are seen seldom; a profile value is seen all the
# time and may speak at once. Encoder outputs come at unit scale and would drown the ids unscaled.
_PROFILE_STD, _PROFILE_TO_USER_STD = 0.2, 0.3
_EXTRA_SCALE, _EXTRA_TO_ID_STD = 0.1, 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class RankerConfig:
    """Tasks and sizes of the base ranker."""

    id_dim: int = 32
    """Width of user and author id vectors."""
    profile_dim: int = 8
    """Width of each profile column's vectors."""
    category_dim: int = 16
    """Width of author category vectors."""
    hour_dim: int = 8
    """Width of hour-of-day vectors."""
    age_buckets: int = 24
    """log2 buckets of the age of a history item in seconds; 24 reach half a year."""
    watch_buckets: int = 16
    """log2 buckets of the seconds watched; 16 reach nine hours."""
    cross_layers: int = 2
    """Low-rank cross layers (DCN-V2)."""
    cross_rank: int = 32
    """Rank of the cross layers."""
    init_std: float = 0.05
    """Standard deviation of id and bucket vectors at the start."""
    home: HoMEConfig = field(default_factory=HoMEConfig)
    """The multi-task head."""
    tasks: Mapping[str, str] = field(default_factory=lambda: dict(TASK_CATEGORIES))
    """Task, called like its label column -> its category in HoME, of any name; tasks of one category share experts.

    Scores come in this order. Where one task stands for all, as when an epoch is chosen, it is the first."""
    auxiliary_task: str = "click"
    """The task that auxiliary losses of sources predict, one of `tasks`."""

    extra_author_dim: int = 0
    """Width of author representations added from outside ([CLS], [TAR]); 0 is the ranker without anchors."""
    extra_user_dim: int = 0
    """Width of user representations added from outside ([UIN])."""

    def __post_init__(self) -> None:
        check_tasks(self.tasks)
        if self.auxiliary_task not in self.tasks:
            raise ValueError(f"auxiliary_task: wanted one of {', '.join(self.tasks)}, got {self.auxiliary_task}")
        dims = (self.id_dim, self.profile_dim, self.category_dim, self.hour_dim, self.cross_rank)
        if min(*dims, self.age_buckets, self.watch_buckets) < 1:
            raise ValueError(f"widths, ranks and buckets of RankerConfig must be >= 1, got {self}")
        if min(self.cross_layers, self.extra_author_dim, self.extra_user_dim) < 0 or self.init_std < 0.0:
            raise ValueError(f"cross_layers, extra widths and init_std must be >= 0, got {self}")

    @property
    def extra_dim(self) -> int:
        """Width of all that is added from outside."""
        return self.extra_author_dim + self.extra_user_dim


class TargetAttention(nn.Module):
    """Attention of the target author over the history (in the manner of DIN).

    Items are [B, L, D]; keys and values are linear maps of them, applied on the side of the query and of the result,
    which is the same by associativity and L times cheaper.

    Example:
        >>> attention = TargetAttention(query_dim=6, item_dim=4)
        >>> items, mask = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
        >>> attention(torch.randn(2, 6), items, mask).shape
        torch.Size([2, 4])
    """

    def __init__(self, query_dim: int, item_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_dim, item_dim)
        self.value = nn.Linear(item_dim, item_dim, bias=False)

    def forward(self, target: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        """target [B, query_dim], items [B, L, D], mask [B, L] -> [B, D]; zeros where the history is empty."""
        scores = torch.matmul(items, self.query(target).unsqueeze(-1)).squeeze(-1) * items.shape[-1] ** -0.5
        read = torch.bmm(masked_softmax(scores, mask).unsqueeze(1), items).squeeze(1)
        interest: Tensor = self.value(read)
        return interest


class CrossLayer(nn.Module):
    """Low-rank cross layer of DCN-V2: x0 (.) (U V x + b) + x, all [B, F].

    Example:
        >>> x0 = torch.randn(2, 8)
        >>> CrossLayer(dim=8, rank=3)(x0, x0).shape
        torch.Size([2, 8])
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, rank, bias=False)
        self.up = nn.Linear(rank, dim)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """One more degree of interaction with x0."""
        crossed: Tensor = x0 * self.up(self.down(x)) + x
        return crossed


class Affinity(nn.Module):
    """User and author vectors for their product: ids, plus what is known of either beyond its id.

    The product is where an id-free signal reaches a cold author: profile x anchor needs no history of the pair.

    Example:
        >>> config = RankerConfig(id_dim=8, extra_author_dim=4)
        >>> user, author, profile, extra = (torch.randn(2, width) for width in (8, 8, 6, 4))
        >>> user, author = Affinity(config, profile_dim=6)(user, author, profile, extra)
        >>> (user * author).shape
        torch.Size([2, 8])
    """

    def __init__(self, config: RankerConfig, profile_dim: int) -> None:
        super().__init__()
        self._split = [config.extra_author_dim, config.extra_user_dim]
        self.profile = nn.Linear(profile_dim, config.id_dim, bias=False)
        self.author = nn.Linear(config.extra_author_dim, config.id_dim, bias=False) if self._split[0] else None
        self.user = nn.Linear(config.extra_user_dim, config.id_dim, bias=False) if self._split[1] else None
        nn.init.normal_(self.profile.weight, std=_PROFILE_TO_USER_STD)
        for layer in (self.author, self.user):
            if layer is not None:
                nn.init.normal_(layer.weight, std=_EXTRA_TO_ID_STD)

    def forward(self, user: Tensor, author: Tensor, profile: Tensor, extra: Tensor | None) -> tuple[Tensor, Tensor]:
        """user, author [B, id_dim], profile [B, P'], extra [B, extra_dim] -> both vectors, enriched."""
        user = user + self.profile(profile)
        if extra is not None:
            author_extra, user_extra = torch.split(extra, self._split, dim=-1)
            author = author if self.author is None else author + self.author(author_extra)
            user = user if self.user is None else user + self.user(user_extra)
        return user, author


class Ranker(SavedModel):
    """Base ranker. `forward(batch, extra)` gives logits [B, K]; with `extra_dim` 0 it is the anchor-free Base.

    Example:
        >>> import numpy as np
        >>> from models.batch import collate
        >>> from models.catalog import Catalog
        >>> catalog = Catalog.build(user_ids=[7], user_profile=[[0, 1]], author_ids=[30, 20], author_category=[0, 1])
        >>> rows = {"user_id": [7, 7], "author_id": [20, 30], "ts_ms": [0, 0], "history_author_ids": [[-1, 30]] * 2}
        >>> rows |= {"history_age_s": [[0.0, 60.0]] * 2, "history_watch_s": [[0.0, 9.0]] * 2}
        >>> batch = collate({name: np.array(column) for name, column in rows.items()}, catalog)
        >>> Ranker(RankerConfig(), catalog.sizes)(batch).shape
        torch.Size([2, 4])
    """

    version = 1
    parts = {"config": RankerConfig, "sizes": CatalogSizes}

    def __init__(self, config: RankerConfig, sizes: CatalogSizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        std, dim = config.init_std, config.id_dim
        self.users = IdTable(sizes.num_users + 1, dim, std, sharded=True)
        self.authors = IdTable(sizes.num_authors + 1, dim, std, sharded=True)
        self.target = nn.Identity()  # passes on the target's author vector, for who wants to put another in its place
        self.profile = nn.ModuleList(
            IdTable(values, config.profile_dim, _PROFILE_STD) for values in sizes.profile_cardinalities
        )
        self.categories = IdTable(sizes.num_categories, config.category_dim, std)
        self.hours = IdTable(_HOURS, config.hour_dim, std)
        self.ages = IdTable(config.age_buckets, dim, std)
        self.watches = IdTable(config.watch_buckets, dim, std)
        self.target_attention = TargetAttention(dim + config.category_dim, dim)
        context = len(sizes.profile_cardinalities) * config.profile_dim + config.category_dim + config.hour_dim
        fields = 3 * dim + context
        self.cross = nn.ModuleList(CrossLayer(fields, config.cross_rank) for _ in range(config.cross_layers))
        self.affinity = Affinity(config, len(sizes.profile_cardinalities) * config.profile_dim)
        self.extra_scale = nn.Parameter(torch.full((config.extra_dim,), _EXTRA_SCALE)) if config.extra_dim else None
        self.home = HoME(config.extra_dim + fields + 2 * dim, config.home, config.tasks)
        self.factorisation = nn.Linear(2 * dim, len(config.tasks), bias=False)
        nn.init.ones_(self.factorisation.weight)

    def rank_features(self, batch: RankingBatch, extra: Tensor | None = None) -> Tensor:
        """h_rank of eq. 11: crossed fields and the products user x author, interest x author. [B, R]."""
        user, category = self.users(batch.user), self.categories(batch.author_category)
        # One read of the table, because each finds out which rows it has and takes its gradient apart.
        authors = self.authors(torch.cat([batch.author.unsqueeze(1), batch.history], dim=1))
        author = self.target(authors[:, 0])
        items = (
            authors[:, 1:]
            + self.ages(log2_bucket(batch.history_age_s, self.config.age_buckets))
            + self.watches(log2_bucket(batch.history_watch_s, self.config.watch_buckets))
        )
        interest = self.target_attention(torch.cat([author, category], dim=-1), items, batch.history_mask)
        profile = [table(batch.user_profile[:, index]) for index, table in enumerate(self.profile)]
        x0 = torch.cat([user, author, interest, *profile, category, self.hours(batch.hour)], dim=-1)
        crossed = x0
        for layer in self.cross:
            crossed = layer(x0, crossed)
        user, author = self.affinity(user, author, torch.cat(profile, dim=-1), extra)
        return torch.cat([crossed, user * author, interest * author], dim=-1)

    def forward(self, batch: RankingBatch, extra: Tensor | None = None) -> Tensor:
        """`extra` [B, extra_dim], authors' part first, goes before all else into HoME, and into the products.

        The products also reach the logits directly, as inner products: a factorisation machine beside HoME, which would
        first have to learn to sum them. Raises ValueError if its width is not extra_dim.
        """
        given = 0 if extra is None else extra.shape[-1]
        if given != self.config.extra_dim:
            raise ValueError(f"extra has width {given}, the ranker was built for extra_dim={self.config.extra_dim}")
        if extra is not None and self.extra_scale is not None:
            extra = extra * self.extra_scale
        features = self.rank_features(batch, extra)
        deep = self.home(features if extra is None else torch.cat([extra, features], dim=-1))
        logits: Tensor = deep + self.factorisation(features[:, -self.factorisation.in_features :])
        return logits
