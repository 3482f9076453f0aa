"""Scoring of requests: many candidates for one user, whose part is computed once.

The same numbers as `ComposedRanker.score`, up to rounding, from weights that are taken over once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from models.batch import RankingBatch
from models.composed import ComposedRanker
from models.embeddings import IdTable, log2_bucket
from models.fused_home import FusedHoME
from models.layers import masked_softmax
from models.ranker import CrossLayer, Ranker

_ROWS_TOGETHER = 256


class RequestRows(NamedTuple):
    """The candidates of one request."""

    batch: RankingBatch
    """[C] rows of one user, one time and one history."""
    targets: Mapping[str, Tensor]
    """By source: table rows [C, ...] of the candidates."""
    histories: Mapping[str, Tensor | None]
    """By source: [1, L, ...], what it reads of the history; None where it reads nothing."""


class Scorer:
    """Probabilities of a ranker in evaluation mode. Make it anew from a model that has changed.

    Example:
        >>> from models.batch import collate
        >>> from models.catalog import Catalog
        >>> from models.ranker import RankerConfig
        >>> import numpy as np
        >>> catalog = Catalog.build(user_ids=[7], user_profile=[[0, 1]], author_ids=[30, 20], author_category=[0, 1])
        >>> rows = {"user_id": [7, 7], "author_id": [20, 30], "ts_ms": [0, 0], "history_author_ids": [[-1, 30]] * 2}
        >>> rows |= {"history_age_s": [[0.0, 60.0]] * 2, "history_watch_s": [[0.0, 9.0]] * 2}
        >>> batch = collate({name: np.array(column) for name, column in rows.items()}, catalog)
        >>> model = ComposedRanker(RankerConfig(), catalog.sizes).eval()
        >>> (scores,) = Scorer(model).score([RequestRows(batch, {}, {})])
        >>> torch.allclose(scores, model.score(batch, {}, {}), atol=1e-6)
        True
    """

    def __init__(self, model: ComposedRanker) -> None:
        """Raises ValueError in training mode."""
        self._model, self._features = model, _Features(model.ranker)
        self._home = FusedHoME(model.ranker.home)
        self._factors = model.ranker.factorisation.weight.detach().T.contiguous()

    @torch.inference_mode()
    def score(self, requests: Sequence[RequestRows]) -> list[Tensor]:
        """Probabilities [C, K] of each request, from one pass over all of their candidates."""
        features = [self._of(*request) for request in requests]
        together = features[0] if len(features) == 1 else torch.cat(features)
        # By so many rows that what lies between stays in a core's own cache.
        scores = [self._scored(rows) for rows in torch.split(together, _ROWS_TOGETHER)]
        return list(torch.split(torch.cat(scores), [len(part) for part in features]))

    def _scored(self, features: Tensor) -> Tensor:
        direct = features[:, -len(self._factors) :]
        return torch.sigmoid(torch.addmm(self._home(features), direct, self._factors))

    def _of(self, batch: RankingBatch, targets: Mapping[str, Tensor], histories: Mapping[str, Tensor | None]) -> Tensor:
        """What HoME reads, [C, F]."""
        read = self._model.read(batch, targets, histories)
        said = [part for each in read for part in each.author] + [part for each in read for part in each.user]
        if not said:
            return torch.cat(self._features(batch, None), dim=-1)
        scale = cast(Tensor, self._model.ranker.extra_scale)
        extra = torch.cat(said, dim=-1).mul_(scale)
        return torch.cat([extra, *self._features(batch, extra)], dim=-1)


class _Features:
    """`Ranker.rank_features` of the rows of one request."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        attention = ranker.target_attention
        scale = ranker.config.id_dim**-0.5
        self._query = (attention.query.weight.detach().T * scale).contiguous()
        self._query_bias = attention.query.bias.detach() * scale
        self._profile = [cast(IdTable, table) for table in ranker.profile]
        self._cross = [cast(CrossLayer, layer) for layer in ranker.cross]

    def __call__(self, batch: RankingBatch, extra: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Crossed fields, user x author and interest x author, one after another along the last dimension."""
        ranker, once = self._ranker, batch.slice(slice(1))
        author, category = ranker.target(ranker.authors(batch.author)), ranker.categories(batch.author_category)
        interest = self._interest(once, torch.cat([author, category], dim=-1))
        user, profile = ranker.users(once.user), self._profile_of(once)
        same = [part.expand(batch.size, -1) for part in (user, profile, ranker.hours(once.hour))]
        x0 = torch.cat([same[0], author, interest, same[1], category, same[2]], dim=-1)
        crossed = x0
        for layer in self._cross:
            crossed = torch.addcmul(crossed, x0, layer.up(layer.down(crossed)))
        user, author = ranker.affinity(user, author, profile, extra)
        return crossed, user * author, interest * author

    def _profile_of(self, once: RankingBatch) -> Tensor:
        return torch.cat([table(once.user_profile[:, index]) for index, table in enumerate(self._profile)], dim=-1)

    def _interest(self, once: RankingBatch, target: Tensor) -> Tensor:
        """Target attention over the one history, whose items are made once: target [C, .] -> [C, D]."""
        ranker, config = self._ranker, self._ranker.config
        items = ranker.authors(once.history[0])
        items = items + ranker.ages(log2_bucket(once.history_age_s[0], config.age_buckets))
        items += ranker.watches(log2_bucket(once.history_watch_s[0], config.watch_buckets))
        query = torch.addmm(self._query_bias, target, self._query)
        weights = masked_softmax(torch.mm(query, items.T), once.history_mask)
        interest: Tensor = ranker.target_attention.value(torch.mm(weights, items))
        return interest
