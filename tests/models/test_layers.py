from __future__ import annotations

import numpy as np
import pytest
import torch

from models.layers import SelfAttention, TransformerBlock, masked_mean, masked_softmax
from tests.models import reference
from tests.models.reference import weights
from tests.models.worlds import scatter_parameters


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_and_the_block_by_the_equations(heads: int) -> None:
    """softmax(q k / sqrt(d)) v with rotary positions, in loops; norms before both branches, GELU between two layers."""
    torch.manual_seed(0)
    block = TransformerBlock(4, heads, 2)
    scatter_parameters(block)
    x, mask = torch.randn(2, 4, 4), torch.tensor([[True] * 4, [False, True, True, False]])
    attended, out = block.attention(x, mask).detach(), block(x, mask).detach()
    for row, readable in enumerate(mask.tolist()):
        given = x[row].double().numpy()
        wanted = reference.attention(given, readable, reference.part(weights(block), "attention"), heads)
        np.testing.assert_allclose(attended[row], wanted, atol=1e-5)
        np.testing.assert_allclose(
            out[row], reference.transformer_block(given, readable, weights(block), heads), atol=1e-5
        )


def test_a_new_block_is_the_identity_and_every_weight_of_its_branches_can_leave_zero() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, 2, 2)
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(block(x, mask), x)
    block(x, mask).square().sum().backward()
    for weight in (block.attention.out.weight, block.ffn.down.weight):
        assert weight.grad is not None and weight.grad.ne(0).all()


def test_padding_on_the_left_does_not_change_the_result() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 1)
    x = torch.randn(1, 3, 8)
    alone = attention(x, torch.ones(1, 3, dtype=torch.bool))
    padded = attention(torch.cat([torch.randn(1, 2, 8), x], dim=1), torch.tensor([[False] * 2 + [True] * 3]))
    torch.testing.assert_close(padded[:, 2:], alone)


def test_attention_over_no_key_is_finite_in_value_and_gradient() -> None:
    attention = SelfAttention(4, 1)
    x = torch.randn(2, 3, 4, requires_grad=True)
    attention(x, torch.zeros(2, 3, dtype=torch.bool)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_masked_mean_and_softmax_by_hand() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]]).repeat(2, 1, 1)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(x, mask).tolist() == [[2.0, 3.0], [0.0, 0.0]]
    weights = masked_softmax(torch.tensor([[0.0, 0.0, 9.0], [1.0, 2.0, 3.0]]), mask)
    assert weights.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_a_width_that_the_heads_cannot_split_is_refused() -> None:
    with pytest.raises(ValueError, match="even multiple"):
        SelfAttention(6, 2)


@pytest.mark.parametrize("heads", [1, 2])
def test_the_weights_of_attention_applied_to_the_values_give_what_it_reads(heads: int) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, heads)
    x, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True, True, True, False, False]])
    weights = attention.weights(attention.query_key(x), mask)
    assert weights.shape == (2, heads, 5, 5) and (weights[1, :, :, 3:] == 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, heads, 5))
    values = attention.value(x).view(2, 5, heads, -1).transpose(1, 2)
    read = (weights @ values).transpose(1, 2).reshape(2, 5, 8)
    torch.testing.assert_close(attention(x, mask), attention.out(read))
