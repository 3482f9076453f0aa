"""Adam over the rows of big id tables: work for the rows that a step reads, and the result of work for all of them.

Adam with an L2 term also moves rows that a step has not read: their momentum runs out, and the term pulls them to zero,
the faster the seldomer they are read. That is worth a point of GAUC (docs/measured.md), and costs a pass over the whole
table. Here a row catches up with the steps that it has missed when it is read again, in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.embeddings import IdTable
from models.ops import huge_pages

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8
_SETTLED_TOGETHER = 65_536
_MOMENTUM_STEPS = 3  # when most of what a momentum moves has been moved


class _Taken(NamedTuple):
    """Rows of a table that have caught up, beside it: it gets them back when they are learnt."""

    rows: Tensor
    """[R] int64, ascending, each once."""
    vectors: Tensor
    """[R, D]."""
    moments: Tensor
    """[R, 2, D]."""


class RowAdam(torch.optim.Optimizer):
    """Adam for sparse `IdTable`s. `step` wants gradients of `IdTable`s; `settle` before anybody reads their weights.

    A step counts for a table where it has a gradient. State by row: `moments` [N, 2, D], which are Adam's two, and
    `come_to` [N, 2] float64, the step that a row has come to and the sum of learning rates up to it. Of a table that is
    spread over workers it learns the rows of the shard, by their places there.

    Example:
        >>> from models.embeddings import SPARSE_FROM
        >>> table = IdTable(SPARSE_FROM, 2, 0.05)
        >>> optimizer = RowAdam([table], lr=0.5)
        >>> table(torch.tensor([3, 5])).sum().backward()
        >>> before = table.weight.detach().clone()
        >>> optimizer.step()
        >>> (before - table.weight.detach()).sum(dim=1).nonzero().flatten().tolist()
        [3, 5]
    """

    def __init__(self, tables: Sequence[IdTable], *, lr: float, weight_decay: float = 0.0) -> None:
        """`weight_decay` is the weight of half the squared norm of all rows in the loss."""
        params = [table.weight for table in tables]
        super().__init__([{"name": "rows", "params": params, "lr": lr, "weight_decay": weight_decay}], {})
        self._own: dict[Tensor, Callable[[Tensor], Tensor]] = {}
        for table in tables:
            (rows, dim), weight = table.weight.shape, table.weight
            self._own[weight] = table.own
            self.state[weight] = {
                "moments": huge_pages.zeros(rows, 2, dim).to(weight.device),
                "come_to": huge_pages.zeros(rows, 2, dtype=torch.float64).to(weight.device),
                "now": [0.0, 0.0],
            }
            table.reader = partial(self.read, weight)
        self._taken: dict[Tensor, _Taken] = {}
        self._is_settled = True

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Learns the rows of the gradients, which are sparse and may name a row more than once."""
        (group,) = self.param_groups
        self._is_settled = False
        for weight in group["params"]:
            if weight.grad is not None:
                self._learn(weight, weight.grad, group["lr"], group["weight_decay"])

    def _learn(self, weight: Tensor, sparse: Tensor, lr: float, weight_decay: float) -> None:
        taken = self._taken.pop(weight, None)
        if taken is not None and torch.equal(taken.rows, sparse._indices()[0]):
            gradient = sparse._values()
        else:  # other reads of this step, or other workers, had rows of their own
            sparse = sparse.coalesce()
            taken, gradient = self.take(weight, sparse.indices()[0]), sparse.values()
        state = self.state[weight]
        state["now"] = [state["now"][0] + 1.0, state["now"][1] + lr]
        step = state["now"][0]
        mean, square = taken.moments.unbind(dim=1)
        gradient = gradient.add(taken.vectors, alpha=weight_decay)
        mean.lerp_(gradient, 1 - _BETA1)
        square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        root = square.sqrt().mul_((1 - _BETA2**step) ** -0.5).add_(_EPS)
        self._put(weight, taken._replace(vectors=taken.vectors.addcdiv(mean, root, value=-lr / (1 - _BETA1**step))))

    def _put(self, weight: Tensor, taken: _Taken) -> None:
        state = self.state[weight]
        weight.index_copy_(0, taken.rows, taken.vectors)
        state["moments"].index_copy_(0, taken.rows, taken.moments)
        come_to = state["come_to"]
        come_to.index_copy_(0, taken.rows, come_to.new_tensor(state["now"]).expand(len(taken.rows), 2))

    @torch.no_grad()
    def take(self, weight: Tensor, rows: Tensor) -> _Taken:
        """Rows [R], each once, as the newest step of their table has them; the table itself stays as it is."""
        state = self.state[weight]
        come_to = state["come_to"].index_select(0, rows)
        taken = _Taken(rows, weight.index_select(0, rows), state["moments"].index_select(0, rows))
        missed, rates = (come_to.new_tensor(state["now"]) - come_to).split(1, dim=1)
        if missed.any():
            lr = rates / missed.clamp(min=1.0)
            weight_decay = self.param_groups[0]["weight_decay"]
            _drift(taken, come_to[:, :1].float(), missed.float(), lr.float(), weight_decay)
        return taken

    def read(self, weight: Tensor, rows: Tensor) -> Tensor:
        """Rows [...] of a table -> vectors [..., D] as its newest step has them."""
        if self._is_settled and not torch.is_grad_enabled():
            return F.embedding(rows, weight)
        unique, place = torch.unique(rows, return_inverse=True)
        if not torch.is_grad_enabled():
            return F.embedding(place, self.take(weight, unique).vectors)
        vectors: Tensor = _Read.apply(weight, unique, place, self.hold(weight, unique))  # type: ignore[no-untyped-call]
        return vectors

    def hold(self, weight: Tensor, rows: Tensor) -> Tensor:
        """Rows [R], ascending, each once -> vectors [R, D] as the newest step has them, which `step` finds again."""
        taken = self._taken[weight] = self.take(weight, rows)
        return taken.vectors

    @torch.no_grad()
    def settle(self) -> None:
        """Brings all rows of all tables to the newest step, for whoever reads the tables as they are."""
        for group in self.param_groups:
            for weight in group["params"]:
                for rows in torch.split(torch.arange(len(weight), device=weight.device), _SETTLED_TOGETHER):
                    self._put(weight, self.take(weight, rows))
        self._taken.clear()
        self._is_settled = True

    def begin_at(self, weight: Tensor, moments: Tensor, step: float) -> None:
        """Goes on as after so many steps, with the moments [N, 2, D] of all rows as of the last of them."""
        state, now = self.state[weight], [step, 0.0]
        state["moments"].copy_(moments)
        state["come_to"].copy_(state["come_to"].new_tensor(now).expand_as(state["come_to"]))
        state["now"] = now
        self._taken.pop(weight, None)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict` of tables of the same sizes, whole or of this shard, without a second copy."""
        (group,) = self.param_groups
        self._taken.clear()
        self._is_settled = False
        for weight, saved in zip(group["params"], state_dict["state"].values(), strict=True):
            for name, value in saved.items():
                if isinstance(value, Tensor):
                    self.state[weight][name].copy_(self._own[weight](value))
                else:
                    self.state[weight][name] = value


class _Read(torch.autograd.Function):
    """Rows of a table by way of those taken from it; the gradient is sparse, and has each of them once."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, place: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(rows, place)
        ctx.shape = weight.shape
        return F.embedding(place, vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, place = ctx.saved_tensors
        summed = torch.ops.aten.embedding_dense_backward(gradients[0], place, len(rows), -1, False)
        gradient = torch.sparse_coo_tensor(
            rows.unsqueeze(0), summed, ctx.shape, is_coalesced=True, check_invariants=False
        )
        return gradient, None, None, None


def _drift(taken: _Taken, since: Tensor, missed: Tensor, lr: Tensor, weight_decay: float) -> None:
    """What `missed` [R, 1] steps of Adam after the step `since` [R, 1] do to rows, in place.

    They have no gradient but that of the L2 term, c w. In step j of them the moments are b1^j and b2^j of what they
    were. The first moves the row by its momentum, lr b1^j m / sqrt(b2^j v): a geometric sum, of which the first steps
    count. The term moves it by lr c w / sqrt(v): w shrinks by the factor exp(-lr c missed / sqrt(v)), with the v of
    half-way, to which the term's own square has come.
    """
    row, (mean, square) = taken.vectors, taken.moments.unbind(dim=1)
    ratio = _BETA1 * _BETA2**-0.5
    momentum = ratio * (1 - ratio**missed) / (1 - ratio) * _correction(since + _MOMENTUM_STEPS, _BETA1)
    row.addcdiv_(mean * (lr * momentum), square.sqrt().add_(_EPS), value=-1)
    mean.mul_(_BETA1**missed)
    if not weight_decay:
        square.mul_(_BETA2**missed)
        return
    pull = (weight_decay * row).square_()
    halfway = torch.lerp(pull, square, _BETA2 ** (missed / 2)).sqrt_().add_(_EPS)
    shrink = (-weight_decay * lr * missed * _correction(since + missed / 2, 0.0)) / halfway
    row.mul_(shrink.exp_())
    mean.addcmul_(row, weight_decay * (1 - _BETA1**missed))
    square.lerp_(pull, 1 - _BETA2**missed)


def _correction(step: Tensor, beta1: float) -> Tensor:
    """By what Adam multiplies the ratio of its moments at a step."""
    return (1 - _BETA2**step).sqrt() / (1 - beta1**step)
