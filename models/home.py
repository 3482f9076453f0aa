"""HoME: hierarchy of multi-gate experts (arXiv 2408.05430), as published.

What the paper leaves open is decided here: MLP_E and MLP_G are one linear layer, the concatenated input is first
projected to `input_width` (so that L divides it), and a worker normalises its own part of a batch, with running
statistics that are the mean of all workers'.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.gates import pack

SHARED = "shared"
"""The expert group that all tasks see."""
# Groups are modules of these names; tasks are also parts of a loss, and fields of an answer.
_TAKEN = frozenset((*dir(nn.ModuleDict()), *keyword.kwlist, SHARED, "rec", "aux", "score", "known"))


def meta_groups(tasks: Mapping[str, str]) -> tuple[str, ...]:
    """Expert groups of the meta layer: the categories of the tasks in the order of their first task, then SHARED."""
    return (*dict.fromkeys(tasks.values()), SHARED)


def task_groups(tasks: Mapping[str, str]) -> tuple[str, ...]:
    """Expert groups of the task layer: in-category shared, global shared, and one per task."""
    return (*meta_groups(tasks), *tasks)


def check_tasks(tasks: Mapping[str, str]) -> None:
    """Raises ValueError unless there is a task, and every name can be that of an expert group and of a module."""
    if not tasks:
        raise ValueError("tasks: wanted at least one task: category, got none; name a label column and its category")
    for name in (*tasks, *tasks.values()):
        if not name.isidentifier() or name.startswith("_") or name in _TAKEN:
            raise ValueError(
                f"tasks: wanted names of letters, digits and _ that mean nothing else here, got {name!r}; rename it"
            )
    if twice := sorted(set(tasks) & set(tasks.values())):
        raise ValueError(f"tasks: {', '.join(twice)} is a task and a category; rename the category")


@dataclass(frozen=True, kw_only=True, slots=True)
class HoMEConfig:
    """Sizes of HoME."""

    input_width: int = 128
    """V: the concatenated input is projected to this width."""
    expert_dim: int = 32
    """Output width of every expert."""
    experts_per_group: int = 2
    """Experts of every group, in both layers."""
    feature_loras: int = 2
    """L of the feature gates (eq. 8 to 10); 2 was best in the paper. Divides input_width and expert_dim."""
    tower_hidden: int = 32
    """Hidden width of the task towers."""
    batch_norm_momentum: float = 0.1
    """Weight of the newest batch in the running statistics."""

    def __post_init__(self) -> None:
        sizes = (self.input_width, self.expert_dim, self.experts_per_group, self.feature_loras, self.tower_hidden)
        if min(sizes) < 1:
            raise ValueError(f"all sizes of HoMEConfig must be >= 1, got {self}")
        for name in ("input_width", "expert_dim"):
            if getattr(self, name) % self.feature_loras:
                raise ValueError(
                    f"feature_loras={self.feature_loras} must divide {name}={getattr(self, name)}; change one of them"
                )
        if not 0.0 < self.batch_norm_momentum <= 1.0:
            raise ValueError(f"batch_norm_momentum must be in (0, 1], got {self.batch_norm_momentum}")


class FeatureGates(nn.Module):
    """Feature gates of G expert groups (eq. 8 to 10): input [G, B, V] -> gated input [G, B, V].

    Each gate mixes `num_loras` terms 2 * sigmoid(v B A) of rank V / num_loras by a softmax over v. A starts at zero,
    so that every gate starts at exactly 1.

    Example:
        >>> gates = FeatureGates(num_groups=3, width=8, num_loras=2)
        >>> v = torch.randn(3, 2, 8)
        >>> torch.allclose(gates(v), v)
        True
    """

    def __init__(self, num_groups: int, width: int, num_loras: int) -> None:
        super().__init__()
        rank = width // num_loras
        self.num_loras = num_loras
        self.down = nn.Parameter(torch.randn(num_groups, width, num_loras * rank) * width**-0.5)
        self.up = nn.Parameter(torch.zeros(num_groups, num_loras, rank, width))
        self.mix = nn.Parameter(torch.randn(num_groups, width, num_loras) * width**-0.5)

    def gates(self, v: Tensor) -> Tensor:
        """The gates [G, B, V] themselves, each in (0, 2)."""
        groups, batch, width = v.shape
        low = torch.bmm(v, self.down).view(groups, batch, self.num_loras, -1).transpose(1, 2)
        loras = torch.sigmoid(torch.matmul(low, self.up))  # [G, L, B, V], without its factor 2
        weight = 2.0 * torch.softmax(torch.bmm(v, self.mix), dim=-1)  # [G, B, L], with it
        return (loras * weight.transpose(1, 2).unsqueeze(-1)).sum(dim=1)

    def forward(self, v: Tensor) -> Tensor:
        """v (.) gate(v)."""
        return v * self.gates(v)


class Experts(nn.Module):
    """All experts of one layer: Swish(BatchNorm(MLP_E(.))) (eq. 4, 5). [G, B, V] -> [B, G, E, D].

    Example:
        >>> experts = Experts(num_groups=3, width=8, config=HoMEConfig(expert_dim=4, experts_per_group=2))
        >>> experts(torch.randn(3, 5, 8)).shape
        torch.Size([5, 3, 2, 4])
    """

    def __init__(self, num_groups: int, width: int, config: HoMEConfig) -> None:
        super().__init__()
        self.num_experts = config.experts_per_group
        features = self.num_experts * config.expert_dim
        # No bias: the normalisation would take it away.
        self.weight = nn.Parameter(torch.randn(num_groups, width, features) * width**-0.5)
        self.norm = nn.BatchNorm1d(num_groups * features, momentum=config.batch_norm_momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Every group reads its own input."""
        groups, batch, _ = x.shape
        hidden = torch.bmm(x, self.weight).transpose(0, 1).reshape(batch, -1)
        return F.silu(self.norm(hidden)).view(batch, groups, self.num_experts, -1)


