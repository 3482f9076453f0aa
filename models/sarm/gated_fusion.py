"""Gated fusion of live-streaming tokens into the states of the base tokens (SARM eq. 3, 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import RMSNorm
from models.ops.rms_norm import NORM_EPS


class GatedFusion(nn.Module):
    """h'_i = h_i + alpha_i W_V e'_i, with alpha_i = sigmoid(RMSNorm(h_i) . RMSNorm(W_K e'_i) / sqrt(d)).

    Example:
        >>> states, live, covered = torch.randn(1, 2, 8), torch.randn(1, 2, 8), torch.tensor([[False, True]])
        >>> fused, alpha = GatedFusion(dim=8)(states, live, covered)
        >>> torch.equal(fused[0, 0], states[0, 0]), torch.equal(fused[0, 1], states[0, 1])
        (True, False)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        nn.init.orthogonal_(self.value.weight)  # a live token enters at its own length
        self.state_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)

    def forward(self, states: Tensor, live: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
        """states h [A, T, D], live-token vectors e' [A, T, D], covered [A, T] bool -> (h' [A, T, D], alpha [A, T]).

        Where no live token covers the position the gate is 0, and the state passes unchanged.
        """
        return self.mix(states, *self.project(live), covered)

    def project(self, live: Tensor) -> tuple[Tensor, Tensor]:
        """e' [..., D] -> keys, with the weights of both norms, and values, [..., D]: all that depends on e' alone."""
        return self.key_norm(self.key(live)) * self.state_norm.weight, self.value(live)

    def mix(self, states: Tensor, keys: Tensor, values: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, from projected live tokens [..., D]."""
        dim = states.shape[-1]
        # h . k / rms(h) is RMSNorm(h) . k without RMSNorm(h) in memory.
        mean_square = torch.linalg.vecdot(states, states) / dim + NORM_EPS
        match = torch.linalg.vecdot(states, keys) * torch.rsqrt(dim * mean_square)
        alpha = torch.sigmoid(match) * covered.to(states.dtype)
        return torch.addcmul(states, alpha.unsqueeze(-1), values), alpha
