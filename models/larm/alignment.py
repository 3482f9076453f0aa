"""Gated alignment of an author's id with the vectors of what is on screen (LARM eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import FeedForward

PARTS = ("gated", "id", "content")
"""What an item is made of: both, by the gate; the id alone (a plain two-tower); the content alone. Rows of table 1."""


class GatedAlignment(nn.Module):
    """F = g * content + (1 - g) * id, with content = FFN([r, m]) and g = sigmoid(FFN([a, r, m])).

    a is the author's id vector, r the vector of the newest 30 seconds, m the mean of the author's vectors over a long
    time. g is the weight of the content, one number per item: the paper reports 0.35 on average, 0.47 with codes on the
    user's side. The paper is silent on: the width of the FFNs (2 D within); what the id part goes through (nothing, so
    that histories may share the id vectors); and lives without a vector yet (g is 0 there, so that zeros are not taken
    for content).

    Example:
        >>> fuse = GatedAlignment(dim=4, embedding_dim=6)
        >>> id, now, mean, known = torch.randn(2, 4), torch.randn(2, 6), torch.randn(2, 6), torch.tensor([True, False])
        >>> fused, gate = fuse(id, now, mean, known)
        >>> fused.shape, torch.equal(fused[1], id[1]), gate[1].item()
        (torch.Size([2, 4]), True, 0.0)
    """

    def __init__(self, dim: int, embedding_dim: int, parts: str = "gated") -> None:
        super().__init__()
        if parts not in PARTS:
            raise ValueError(f"parts: wanted one of {', '.join(PARTS)}, got {parts!r}")
        self.parts = parts
        self.content_in = nn.Linear(2 * embedding_dim, dim)
        self.content = FeedForward(dim, 2 * dim)
        self.gate_in = nn.Linear(dim + 2 * embedding_dim, dim)
        self.gate_out = nn.Linear(dim, 1)

    def forward(self, author: Tensor, now: Tensor, mean: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """a [..., D], r and m [..., E], whether there are r and m [...] bool -> F [..., D], g [...].

        r and m must be finite also where there are none.
        """
        seen = torch.cat([now, mean], dim=-1)
        content = self.content(F.gelu(self.content_in(seen)))
        if self.parts == "gated":
            hidden = F.gelu(self.gate_in(torch.cat([author, seen], dim=-1)))
            gate = torch.sigmoid(self.gate_out(hidden)).squeeze(-1) * known.to(author.dtype)
        else:
            gate = torch.full_like(author[..., 0], float(self.parts == "content"))
        return torch.lerp(author, content, gate.unsqueeze(-1)), gate
