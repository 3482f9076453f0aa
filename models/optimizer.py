"""The optimizer's groups of parameters, each with its learning rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.embeddings import IdTable
from models.sarm.anchor_encoder import AnchorEncoder


def param_groups(
    model: nn.Module, *, lr_ids: float, lr_encoder: float, lr_dense: float, l2_ids: float = 0.0
) -> list[dict[str, Any]]:
    """Groups in a fixed order: "ids" (every `IdTable`), "encoder" (the rest of the `AnchorEncoder`), "dense".

    `l2_ids` is the weight of half the tables' squared norm in the loss; it pulls rows that are seen seldom to zero.
    A group without parameters is left out.

    Example:
        >>> model = nn.Sequential(IdTable(3, 2, 0.05), nn.Linear(2, 1))
        >>> groups = param_groups(model, lr_ids=0.01, lr_encoder=0.001, lr_dense=0.003, l2_ids=0.0001)
        >>> [(group["name"], group["lr"], group["weight_decay"]) for group in groups]
        [('ids', 0.01, 0.0001), ('dense', 0.003, 0.0)]
    """
    in_tables, in_encoder = _members(model, IdTable), _members(model, AnchorEncoder)
    members: dict[str, list[nn.Parameter]] = {"ids": [], "encoder": [], "dense": []}
    for parameter in model.parameters():
        name = "ids" if id(parameter) in in_tables else "encoder" if id(parameter) in in_encoder else "dense"
        members[name].append(parameter)
    rates = {"ids": lr_ids, "encoder": lr_encoder, "dense": lr_dense}
    return [
        {"name": name, "params": params, "lr": rates[name], "weight_decay": l2_ids if name == "ids" else 0.0}
        for name, params in members.items()
        if params
    ]


def _members(model: nn.Module, kind: type[nn.Module]) -> set[int]:
    """Parameters of all modules of a kind, by identity."""
    return {id(p) for module in model.modules() if isinstance(module, kind) for p in module.parameters()}
