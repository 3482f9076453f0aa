"""The optimizer's groups of parameters: what learns at which rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.embeddings import IdTable
from models.sarm.anchor_encoder import AnchorEncoder


def param_groups(
    model: nn.Module, *, lr_ids: float, lr_encoder: float, lr_dense: float, l2_ids: float = 0.0
) -> list[dict[str, Any]]:
    """Groups in a fixed order: "ids" (every ``IdTable``), "encoder" (the rest of the ``AnchorEncoder``), "dense".

    ``l2_ids`` is the weight of half the tables' squared norm in the loss; it pulls rows that are seen seldom to zero.
    A group without parameters is left out.
    """
    of_tables, of_encoder = _members(model, IdTable), _members(model, AnchorEncoder)
    groups: dict[str, dict[str, Any]] = {
        "ids": {"name": "ids", "params": [], "lr": lr_ids, "weight_decay": l2_ids},
        "encoder": {"name": "encoder", "params": [], "lr": lr_encoder, "weight_decay": 0.0},
        "dense": {"name": "dense", "params": [], "lr": lr_dense, "weight_decay": 0.0},
    }
    for parameter in model.parameters():
        name = "ids" if id(parameter) in of_tables else "encoder" if id(parameter) in of_encoder else "dense"
        groups[name]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def _members(model: nn.Module, kind: type[nn.Module]) -> set[int]:
    """Parameters of all modules of a kind, by identity."""
    return {id(p) for module in model.modules() if isinstance(module, kind) for p in module.parameters()}
