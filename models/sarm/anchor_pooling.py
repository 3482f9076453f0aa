"""[CLS] as what a learnt query reads of the anchor, in place of the state of position 0 (SARM eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import RMSNorm, masked_softmax


class AnchorPooling(nn.Module):
    """Attention over the states of all tokens by one learnt query, then a norm.

    Position 0 holds the same vector in every anchor, and its state keeps it by the residual path: after an epoch of
    little data it still says next to nothing of the anchor. So the other positions are read, and position 0 only where
    an anchor has no other. The query starts at zero, which is the mean.

    Example:
        >>> states = torch.tensor([[[9.0, 0.0], [0.0, 2.0], [0.0, 4.0]]])
        >>> AnchorPooling(2)(states, torch.ones(1, 3, dtype=torch.bool)).detach()
        tensor([[0.0000, 1.4142]])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(dim))
        self.norm = RMSNorm(dim)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states [A, T, D], mask [A, T] -> h_CLS [A, D]."""
        readable = mask.clone()
        readable[:, 0] = mask.sum(dim=1) == 1
        scores = torch.matmul(states, self.query) * states.shape[-1] ** -0.5
        read = torch.bmm(masked_softmax(scores, readable).unsqueeze(1), states).squeeze(1)
        pooled: Tensor = self.norm(read)
        return pooled
