"""[UIN], the aggregated user interest (SARM eq. 9, 10)."""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import RMSNorm, TransformerBlock, masked_mean
from models.ops.packing import Distinct, Places


class UserInterest(nn.Module):
    """Transformer over the bank vectors of the authors in the history, then their mean.

    An empty history gives zeros.

    Example:
        >>> import torch
        >>> history, mask = torch.randn(2, 3, 8), torch.tensor([[False, True, True], [False, False, False]])
        >>> interest = UserInterest(dim=8, num_layers=1, num_heads=2, ffn_mult=2)(history, mask)
        >>> interest.shape, interest[1].any().item()
        (torch.Size([2, 8]), False)
    """

    def __init__(self, dim: int, num_layers: int, num_heads: int, ffn_mult: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, num_heads, ffn_mult) for _ in range(num_layers))
        self.norm = RMSNorm(dim)

    def forward(self, history: Tensor, mask: Tensor) -> Tensor:
        """history [B, L, D], mask [B, L] -> h_UIN [B, D]."""
        for block in self.blocks:
            history = block(history, mask)
        return masked_mean(self.norm(history), mask)

    def packed(self, vectors: Tensor, distinct: Distinct, mask: Tensor) -> Tensor:
        """What `forward` gives for S different histories: on a CPU packed, in less time (see models/ops/packing.py).

        `vectors` [R, D] of the different authors, `distinct` says which of them stand where, mask [S, L] -> [S, D].
        """
        if not vectors.is_cpu:
            return self.forward(distinct.spread(vectors), mask)
        places, states = Places(mask), vectors
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, TransformerBlock)
            states = block.packed(states, places, distinct if layer == 0 else None)
        return masked_mean(places.pad(self.norm(states)), mask)
