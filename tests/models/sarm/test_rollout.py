from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.composed import ComposedRanker
from models.sarm.anchor_encoder import AnchorEncoder
from models.sarm.rollout import attention_maps, rollout, token_importance
from tests.models.worlds import NUM_AUTHORS, ROWS, SARM_CONFIG, sarm, scatter_parameters, tokens

ALL = torch.arange(NUM_AUTHORS + 1)


def importance_in(model: ComposedRanker, rows: Tensor, base: Tensor, live: Tensor) -> Tensor:
    """Of the source "sarm", whose author vectors are the ranker's."""
    return token_importance(model.source("sarm"), model.ranker.authors, rows, base, live)


def test_two_layers_by_hand() -> None:
    first = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]])
    second = torch.tensor([[[0.0, 1.0], [0.8, 0.2]]])
    # 0.5 A + 0.5 I: second [[0.5, 0.5], [0.4, 0.6]], first [[0.75, 0.25], [0, 1]];
    # their product [[0.375, 0.625], [0.3, 0.7]]; a reader with weights (0.6, 0.4) takes (0.345, 0.655).
    weights = rollout(torch.tensor([[0.6, 0.4]]), [first, second])
    torch.testing.assert_close(weights, torch.tensor([[0.345, 0.655]]))


def test_without_a_block_the_tokens_are_what_is_read() -> None:
    weights = torch.tensor([[0.6, 0.4]])
    assert torch.equal(rollout(weights, []), weights)


def test_the_maps_are_those_that_the_blocks_apply() -> None:
    torch.manual_seed(0)
    encoder = AnchorEncoder(ROWS, 8, 2, 2, (1,))
    scatter_parameters(encoder)
    base, live = tokens().tensors()
    maps, states, mask = attention_maps(encoder, base, live)
    assert len(maps) == 2 and torch.equal(states, encoder(base, live)[0])
    x = encoder.tokens(base[:, : mask.shape[1]])
    first = encoder.blocks[0]
    normed = first.attention_norm(x)
    mixed = first.attention.out(maps[0] @ first.attention.value(normed))
    torch.testing.assert_close(first(x, mask), x + mixed + first.ffn(first.ffn_norm(x + mixed)))
    assert all((part.masked_select(~mask[:, None, :]) == 0).all() for part in maps)


def test_importance_is_the_product_of_the_maps_below_the_attention_of_tar() -> None:
    model, (base, live) = sarm(), tokens().tensors()
    source = model.source("sarm")
    maps, states, mask = attention_maps(source.encoder, base, live)
    weights = source.identity.attention(model.ranker.authors(ALL), states, mask)
    eye = torch.eye(mask.shape[1])
    wanted = (weights[:, None] @ (0.5 * maps[1] + 0.5 * eye) @ (0.5 * maps[0] + 0.5 * eye))[:, 0]
    torch.testing.assert_close(importance_in(model, ALL, base, live), wanted)


@pytest.mark.parametrize("tar", ["attention", "mean"])
def test_importance_sums_to_one_over_the_real_tokens(tar: str) -> None:
    model, (base, live) = sarm(replace(SARM_CONFIG, tar=tar)), tokens().tensors()
    importance = importance_in(model, ALL, base, live)
    torch.testing.assert_close(importance.sum(dim=1), torch.ones(len(ALL)))
    real = base[:, : importance.shape[1]] != 0
    assert (importance[real] > 0).all() and (importance[~real] == 0).all()


def test_an_anchor_has_the_same_importance_alone_and_beside_longer_ones() -> None:
    model, (base, live) = sarm(), tokens().tensors()
    together = importance_in(model, ALL, base, live)
    for row, length in enumerate(tokens().lengths):
        one = slice(row, row + 1)
        alone = importance_in(model, ALL[one], base[one], live[one])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=1e-5)


def test_two_authors_with_one_anchor_read_it_differently() -> None:
    model, (base, live) = sarm(), tokens().tensors()
    same = base[3:4].expand(2, -1), live[3:4].expand(2, -1)
    first, second = importance_in(model, torch.tensor([3, 4]), *same)
    assert not torch.allclose(first, second, atol=1e-4)


def test_the_encoder_is_left_as_it_was() -> None:
    model, (base, live) = sarm(), tokens().tensors()
    importance_in(model, ALL, base, live)
    assert not any(layer._forward_hooks for layer in model.modules())
