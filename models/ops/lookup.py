"""Rows of small tables."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def look_up(table: Tensor, rows: Tensor) -> Tensor:
    """table [N, D], rows [...] int64 -> [..., D]."""
    if not table.is_cpu:
        return look_up_reference(table, rows)
    # The gradient of an embedding counts all rows of a table for every use of one; this one's adds row after row.
    return table.index_select(0, rows.reshape(-1)).view(*rows.shape, table.shape[1])


def look_up_reference(table: Tensor, rows: Tensor) -> Tensor:
    """The same as an embedding, whose gradient is deterministic on GPUs."""
    return F.embedding(rows, table)
