"""Semantic Anchor Encoder, SAE (SARM eq. 5, 6): a light BERT-style encoder with gated fusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.embeddings import IdTable
from models.layers import RMSNorm, TransformerBlock
from models.ops.packing import Distinct, Places
from models.sarm.anchor_tokens import NO_LIVE_ROW, PAD_ROW, TokenRows
from models.sarm.gated_fusion import GatedFusion

_INIT_STD = 0.2  # of token vectors: normalised at once, so this only sets how far one optimizer step turns them


class AnchorEncoder(nn.Module):
    """Anchor tokens -> states. Pre-norm blocks with single-head attention and RoPE; [CLS] is position 0.

    Example:
        >>> rows = TokenRows(num_base_rows=20, num_live_rows=6)
        >>> encoder = AnchorEncoder(rows, dim=8, num_layers=2, ffn_mult=2, fusion_layers=(0, 1))
        >>> base, live = torch.tensor([[1, 7, 9, 0], [1, 5, 0, 0]]), torch.tensor([[0, 3, 3, 0], [0, 0, 0, 0]])
        >>> states, mask = encoder(base, live)
        >>> states.shape, mask.tolist()
        (torch.Size([2, 3, 8]), [[True, True, True], [True, True, False]])
    """

    def __init__(
        self, rows: TokenRows, dim: int, num_layers: int, ffn_mult: int, fusion_layers: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.tokens = IdTable(rows.num_base_rows, dim, _INIT_STD)
        self.live_tokens = IdTable(rows.num_live_rows, dim, _INIT_STD)
        self.blocks = nn.ModuleList(TransformerBlock(dim, 1, ffn_mult) for _ in range(num_layers))
        self.fusions = nn.ModuleDict({str(layer): GatedFusion(dim) for layer in fusion_layers})
        self.norm = RMSNorm(dim)

    def forward(self, base: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """base, live [A, T] rows (0 = padding, no live token) -> (states [A, T', D], mask [A, T']).

        T' is the longest anchor among the A; the states of [CLS] (eq. 6) are `states[:, 0]`.
        """
        states, mask, _ = self._encode(base, live)
        return states, mask

    def packed(self, base: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, with zeros at padding: on a CPU packed, in less time (see models/ops/packing.py)."""
        if not base.is_cpu:
            states, mask = self.forward(base, live)
            return states.masked_fill(~mask.unsqueeze(-1), 0.0), mask
        base, live = _trimmed(base, live)
        places, tokens, live_tokens = Places(base != PAD_ROW), Distinct(base), Distinct(live)
        covered = live_tokens.pack(live_tokens.ids != NO_LIVE_ROW, places)
        states, of_live = self.tokens(tokens.ids), self.live_tokens(live_tokens.ids)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, TransformerBlock)
            states = block.packed(states, places, tokens if layer == 0 else None)
            if str(layer) in self.fusions:
                fusion = self.fusions[str(layer)]
                assert isinstance(fusion, GatedFusion)
                keys, values = (live_tokens.pack(rows, places) for rows in fusion.project(of_live))
                states, _ = fusion.mix(states, keys, values, covered)
        return places.pad(self.norm(states)), places.mask

    @torch.no_grad()
    def gates(self, base: Tensor, live: Tensor) -> dict[int, Tensor]:
        """The gates alpha [A, T'] of every layer that has a fusion, for analysis."""
        return self._encode(base, live)[2]

    def _encode(self, base: Tensor, live: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        base, live = _trimmed(base, live)
        mask, covered = base != PAD_ROW, live != NO_LIVE_ROW
        states = self.tokens(base)
        live_vectors = self.live_tokens(live) if len(self.fusions) else states
        alphas: dict[int, Tensor] = {}
        for layer, block in enumerate(self.blocks):
            states = block(states, mask)
            if str(layer) in self.fusions:
                states, alphas[layer] = self.fusions[str(layer)](states, live_vectors, covered)
        return self.norm(states), mask, alphas


def _trimmed(base: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Both [A, T] -> [A, T'] without the columns where all anchors are padding."""
    longest = int((base != PAD_ROW).sum(dim=1).max())
    return base[:, :longest], live[:, :longest]
