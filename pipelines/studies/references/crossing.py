"""DCN-V2 (arXiv 2008.13535) over what Base reads beside the order of the history: one small network per task."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from models.batch import RankingBatch, collate
from models.catalog import CatalogSizes
from models.embeddings import IdTable
from models.layers import masked_mean
from models.losses import multi_task_bce
from models.optimizer import RankerOptimizer
from models.ranker import CrossLayer, RankerConfig
from pipelines.samples.batches import Batches, num_batches, read_examples, shuffled_requests, take
from pipelines.studies.references.reference import Material, Ranked

_HOURS, _HIDDEN, _SCORED_TOGETHER = 24, 64, 4096
_PROFILE_STD = 0.2  # as in Base: a profile value is seen all the time and may speak at once


class CrossNetwork(nn.Module):
    """Vectors of ids, profile, category, hour and the mean of the history -> cross layers beside one layer -> logit."""

    def __init__(self, config: RankerConfig, sizes: CatalogSizes) -> None:
        super().__init__()
        dim, std = config.id_dim, config.init_std
        self.users, self.authors = IdTable(sizes.num_users + 1, dim, std), IdTable(sizes.num_authors + 1, dim, std)
        self.profile = nn.ModuleList(IdTable(n, config.profile_dim, _PROFILE_STD) for n in sizes.profile_cardinalities)
        self.categories = IdTable(sizes.num_categories, config.category_dim, std)
        self.hours = IdTable(_HOURS, config.hour_dim, std)
        width = 3 * dim + len(self.profile) * config.profile_dim + config.category_dim + config.hour_dim
        self.cross = nn.ModuleList(CrossLayer(width, config.cross_rank) for _ in range(config.cross_layers))
        self.deep = nn.Sequential(nn.Linear(width, _HIDDEN), nn.ReLU())
        self.logit = nn.Linear(width + _HIDDEN, 1)

    def forward(self, batch: RankingBatch) -> Tensor:
        """Logits [B]."""
        profile = [table(batch.user_profile[:, index]) for index, table in enumerate(self.profile)]
        history = masked_mean(self.authors(batch.history), batch.history_mask)
        known = [self.users(batch.user), self.authors(batch.author), history, *profile]
        x0 = crossed = torch.cat([*known, self.categories(batch.author_category), self.hours(batch.hour)], dim=-1)
        for layer in self.cross:
            crossed = layer(x0, crossed)
        logit: Tensor = self.logit(torch.cat([crossed, self.deep(x0)], dim=-1)).squeeze(-1)
        return logit


def rank(given: Material) -> Ranked:
    """Trained as the reference variant is: its epochs, order, batches, widths and learning rates."""
    torch.set_num_threads(1)
    torch.manual_seed(given.settings.seed)
    train = given.train
    # Networks of different tasks share nothing: one pass over the batches trains them all.
    networks = nn.ModuleList(CrossNetwork(train.ranker, given.catalog.sizes) for _ in given.tasks)
    rates = {"lr_ids": train.lr_ids, "lr_encoder": train.lr_encoder, "lr_dense": train.lr_dense}
    optimizer = RankerOptimizer(networks, **rates, l2_ids=train.l2_ids)
    rows = [given.storage.dataset("examples", day).count_rows() for day in given.days]
    steps, step = train.epochs * sum(num_batches(count, train.batch_size) for count in rows), 0
    for epoch in range(train.epochs):
        for batch in _batches(given, epoch):
            optimizer.scale(1.0 - (1.0 - train.end_rate) * step / steps)
            optimizer.zero_grad()
            logits = torch.stack([network(batch) for network in networks], dim=1)
            torch.autograd.backward(multi_task_bce(logits, batch.labels).sum())
            optimizer.step()
            step += 1
    optimizer.settle()
    return Ranked(scores=dict(zip(given.tasks, _scores(networks.eval(), given), strict=True)))


def _batches(given: Material, epoch: int) -> Iterator[RankingBatch]:
    """The training days in order; where the variant shuffles, each day's requests in an order of this epoch."""
    train = given.train
    for number, day in enumerate(given.days):
        columns = read_examples(given.storage, day)
        rng = np.random.default_rng([given.settings.seed, epoch, number])
        count = num_batches(len(columns["user_id"]), train.batch_size)
        order = shuffled_requests(columns, count, train.encode_window, rng) if train.shuffle else None
        yield from Batches(columns, given.catalog, count, order, given.tasks)


@torch.no_grad()
def _scores(networks: nn.ModuleList, given: Material) -> np.ndarray:
    """Logits [K, n] of the day."""
    parts = []
    for start in range(0, len(given.columns["user_id"]), _SCORED_TOGETHER):
        batch = collate(take(given.columns, slice(start, start + _SCORED_TOGETHER)), given.catalog)
        parts.append(torch.stack([network(batch) for network in networks]))
    return torch.cat(parts, dim=1).numpy()


ROWS = {"dcn": rank}
"""By the name of the reference row."""
