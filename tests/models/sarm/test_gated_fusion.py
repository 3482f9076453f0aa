from __future__ import annotations

import math

import torch

from models.sarm.gated_fusion import GatedFusion


def fusion() -> GatedFusion:
    made = GatedFusion(2)
    with torch.no_grad():
        made.key.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        made.value.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    return made


def test_the_published_equations_by_hand() -> None:
    state, live = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.5, 2.0]]])
    fused, alpha = fusion()(state, live, torch.tensor([[True]]))
    # k = (1, 2); RMSNorm divides by the root of the mean square: sqrt(12.5) for h, sqrt(2.5) for k.
    match = (3.0 * 1.0 + 4.0 * 2.0) / math.sqrt(12.5) / math.sqrt(2.5) / math.sqrt(2.0)
    gate = 1.0 / (1.0 + math.exp(-match))
    torch.testing.assert_close(alpha, torch.tensor([[gate]]))
    torch.testing.assert_close(fused, torch.tensor([[[3.0 + gate * 2.0, 4.0 + gate * 0.5]]]))


def test_without_a_live_token_the_gate_is_zero_and_the_state_stays() -> None:
    state, live = torch.randn(1, 3, 2), torch.randn(1, 3, 2)
    fused, alpha = fusion()(state, live, torch.tensor([[True, False, True]]))
    assert alpha[0, 1] == 0.0 and torch.equal(fused[0, 1], state[0, 1])
    assert not torch.equal(fused[0, 0], state[0, 0])
