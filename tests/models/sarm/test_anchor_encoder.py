from __future__ import annotations

import numpy as np
import pytest
import torch

from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.anchor_tokens import AnchorTokens
from tests.models import reference
from tests.models.worlds import ROWS, TOKENS, scatter_parameters, tokens


def encoder(fusion_layers: tuple[int, ...] = (0, 1)) -> AnchorEncoder:
    torch.manual_seed(0)
    made = AnchorEncoder(ROWS, 8, 2, 2, fusion_layers)
    scatter_parameters(made)
    return made


@pytest.mark.parametrize("fusion_layers", [(), (1,), (0, 3), (0, 1, 2, 3)])
def test_four_blocks_by_the_published_equations(fusion_layers: tuple[int, ...]) -> None:
    """Eq. 3 to 6: single head, RoPE, gated fusion behind the chosen layers; [CLS] is state 0."""
    torch.manual_seed(0)
    made = AnchorEncoder(ROWS, 8, 4, 2, fusion_layers)
    scatter_parameters(made)
    base, live = tokens().tensors()
    states = made(base, live)[0].detach()
    for row, length in enumerate(tokens().lengths.tolist()):
        of_row = (base[row, :length].tolist(), live[row, :length].tolist())
        wanted = reference.semantic_anchor_encoder(*of_row, reference.weights(made), 4)
        np.testing.assert_allclose(states[row, :length], wanted, atol=1e-5)


def test_states_are_trimmed_to_the_longest_anchor() -> None:
    base, live = tokens().tensors()
    lengths = tokens().lengths
    rows = [0, int(lengths.argsort()[1])]
    states, mask = encoder()(base[rows], live[rows])
    assert states.shape == (2, lengths[rows[1]], 8) and lengths[rows[1]] < TOKENS
    assert mask.sum(dim=1).tolist() == [1, lengths[rows[1]]]


def test_cls_reads_every_token_and_its_order() -> None:
    base, live = torch.tensor([[1, 5, 6, 7]]), torch.zeros(1, 4, dtype=torch.int64)
    cls = encoder()(base, live)[0][:, 0]
    for changed in ([[1, 5, 6, 8]], [[1, 6, 5, 7]]):
        assert not torch.allclose(encoder()(torch.tensor(changed), live)[0][:, 0], cls, atol=1e-4)


def test_gates_are_given_for_the_fused_layers_and_are_zero_without_a_live_token() -> None:
    base, live = tokens().tensors()
    gates = encoder((1,)).gates(base, live)
    assert list(gates) == [1]
    assert torch.equal(gates[1] > 0, live[:, : gates[1].shape[1]] > 0)


def test_an_empty_anchor_is_cls_alone() -> None:
    states, mask = encoder()(*AnchorTokens.empty(3).tensors())
    assert states.shape == (3, 1, 8) and mask.all()
    assert torch.equal(states[0], states[2])
