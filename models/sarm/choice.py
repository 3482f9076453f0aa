"""What a training step computes: which of the batch's authors, and which of its histories."""

from __future__ import annotations

import torch
from torch import Tensor

from models.batch import RankingBatch


def choose_authors(authors: Tensor, counts: Tensor, written_step: Tensor, budget: int | None) -> Tensor:
    """Positions of the authors to encode, ascending: [A'] -> [min(A', budget)].

    The stalest first (never written ones before all), then those with more rows in the batch, then by row.

    Example:
        >>> authors, counts, written_step = torch.tensor([4, 6, 9]), torch.tensor([1, 1, 5]), torch.tensor([7, -1, 7])
        >>> choose_authors(authors, counts, written_step, budget=2).tolist()
        [1, 2]
    """
    if budget is None or len(authors) <= budget:
        return torch.arange(len(authors), device=authors.device)
    by_count = torch.argsort(counts, descending=True, stable=True)
    by_age = torch.argsort(written_step[by_count], stable=True)
    return by_count[by_age][:budget].sort().values


def distinct_histories(batch: RankingBatch) -> tuple[Tensor, Tensor]:
    """Rows [S] that hold every history of the batch, and which of them each row has, [B].

    Neighbours are compared, with the rows sorted by user: a history may be given twice where users share it. That is
    enough, as a request is of one user, and `torch.unique` over rows takes ten times longer.
    """
    order = torch.argsort(batch.user, stable=True)
    items = torch.where(batch.history_mask, batch.history, -1)[order]
    starts = torch.ones_like(order, dtype=torch.bool)
    starts[1:] = (items[1:] != items[:-1]).any(dim=1)
    of_row = torch.empty_like(order).index_copy_(0, order, torch.cumsum(starts, dim=0) - 1)
    return order[starts], of_row
