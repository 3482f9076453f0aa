from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.ops.gates import pack


@given(st.data())
def test_a_packed_layer_says_at_its_places_what_it_says_alone(data: st.DataObject) -> None:
    width, inputs = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    order = st.permutations(range(width))
    places = [data.draw(order)[: data.draw(st.integers(1, width))] for _ in range(data.draw(st.integers(1, 4)))]
    layers = [nn.Linear(inputs, len(at)).double() for at in places]
    x = torch.randn(5, inputs, dtype=torch.float64)
    weight, bias = pack(layers, places, width)
    logits = torch.einsum("bi,pwi->pbw", x, weight) + bias.unsqueeze(1)
    for layer, at, found in zip(layers, places, logits, strict=True):
        torch.testing.assert_close(found[:, at], layer(x))
        assert found.isneginf().sum() == 5 * (width - len(at))


def test_gradients_reach_every_layer_and_stay_finite() -> None:
    layers = [nn.Linear(3, 2), nn.Linear(3, 1)]
    weight, bias = pack(layers, [[0, 2], [1]], width=3)
    chosen = torch.softmax(torch.einsum("bi,pwi->bpw", torch.randn(4, 3), weight) + bias, dim=-1)
    chosen[:, 0, 2].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for layer in layers for p in layer.parameters())
    assert layers[0].weight.grad is not None and layers[0].weight.grad.abs().sum() > 0
