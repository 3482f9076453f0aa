"""The optimizer of a ranker: groups of parameters with a learning rate each, and big id tables row by row."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.embeddings import IdTable
from models.row_adam import RowAdam
from models.sarm.anchor_encoder import AnchorEncoder

_ADAM, _ROWS = "adam", "rows"


class Moments(NamedTuple):
    """What Adam knows of a parameter's gradients."""

    mean: Tensor
    """Of the parameter's shape."""
    square: Tensor
    """Of the parameter's shape."""
    step: float
    """How many steps it has seen."""


class RankerOptimizer:
    """Adam, whose groups are "ids" (every `IdTable`), "encoder" (the rest of the `AnchorEncoder`) and "dense".

    `IdTable`s that are sparse are learnt row by row (models/row_adam.py), at the rate of the group "ids".
    `l2_ids` is the weight of half the tables' squared norm in the loss; it pulls rows that are seen seldom to zero.

    Example:
        >>> model = nn.Sequential(IdTable(3, 2, 0.05), nn.Linear(2, 1))
        >>> optimizer = RankerOptimizer(model, lr_ids=0.01, lr_encoder=0.001, lr_dense=0.003, l2_ids=0.0001)
        >>> optimizer.scale(0.5)
        >>> [(group["name"], group["lr"], group["weight_decay"]) for group in optimizer.groups]
        [('ids', 0.005, 0.0001), ('dense', 0.0015, 0.0)]
    """

    def __init__(
        self, model: nn.Module, *, lr_ids: float, lr_encoder: float, lr_dense: float, l2_ids: float = 0.0
    ) -> None:
        tables = [module for module in model.modules() if isinstance(module, IdTable)]
        sparse = [table for table in tables if table.is_sparse]
        rates = {"ids": lr_ids, "encoder": lr_encoder, "dense": lr_dense}
        groups = [
            {"name": name, "params": params, "lr": rates[name], "weight_decay": l2_ids if name == "ids" else 0.0}
            for name, params in _dense_members(model, tables).items()
            if params
        ]
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        if groups:
            self._optimizers[_ADAM] = torch.optim.Adam(groups, fused=True)
        if sparse:
            self._optimizers[_ROWS] = RowAdam(sparse, lr=lr_ids, weight_decay=l2_ids)
        self._rates = [group["lr"] for group in self.groups]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Groups in a fixed order, "rows" of sparse tables last; those without parameters are left out."""
        return [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]

    def scale(self, share: float) -> None:
        """Sets every learning rate to this share of what was given."""
        for group, rate in zip(self.groups, self._rates, strict=True):
            group["lr"] = rate * share

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad()

    def step(self) -> None:
        """Learns from the gradients that there are. Parameters without one stay where they are."""
        for optimizer in self._optimizers.values():
            optimizer.step()

    def settle(self) -> None:
        """Brings rows that no step has read for a while to where they belong; before a model is scored or saved."""
        if self.by_row is not None:
            self.by_row.settle()

    @property
    def by_row(self) -> RowAdam | None:
        """What learns the sparse tables; None where there is none."""
        rows = self._optimizers.get(_ROWS)
        return rows if isinstance(rows, RowAdam) else None

    def moments(self, parameter: nn.Parameter) -> Moments | None:
        """What is known of a parameter's gradients; None before its first step. Of a sparse table it wants `settle`."""
        for optimizer in self._optimizers.values():
            state = optimizer.state.get(parameter)
            if state and isinstance(optimizer, RowAdam):
                mean, square = state["moments"].unbind(dim=1)
                return Moments(mean, square, state["now"][0])
            if state:
                return Moments(state["exp_avg"], state["exp_avg_sq"], float(state["step"]))
        return None

    def set_moments(self, parameter: nn.Parameter, moments: Moments) -> None:
        """Goes on from what another optimizer has learnt of a parameter's gradients."""
        if self.by_row is not None and parameter in self.by_row.state:
            self.by_row.begin_at(parameter, torch.stack([moments.mean, moments.square], dim=1), moments.step)
            return
        step = torch.tensor(moments.step, device=parameter.device)
        self._optimizers[_ADAM].state[parameter] = {
            "step": step, "exp_avg": moments.mean.clone(), "exp_avg_sq": moments.square.clone()
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict` of the same model. Raises ValueError for that of another one."""
        if state.keys() != self._optimizers.keys():
            raise ValueError(f"the optimizer has {list(self._optimizers)}, the state is of {list(state)}")
        for name, optimizer in self._optimizers.items():
            # Torch's Adam goes on in the very tensors that it is given, RowAdam in its own.
            optimizer.load_state_dict(copy.deepcopy(state[name]) if name == _ADAM else state[name])


def _dense_members(model: nn.Module, tables: list[IdTable]) -> dict[str, list[nn.Parameter]]:
    """Parameters by group, without those of sparse tables."""
    in_tables = {id(table.weight) for table in tables}
    in_sparse = {id(table.weight) for table in tables if table.is_sparse}
    encoders = [module for module in model.modules() if isinstance(module, AnchorEncoder)]
    in_encoder = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    members: dict[str, list[nn.Parameter]] = {"ids": [], "encoder": [], "dense": []}
    for parameter in model.parameters():
        name = "ids" if id(parameter) in in_tables else "encoder" if id(parameter) in in_encoder else "dense"
        if id(parameter) not in in_sparse:
            members[name].append(parameter)
    return members