class MetaLayer(nn.Module):
    """First layer, over task categories (eq. 6, 8 to 11): v [B, V] -> one [B, D] per group, self gate added.

    Example:
        >>> tasks = {"click": "inter", "long_view": "watch"}
        >>> z = MetaLayer(HoMEConfig(input_width=8, expert_dim=4), tasks)(torch.randn(5, 8))
        >>> {group: tuple(vector.shape) for group, vector in z.items()}
        {'inter': (5, 4), 'watch': (5, 4), 'shared': (5, 4)}
    """

    def __init__(self, config: HoMEConfig, tasks: Mapping[str, str]) -> None:
        super().__init__()
        width, per_group = config.input_width, config.experts_per_group
        groups = meta_groups(tasks)
        # Which groups' experts each gate mixes (eq. 6): that of the shared group those of all.
        self.visible = {group: (SHARED, group) for group in groups[:-1]} | {SHARED: (SHARED, *groups[:-1])}
        self.feature_gates = FeatureGates(len(groups), width, config.feature_loras)
        self.experts = Experts(len(groups), width, config)
        self.gates = nn.ModuleDict({g: nn.Linear(width, len(self.visible[g]) * per_group) for g in groups})
        self.self_gates = nn.ModuleDict({g: nn.Linear(width, per_group) for g in groups})
        seen = (*self.visible.values(), *((group,) for group in groups))
        self._places = [_experts_of(visible, groups, per_group) for visible in seen]

    def forward(self, v: Tensor) -> dict[str, Tensor]:
        """z_meta + z_meta,self of each group."""
        experts = self.experts(self.feature_gates(v.expand(len(self.visible), -1, -1))).flatten(1, 2)
        weight, bias = pack(_linear(self.gates) + _linear(self.self_gates), self._places, experts.shape[1])
        logits = F.linear(v, weight.flatten(0, 1), bias.flatten()).view(len(v), 2, len(self.visible), -1)
        gates, own = logits.unbind(dim=1)
        mixed = torch.bmm(torch.softmax(gates, dim=-1) + _self_gate(own, self.experts.num_experts), experts)
        return dict(zip(self.visible, mixed.unbind(dim=1), strict=True))


