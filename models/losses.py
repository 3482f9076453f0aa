"""Losses of the ranking objectives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def multi_task_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each task, averaged over the batch: [B, K], [B, K] -> [K] (SARM eq. 12, y log y^).

    The recommendation loss is the sum of the result.

    Example:
        >>> import torch
        >>> multi_task_bce(torch.zeros(2, 4), torch.ones(2, 4))
        tensor([0.6931, 0.6931, 0.6931, 0.6931])
    """
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=0)


def auxiliary_bce(logit: Tensor, click: Tensor) -> Tensor:
    """Binary cross-entropy of the auxiliary click prediction: [B], [B] -> scalar (SARM eq. 14)."""
    return F.binary_cross_entropy_with_logits(logit, click)
