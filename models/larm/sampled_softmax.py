"""The objective of retrieval (LARM eq. 2): each user's item among those of the whole batch, corrected for how often an
item is in one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sampled_softmax(
    users: Tensor, items: Tensor, keys: Tensor, log_q: Tensor, temperature: float, first: int = 0
) -> Tensor:
    """-log softmax of each user's own item over all items, averaged over the users: a scalar.

    Args: users [b, D]; items [B, D], of which user i has item first + i; keys [B] int64, what counts as the same item;
    log_q [B], the logarithm of an item's probability to be in a batch; `temperature` that dot products are divided by.

    The paper says "contrastive objective" alone. Decided: logits are s / temperature - log q, of the own item too (Yi
    et al. 2019), as an author in every batch would otherwise be pushed away by all users; and a column with the key of
    the own item is no negative.

    One worker passes its own items, and first = 0. Several workers gather items, keys and log_q, with gradients, and
    `first` is where a worker's own begin: the mean of their losses is the loss of one worker with all rows, and so are
    the gradients if gathering sums them over the workers and the workers' gradients are averaged.

    Example:
        >>> users, items = torch.eye(2), torch.eye(2)
        >>> round(sampled_softmax(users, items, torch.tensor([5, 6]), torch.zeros(2), temperature=1.0).item(), 4)
        0.3133
    """
    own = torch.arange(first, first + len(users), device=users.device)
    logits = users @ items.T / temperature - log_q
    same = keys[own, None] == keys[None]
    same[torch.arange(len(users), device=users.device), own] = False
    return F.cross_entropy(logits.masked_fill(same, -torch.inf), own)


def log_probability(counts: Tensor) -> Tensor:
    """Of an item to be drawn, from how often each was: [N] -> [N]; one that never was counts as once.

    Example:
        >>> log_probability(torch.tensor([0, 1, 3])).exp().tolist()
        [0.25, 0.25, 0.75]
    """
    return torch.log(counts.clamp(min=1) / counts.sum().clamp(min=1))


def log_rate(counts: Tensor, times: Tensor) -> Tensor:
    """Of an item to be drawn while it is there, from how often each was and for how long it was: [N], [N] -> [N].

    For batches of clicks that are close in time: an author who is on air seldom is in few of them, but no less often
    while on air. One draw at the mean rate is added to each, so that those who are seldom there have a likely one.

    Example:
        >>> log_rate(torch.tensor([1, 3, 0]), torch.tensor([10, 30, 40])).exp().mul(100).round().tolist()
        [41.0, 49.0, 10.0]
    """
    mean = times.sum().clamp(min=1) / counts.sum().clamp(min=1)
    rates = (counts + 1) / (times + mean)
    return torch.log(rates / rates.sum())
