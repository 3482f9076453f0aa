"""A ranker that goes on with other users and authors: who stays keeps what was learnt, who is new begins anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.embeddings import IdTable
from models.optimizer import Moments, RankerOptimizer
from models.sarm.memory_bank import NEVER, MemoryBank

NEW = -1
"""In the place of an old row: there was none."""
RowsOf = Callable[[nn.Parameter, Tensor, Tensor], Tensor]
"""An old parameter, what is said of its rows here [n, ...], and rows [R] -> what is said of those, [R, ...]."""


def _rows_here(parameter: nn.Parameter, said: Tensor, rows: Tensor) -> Tensor:
    return said.index_select(0, rows)


def kept_rows(old_ids: npt.NDArray[np.int64], new_ids: npt.NDArray[np.int64]) -> Tensor:
    """Ascending ids of two catalogs -> the old row of each new one, [N' + 1]; NEW where there is none. Row 0 stays.

    Example:
        >>> kept_rows(np.array([5, 7]), np.array([4, 7])).tolist()
        [0, -1, 2]
    """
    place = np.minimum(np.searchsorted(old_ids, new_ids), max(0, len(old_ids) - 1))
    known = old_ids[place] == new_ids if len(old_ids) else np.zeros(len(new_ids), np.bool_)
    return torch.from_numpy(np.concatenate([[0], np.where(known, place + 1, NEW)]).astype(np.int64))


@torch.no_grad()
def take_over(
    new: nn.Module,
    old: nn.Module,
    kept: Mapping[str, Tensor],
    new_opt: RankerOptimizer,
    old_opt: RankerOptimizer,
    rows_of: RowsOf = _rows_here,
) -> None:
    """Fills a model and its optimizer with what another one has learnt; the old optimizer is settled for it.

    `kept` has, for tables whose rows moved, the old row of each new one (`kept_rows`), by the parameter's name. Other
    tables may have grown behind their rows. What is new keeps its initial values and has no moments yet. `rows_of` says
    how old rows are found, where tables are spread over workers. Raises ValueError for parameters that changed in any
    other way.
    """
    old_opt.settle()
    olds, tables, old_tables = dict(old.named_parameters()), _tables(new), _tables(old)
    for name, parameter in new.named_parameters():
        if name not in olds:
            raise ValueError(f"parameter {name}: wanted one that was learnt, got none; train from the beginning")
        before = olds[name]
        shapes = (_shape(before, old_tables.get(name)), _shape(parameter, tables.get(name)))
        rows = kept[name] if name in kept else _in_place(name, *shapes)
        if name in tables:
            rows = tables[name].own(rows)
        find = partial(rows_of, before)
        parameter.copy_(_moved(before, rows, otherwise=parameter, find=find))
        moments = old_opt.moments(before)
        if moments is not None:
            mean, square = (_moved(part, rows, torch.zeros_like(parameter), find) for part in moments[:2])
            new_opt.set_moments(parameter, Moments(mean, square, moments.step))
    buffers = dict(old.named_buffers())
    for name, buffer in new.named_buffers():
        buffer.copy_(buffers[name])


def moved_bank(bank: MemoryBank, rows: Tensor) -> MemoryBank:
    """A bank with the rows [N' + 1] of another one, in their order; those that are NEW were never written."""
    moved = MemoryBank(len(rows) - 1, bank.vectors.shape[-1], bank.vectors.device)
    moved.vectors = _moved(bank.vectors, rows, moved.vectors)
    moved.written_step = _moved(bank.written_step, rows, torch.full_like(moved.written_step, NEVER))
    return moved


def _tables(model: nn.Module) -> dict[str, IdTable]:
    """Tables by the name of their parameter."""
    return {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, IdTable)}


def _shape(parameter: Tensor, table: IdTable | None) -> tuple[int, ...]:
    """With all rows of a table, of whatever workers."""
    return tuple(parameter.shape) if table is None else (table.num_rows, *parameter.shape[1:])


def _in_place(name: str, before: tuple[int, ...], after: tuple[int, ...]) -> Tensor:
    if before[1:] != after[1:] or before[0] > after[0]:
        raise ValueError(f"parameter {name}: wanted rows of {before} and more, got {after}; train from the beginning")
    rows = torch.full(after[:1], NEW)
    rows[: before[0]] = torch.arange(before[0])
    return rows


def _moved(
    before: Tensor, rows: Tensor, otherwise: Tensor, find: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """Rows of `before` in their new places, and those of `otherwise` where there was none."""
    rows = rows.to(before.device)
    old = rows.clamp(min=0)
    moved = before.index_select(0, old) if find is None else find(before, old)
    is_new = rows == NEW
    moved[is_new] = otherwise[is_new].to(moved.dtype)
    return moved
