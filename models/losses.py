"""Losses of the ranking objectives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def multi_task_bce(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of each task, averaged over the batch: [B, K], [B, K] -> [K] (SARM eq. 12, y log y^).

    The recommendation loss is the sum of the result. Labels whose `mask` [B, K] is 0 add nothing to it; every other
    one weighs 1 / B, however many of its task there are.

    Example:
        >>> import torch
        >>> multi_task_bce(torch.zeros(2, 4), torch.ones(2, 4))
        tensor([0.6931, 0.6931, 0.6931, 0.6931])
    """
    return F.binary_cross_entropy_with_logits(logits, labels, weight=mask, reduction="none").mean(dim=0)


def auxiliary_bce(logit: Tensor, click: Tensor, mask: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of the auxiliary click prediction: [B], [B] -> scalar (SARM eq. 14).

    Clicks whose `mask` [B] is 0 add nothing.
    """
    return F.binary_cross_entropy_with_logits(logit, click, weight=mask)
