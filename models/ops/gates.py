"""The gates of a layer as one linear layer: fewer and larger operations, on every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def pack(layers: Sequence[nn.Linear], places: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
    """Linear layers of I inputs as one, whose outputs stand at `places` among `width` -> [P, width, I], [P, width].

    The other outputs are minus infinity, so that a softmax, or a sigmoid, gives them no weight.

    Example:
        >>> weight, bias = pack([nn.Linear(3, 2), nn.Linear(3, 1)], [[0, 2], [1]], width=3)
        >>> torch.softmax(torch.einsum("i,pwi->pw", torch.randn(3), weight) + bias, dim=-1)[1]
        tensor([0., 1., 0.], grad_fn=<SelectBackward0>)
    """
    first = layers[0].weight
    weight = torch.cat([*(layer.weight for layer in layers), first.new_zeros(1, first.shape[1])])
    bias = torch.cat([*(layer.bias for layer in layers), first.new_full((1,), -torch.inf)])
    rows = torch.tensor(_rows(places, width, other=len(bias) - 1), device=first.device)
    shape = (len(places), width)
    return weight.index_select(0, rows).view(*shape, -1), bias.index_select(0, rows).view(shape)


def _rows(places: Sequence[Sequence[int]], width: int, other: int) -> list[int]:
    """Which output, of all layers one after another, stands where."""
    rows, start = [], 0
    for of_layer in places:
        at = {place: start + index for index, place in enumerate(of_layer)}
        rows += [at.get(place, other) for place in range(width)]
        start += len(of_layer)
    return rows