class TaskLayer(nn.Module):
    """Second layer and towers (eq. 7): the meta outputs [B, D] -> logits [B, K].

    Example:
        >>> tasks = {"click": "inter", "long_view": "watch"}
        >>> z = {group: torch.randn(5, 4) for group in meta_groups(tasks)}
        >>> TaskLayer(HoMEConfig(expert_dim=4), tasks)(z).shape
        torch.Size([5, 2])
    """

    def __init__(self, config: HoMEConfig, tasks: Mapping[str, str]) -> None:
        super().__init__()
        dim, self.tasks, self.groups = config.expert_dim, dict(tasks), task_groups(tasks)
        self.feature_gates = FeatureGates(len(self.groups), dim, config.feature_loras)
        self.experts = Experts(len(self.groups), dim, config)
        self.gates = nn.ModuleDict({task: nn.Linear(2 * dim, 3 * config.experts_per_group) for task in tasks})
        self.towers = nn.ModuleDict({task: _tower(config) for task in tasks})
        seen = ((SHARED, category, task) for task, category in tasks.items())
        self._places = [_experts_of(visible, self.groups, config.experts_per_group) for visible in seen]

    def forward(self, z: Mapping[str, Tensor]) -> Tensor:
        """A task sees the shared, its category's and its own experts; its gate reads z_category (+) z_shared."""
        inputs = torch.stack([z[self.tasks.get(group, group)] for group in self.groups])
        experts = self.experts(self.feature_gates(inputs)).flatten(1, 2)
        read = {name: torch.cat([z[name], z[SHARED]], dim=-1) for name in set(self.tasks.values())}
        weight, bias = pack(_linear(self.gates), self._places, experts.shape[1])
        logits = torch.baddbmm(bias.unsqueeze(1), torch.stack([read[c] for c in self.tasks.values()]), weight.mT)
        return self._towers(torch.bmm(torch.softmax(logits, dim=-1).transpose(0, 1), experts))

    def _towers(self, mixed: Tensor) -> Tensor:
        """mixed [B, K, D] -> logits [B, K]."""
        first, last = ([cast(nn.Sequential, tower)[index] for tower in self.towers.values()] for index in (0, 2))
        hidden = F.silu(_linear_each(mixed.transpose(0, 1), first))
        return _linear_each(hidden, last).squeeze(-1).mT


class HoME(nn.Module):
    """Multi-task head: concatenated features [B, input_dim] -> logits [B, K], in the order of `tasks`.

    Example:
        >>> tasks = {"click": "inter", "subscribe": "inter", "stay": "watch"}
        >>> home = HoME(input_dim=10, config=HoMEConfig(input_width=8, expert_dim=4), tasks=tasks)
        >>> home(torch.randn(5, 10)).shape
        torch.Size([5, 3])
    """

    def __init__(self, input_dim: int, config: HoMEConfig, tasks: Mapping[str, str]) -> None:
        super().__init__()
        self.project = nn.Linear(input_dim, config.input_width)
        self.meta = MetaLayer(config, tasks)
        self.task = TaskLayer(config, tasks)

    def forward(self, features: Tensor) -> Tensor:
        """Logits; the probability is their sigmoid."""
        logits: Tensor = self.task(self.meta(self.project(features)))
        return logits


def _self_gate(logits: Tensor, num_experts: int) -> Tensor:
    # Eq. 11: a softmax over a single expert would be the constant 1.
    return torch.sigmoid(logits) if num_experts == 1 else torch.softmax(logits, dim=-1)


def _experts_of(visible: Iterable[str], groups: Sequence[str], per_group: int) -> list[int]:
    """Which of all experts belong to the visible groups, in their order."""
    return [groups.index(group) * per_group + index for group in visible for index in range(per_group)]


def _linear(layers: nn.ModuleDict) -> list[nn.Linear]:
    return [cast(nn.Linear, layer) for layer in layers.values()]


def _linear_each(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """x [K, B, I], a layer for each of the K -> [K, B, O]."""
    weight, bias = (torch.stack([cast(Tensor, getattr(layer, n)) for layer in layers]) for n in ("weight", "bias"))
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


def _tower(config: HoMEConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.expert_dim, config.tower_hidden), nn.SiLU(), nn.Linear(config.tower_hidden, 1)
    )
