"""Token rows of anchors: what the tokenizer gives and the encoder reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAD_ROW = 0
"""Base row of padding."""
CLS_ROW = 1
"""Base row of [CLS], always at position 0."""
NO_LIVE_ROW = 0
"""Live row of a position that no merge covers."""

RowArray = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRows:
    """Sizes of the two token tables of the encoder."""

    num_base_rows: int
    """Rows for base tokens: padding, [CLS], hashed buckets, ids seen in the corpus."""
    num_live_rows: int
    """Rows for live-streaming tokens; row 0 means none."""

    def __post_init__(self) -> None:
        if self.num_base_rows <= CLS_ROW or self.num_live_rows < 1:
            raise ValueError(
                f"wanted at least 2 base rows and 1 live row, got {self}; take LiveStreamingTokenizer.rows"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnchorTokens:
    """Tokens of N anchors. Position i of `live` is the merged token that covers base token i.

    Example:
        >>> base, live = np.array([[1, 7, 9], [1, 5, 0]], np.int32), np.array([[0, 3, 3], [0, 0, 0]], np.int32)
        >>> tokens = AnchorTokens(base=base, live=live)
        >>> tokens.lengths.tolist()
        [3, 2]
        >>> tokens.scatter(np.array([2, 1]), num_rows=4).base.tolist()
        [[1, 0, 0], [1, 5, 0], [1, 7, 9], [1, 0, 0]]
    """

    base: RowArray
    """[N, T] int32 rows of base tokens; [CLS] first, PAD_ROW behind the end."""
    live: RowArray
    """[N, T] int32 rows of live tokens; NO_LIVE_ROW at [CLS], at padding and where no merge covers the position."""
    num_truncated: int = 0
    """Anchors that were longer than the tokenizer's max_tokens and lost their tail."""

    def __post_init__(self) -> None:
        if self.base.ndim != 2 or self.base.shape != self.live.shape or self.base.shape[1] < 1:
            raise ValueError(f"base and live must be [N, T] with T >= 1, got {self.base.shape} and {self.live.shape}")

    @classmethod
    def empty(cls, num_anchors: int) -> AnchorTokens:
        """Anchors without text: [CLS] alone, T = 1."""
        return cls(
            base=np.full((num_anchors, 1), CLS_ROW, dtype=np.int32),
            live=np.full((num_anchors, 1), NO_LIVE_ROW, dtype=np.int32),
        )

    def __len__(self) -> int:
        """N."""
        return len(self.base)

    @property
    def lengths(self) -> RowArray:
        """[N] int32, tokens of each anchor, [CLS] included."""
        lengths: RowArray = (self.base != PAD_ROW).sum(axis=1).astype(np.int32)
        return lengths

    def select(self, rows: npt.NDArray[Any] | slice) -> AnchorTokens:
        """The anchors at `rows`, with the same T."""
        return AnchorTokens(base=self.base[rows], live=self.live[rows], num_truncated=self.num_truncated)

    def scatter(self, rows: npt.NDArray[np.int64], num_rows: int) -> AnchorTokens:
        """Place anchor i at `rows[i]` of a table of `num_rows` anchors; all other rows are empty anchors.

        With rows from `Catalog.author_rows` and num_rows = N + 1 this makes the table that SARM trains on.
        Raises ValueError for rows outside the table or given twice.
        """
        if len(rows) != len(self) or len(np.unique(rows)) != len(rows):
            raise ValueError(
                f"wanted {len(self)} different rows, got {len(rows)} with {len(np.unique(rows))} different"
            )
        if len(rows) and (rows.min() < 0 or rows.max() >= num_rows):
            raise ValueError(f"rows {rows.min()}..{rows.max()} are outside a table of {num_rows} rows")
        base = np.full((num_rows, self.base.shape[1]), PAD_ROW, dtype=np.int32)
        base[:, 0] = CLS_ROW
        live = np.full_like(base, NO_LIVE_ROW)
        base[rows], live[rows] = self.base, self.live
        return AnchorTokens(base=base, live=live, num_truncated=self.num_truncated)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(base, live) as int64 tensors [N, T]."""
        return torch.from_numpy(self.base.astype(np.int64)), torch.from_numpy(self.live.astype(np.int64))
