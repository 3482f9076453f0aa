"""[TAR], the identity-aware author representation (SARM eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import masked_mean, masked_softmax

# A mean over T states of unit rms has an rms of about T ** -0.5; this brings [TAR] back to that of [CLS].
_VALUE_GAIN = 5.0


class AuthorIdentity(nn.Module):
    """Cross-attention with the author's id vector as the query, all SAE states as keys and values.

    W_K is applied to the query and W_V to the result: the same numbers as mapping every state, T times cheaper.

    Example:
        >>> states, mask = torch.randn(2, 3, 8), torch.tensor([[True, True, True], [True, True, False]])
        >>> AuthorIdentity(id_dim=4, dim=8)(torch.randn(2, 4), states, mask).shape
        torch.Size([2, 8])
    """

    def __init__(self, id_dim: int, dim: int) -> None:
        super().__init__()
        # The bias lets an author without a learnt id (vector zero) still ask a question.
        self.query = nn.Linear(id_dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        nn.init.orthogonal_(self.value.weight, gain=_VALUE_GAIN)

    def attention(self, identity: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """identity [A, id_dim], states [A, T, D], mask [A, T] -> weights [A, T] that sum to 1."""
        query = torch.matmul(self.query(identity), self.key.weight)  # [A, D]: q W_K, so that (q W_K) h = q (W_K h)
        scores = torch.bmm(states, query.unsqueeze(-1)).squeeze(-1) * states.shape[-1] ** -0.5
        return masked_softmax(scores, mask)

    def forward(self, identity: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """-> h_TAR [A, D]."""
        read = torch.bmm(self.attention(identity, states, mask).unsqueeze(1), states).squeeze(1)
        tar: Tensor = self.value(read)
        return tar


class AuthorMean(nn.Module):
    """The mean of all SAE states in the place of [TAR], blind to who the author is (SARM Table 2).

    Example:
        >>> states, mask = torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]])
        >>> AuthorMean()(torch.randn(1, 4), states, mask)
        tensor([[3.]])
    """

    def attention(self, identity: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """identity and states (not read), mask [A, T] -> equal weights [A, T] of the real tokens, which sum to 1."""
        return mask.to(states.dtype) / mask.sum(dim=-1, keepdim=True).clamp(min=1)

    def forward(self, identity: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """identity [A, id_dim] (not read), states [A, T, D], mask [A, T] -> [A, D]."""
        return masked_mean(states, mask)
