"""What a user watched: whom, and what was on screen just then (LARM eq. 5, as the retrieval tower reads it)."""

from __future__ import annotations

from torch import Tensor, nn

from models.embeddings import IdTable
from models.layers import RMSNorm


class WatchedSum(nn.Module):
    """Sum over the history of author vector + vectors of the codes that were on screen at the click.

    A target attention needs the target, which a user tower must not know, so the paper sums (2.3.2, footnote). It is
    silent on scale: the sum of 50 items is long, so it is brought to unit scale (RMSNorm). Codes of all levels are rows
    of one table, 1 + code + offset of the level; 0 = no code was known then. Where the model has no codes (`num_codes`
    0) histories are authors alone.

    Example:
        >>> import torch
        >>> watched, mask = WatchedSum(dim=4, num_codes=7), torch.tensor([[False, True, True]])
        >>> watched(torch.randn(1, 3, 4), mask, torch.tensor([[[0, 0], [1, 5], [2, 6]]])).shape
        torch.Size([1, 4])
    """

    def __init__(self, dim: int, num_codes: int, init_std: float = 0.05) -> None:
        """Args: `num_codes` rows of the code table, row 0 included; 0 = no codes."""
        super().__init__()
        self.codes = IdTable(num_codes, dim, init_std) if num_codes else None
        self.norm = RMSNorm(dim)

    def forward(self, authors: Tensor, mask: Tensor, codes: Tensor | None) -> Tensor:
        """authors [B, H, D], mask [B, H] True at items, codes [B, H, L] int64 -> [B, D]; zeros for no history.

        Raises ValueError for codes that are missing, or that the model was not built for.
        """
        if (codes is None) != (self.codes is None):
            raise ValueError(
                f"codes of the history: got {'none' if codes is None else 'some'}, and the model was built for "
                f"{'none' if self.codes is None else f'{self.codes.num_rows} rows of them'}"
            )
        items = authors
        if self.codes is not None and codes is not None:
            items = items + self.codes(codes).sum(dim=-2)
        watched: Tensor = self.norm((items * mask.unsqueeze(-1)).sum(dim=-2))
        return watched
