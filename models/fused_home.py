"""HoME for scoring: the same numbers in a third of the time, from weights that are packed once.

Everything that is linear in one input becomes one matrix product, the normalisations of the experts are folded into
their weights, and nothing is looked up by name. It learns nothing: make it anew from a HoME that has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.home import SHARED, Experts, FeatureGates, HoME, meta_groups
from models.ops.gates import pack


class FusedHoME:
    """What a HoME in evaluation mode computes, features [B, input_dim] -> logits [B, K].

    Example:
        >>> from models.home import HoMEConfig
        >>> home = HoME(input_dim=10, config=HoMEConfig(input_width=8, expert_dim=4), tasks={"click": "inter"}).eval()
        >>> features = torch.randn(5, 10)
        >>> torch.allclose(FusedHoME(home)(features), home(features), atol=1e-6)
        True
    """

    def __init__(self, home: HoME) -> None:
        """Raises ValueError in training mode."""
        if home.training:
            raise ValueError("FusedHoME wants home.eval(): in training mode a batch would change the scores")
        with torch.no_grad():
            self._meta = _Meta(home)
            self._task = _Task(home)

    @torch.inference_mode()
    def __call__(self, features: Tensor) -> Tensor:
        """Logits; the probability is their sigmoid."""
        return self._task(self._meta(features))


class _Meta:
    """Projection and first layer: features [B, input_dim] -> z [B, P, D], P the groups."""

    def __init__(self, home: HoME) -> None:
        layer = home.meta
        self._groups = len(layer.visible)
        self._project, self._project_bias = home.project.weight.T.contiguous(), home.project.bias
        self._gated = _GatedExperts(layer.feature_gates, layer.experts)
        gates = [cast(nn.Linear, each) for each in (*layer.gates.values(), *layer.self_gates.values())]
        weight, bias = pack(gates, layer._places, self._gated.num_experts)
        down = layer.feature_gates.down.transpose(0, 1).flatten(1)
        mix = layer.feature_gates.mix.transpose(0, 1).flatten(1)
        # Of v: what the feature gates read, then the logits of the gates.
        self._weight = torch.cat([down, mix, weight.flatten(0, 1).T], dim=1).contiguous()
        self._bias = torch.cat([bias.new_zeros(down.shape[1] + mix.shape[1]), bias.flatten()])
        self._split = [down.shape[1], mix.shape[1], bias.numel()]
        self._per_group = layer.experts.num_experts

    def __call__(self, features: Tensor) -> Tensor:
        v = torch.addmm(self._project_bias, features, self._project)
        low, mix, logits = torch.split(torch.addmm(self._bias, v, self._weight), self._split, dim=1)
        experts = self._gated(v, low, mix)
        if self._per_group > 1:
            gates, own = _softmax(logits, 2 * self._groups).chunk(2, dim=1)
        else:
            gates, own = logits.chunk(2, dim=1)
            gates, own = _softmax(gates, self._groups), torch.sigmoid(own.reshape(len(own), self._groups, -1))
        return torch.bmm(gates + own, experts)


class _Task:
    """Second layer and towers: z [B, P, D] -> logits [B, K]."""

    def __init__(self, home: HoME) -> None:
        layer = home.task
        tasks, names = layer.tasks, meta_groups(layer.tasks)
        read = [names.index(tasks.get(group, group)) for group in layer.groups]
        self._inputs = torch.tensor(read)
        self._gated = _GatedExperts(layer.feature_gates, layer.experts)
        gates = [cast(nn.Linear, each) for each in layer.gates.values()]
        weight, bias = pack(gates, layer._places, self._gated.num_experts)
        by_task = [(names.index(category), names.index(SHARED)) for category in tasks.values()]
        blocks = [
            _placed(layer.feature_gates.down, [(place,) for place in read], len(names)),
            _placed(layer.feature_gates.mix, [(place,) for place in read], len(names)),
            _placed(weight.mT, by_task, len(names)),
        ]
        # Of all groups of z one after another: what the feature gates read, then the logits of the gates.
        self._weight = torch.cat(blocks, dim=1).contiguous()
        self._bias = torch.cat([bias.new_zeros(blocks[0].shape[1] + blocks[1].shape[1]), bias.flatten()])
        self._split, self._tasks = [block.shape[1] for block in blocks], len(tasks)
        towers = [cast(nn.Sequential, tower) for tower in layer.towers.values()]
        self._first, self._first_bias = _stacked([tower[0] for tower in towers])
        self._last, self._last_bias = _stacked([tower[2] for tower in towers])

    def __call__(self, z: Tensor) -> Tensor:
        low, mix, logits = torch.split(torch.addmm(self._bias, z.flatten(1), self._weight), self._split, dim=1)
        experts = self._gated(z.transpose(0, 1).index_select(0, self._inputs), low, mix)
        mixed = torch.bmm(_softmax(logits, self._tasks), experts)
        hidden = F.silu(torch.baddbmm(self._first_bias, mixed.transpose(0, 1), self._first), inplace=True)
        return torch.baddbmm(self._last_bias, hidden, self._last).squeeze(-1).T


class _GatedExperts:
    """Feature gates and experts of G groups: inputs [G or 1, B, V] and what the gates read of them -> [B, G E, D]."""

    def __init__(self, gates: FeatureGates, experts: Experts) -> None:
        groups, self._loras = gates.up.shape[:2]
        self._up = gates.up.flatten(0, 1).contiguous()
        self._groups, self.num_experts = groups, groups * experts.num_experts
        norm = experts.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        self._weight = (experts.weight * scale.view(groups, 1, -1)).contiguous()
        self._bias = shift.view(groups, 1, -1).contiguous()

    def __call__(self, inputs: Tensor, low: Tensor, mix: Tensor) -> Tensor:
        batch = len(low)
        by_lora = low.reshape(batch, self._groups * self._loras, -1).transpose(0, 1)
        loras = torch.bmm(by_lora, self._up).sigmoid_()
        share = _softmax_first(mix, self._groups).mul_(2.0).unsqueeze(-1)
        gated = loras.view(self._groups, self._loras, batch, -1).mul_(share).sum(dim=1).mul_(inputs)
        hidden = F.silu(torch.baddbmm(self._bias, gated, self._weight), inplace=True)
        return hidden.transpose(0, 1).reshape(batch, self.num_experts, -1)


def _softmax_first(logits: Tensor, parts: int) -> Tensor:
    """[B, P W] -> softmax over each W, [P, W, B]."""
    # Over a dimension that is not the last, because torch is five times slower over a last one of few values.
    return torch.softmax(logits.T.contiguous().view(parts, -1, len(logits)), dim=1)


def _softmax(logits: Tensor, parts: int) -> Tensor:
    """[B, P W] -> softmax over each W, [B, P, W]."""
    return _softmax_first(logits, parts).permute(2, 0, 1).contiguous()


def _placed(weights: Tensor, places: Sequence[Sequence[int]], num_places: int) -> Tensor:
    """Weights [G, n D, O] -> [num_places D, G O]; group g reads the n blocks `places[g]` of an input of all."""
    groups, _, outputs = weights.shape
    dim = weights.shape[1] // len(places[0])
    wide = weights.new_zeros(num_places, dim, groups, outputs)
    for group, of_group in enumerate(places):
        for place, block in zip(of_group, torch.split(weights[group], dim), strict=True):
            wide[place, :, group] += block
    return wide.view(num_places * dim, groups * outputs)


def _stacked(layers: Sequence[nn.Module]) -> tuple[Tensor, Tensor]:
    """Linear layers -> weights [K, I, O], biases [K, 1, O]."""
    linear = [cast(nn.Linear, layer) for layer in layers]
    weight = torch.stack([layer.weight.T for layer in linear]).contiguous()
    return weight, torch.stack([layer.bias for layer in linear]).unsqueeze(1)
