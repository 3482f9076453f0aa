"""The batch contract, and the one road from rows to tensors, shared by training and serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models import HISTORY, MASK, ON_SCREEN
from models.catalog import Catalog
from models.history import HISTORY_PAD

_REQUIRED = ("user_id", "author_id", "ts_ms", "history_author_ids", "history_age_s", "history_watch_s")
_MS_PER_HOUR = 3_600_000


class OnScreen(NamedTuple):
    """Codes of what was on screen, 1 + code at each level; 0 where nothing was known of it yet."""

    target: Tensor
    """[B, J] int64, of the target's live at the impression."""
    history: Tensor
    """[B, L, J] int64, of each item's live at its click; [1, L, J] where all rows have one history."""


class RankingBatch(NamedTuple):
    """Rows to score. Rows of tables refer to a `Catalog`; 0 is the unknown user, author, value."""

    user: Tensor
    """[B] int64, rows of users."""
    user_profile: Tensor
    """[B, P] int64, values of the profile columns."""
    author: Tensor
    """[B] int64, rows of the target authors."""
    author_category: Tensor
    """[B] int64, category of the target author."""
    hour: Tensor
    """[B] int64, hour of the day in UTC, 0 to 23."""
    history: Tensor
    """[B, L] int64, rows of authors, newest last; 0 where padded or unknown."""
    history_mask: Tensor
    """[B, L] bool, True where there is an item (an unknown author is one)."""
    history_age_s: Tensor
    """[B, L] float32, seconds between the item and the impression."""
    history_watch_s: Tensor
    """[B, L] float32, seconds watched."""
    labels: Tensor
    """[B, K] float32, 0 or 1, in the order of the tasks asked for; K = 0 for rows that are only scored."""
    label_mask: Tensor | None = None
    """[B, K] float32, 1 where the label counts, 0 where it says nothing; None = all of them count."""
    on_screen: Mapping[str, OnScreen] | None = None
    """By table of codes, those of the rows; None where they carry none."""

    @property
    def size(self) -> int:
        """B."""
        return int(self.user.shape[0])

    def slice(self, index: slice | Tensor) -> RankingBatch:
        """The rows that `index` picks, of every tensor."""
        return self._of(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> RankingBatch:
        """The same batch on another device."""
        return self._of(lambda tensor: tensor.to(device))

    def _of(self, change: Callable[[Tensor], Tensor]) -> RankingBatch:
        return RankingBatch._make(_changed(field, change) for field in self)


def _changed(field: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(field, Mapping):
        return {name: OnScreen(*map(change, of)) for name, of in field.items()}
    return None if field is None else change(field)


def collate(columns: Mapping[str, npt.NDArray[Any]], catalog: Catalog, tasks: Sequence[str] = ()) -> RankingBatch:
    """Turn columns of example rows into tensors.

    Wanted columns: `user_id`, `author_id`, `ts_ms` int64 [B]; `history_author_ids` int64 [B, L], padded on the
    left with -1; `history_age_s`, `history_watch_s` float32 [B, L]. And one uint8 [B]
    for each of `tasks`, the labels to learn from; rows that are only scored need none. Where there is `mask_<task>`
    of one task, there must be that of each: 0 where its label says nothing. Rows may carry the codes of tables of
    ON_SCREEN: `<table>` int32 [B, J] and `history_<table>` int32 [B, L * J], item after item, -1 = none.
    Raises ValueError for missing columns, for shapes that differ and for a history that is not padded on the left.

    Example:
        >>> catalog = Catalog.build(user_ids=[7], user_profile=[[0]], author_ids=[30, 20], author_category=[0, 1])
        >>> rows = {"user_id": [7], "author_id": [20], "ts_ms": [3_600_000], "history_author_ids": [[-1, 30]]}
        >>> rows |= {"history_age_s": [[0.0, 60.0]], "history_watch_s": [[0.0, 9.0]], "click": [1]}
        >>> batch = collate({name: np.array(column) for name, column in rows.items()}, catalog, ["click"])
        >>> batch.author.tolist(), batch.history.tolist(), batch.hour.tolist(), batch.labels.tolist()
        ([1], [[0, 2]], [1], [[1.0]])
    """
    masks = [f"{MASK}{task}" for task in tasks]
    masks = masks if any(mask in columns for mask in masks) else []
    codes = [f"{HISTORY}{table}" for table in ON_SCREEN if table in columns]
    missing = [name for name in (*_REQUIRED, *tasks, *masks, *codes) if name not in columns]
    if missing:
        raise ValueError(f"the rows miss columns {missing}; present are {sorted(columns)}")
    _check_shapes(columns, [*tasks, *masks])
    history_ids = np.asarray(columns["history_author_ids"], dtype=np.int64)
    mask = history_ids != HISTORY_PAD
    if (mask[:, :-1] & ~mask[:, 1:]).any():
        raise ValueError(f"history_author_ids must be padded on the left with {HISTORY_PAD}, newest item last")
    user = catalog.user_rows(columns["user_id"])
    author = catalog.author_rows(columns["author_id"])
    hour = np.asarray(columns["ts_ms"], dtype=np.int64) // _MS_PER_HOUR % 24
    return RankingBatch(
        user=torch.from_numpy(user),
        user_profile=torch.from_numpy(catalog.user_profile[user]),
        author=torch.from_numpy(author),
        author_category=torch.from_numpy(catalog.author_category[author]),
        hour=torch.from_numpy(hour),
        history=torch.from_numpy(np.where(mask, catalog.author_rows(history_ids), 0)),
        history_mask=torch.from_numpy(mask),
        history_age_s=_seconds(columns["history_age_s"]),
        history_watch_s=_seconds(columns["history_watch_s"]),
        labels=_labels(columns, tasks, len(user)),
        label_mask=_labels(columns, masks, len(user)) if masks else None,
        on_screen=_on_screen(columns, *history_ids.shape),
    )


def _on_screen(columns: Mapping[str, npt.NDArray[Any]], size: int, length: int) -> Mapping[str, OnScreen] | None:
    found = {}
    for table in ON_SCREEN:
        if table not in columns:
            continue
        target, history = columns[table], columns[f"{HISTORY}{table}"]
        if target.shape[:1] != (size,) or history.shape != (size, length * target.shape[1]):
            raise ValueError(
                f"columns {table} and {HISTORY}{table} have shapes {target.shape} and {history.shape}, wanted "
                f"({size}, codes) and ({size}, {length} x codes)"
            )
        codes = [torch.from_numpy(of.astype(np.int64) + 1) for of in (target, history)]
        found[table] = OnScreen(codes[0], codes[1].view(size, length, target.shape[1]))
    return found or None


def _check_shapes(columns: Mapping[str, npt.NDArray[Any]], tasks: Sequence[str]) -> None:
    size = len(columns["user_id"])
    history = columns["history_author_ids"].shape
    wanted: dict[str, tuple[int, ...]] = {name: (size,) for name in ("user_id", "author_id", "ts_ms", *tasks)}
    wanted |= {name: (size, *history[1:2]) for name in ("history_author_ids", "history_age_s", "history_watch_s")}
    for name, shape in wanted.items():
        if columns[name].shape != shape:
            raise ValueError(f"column {name} has shape {columns[name].shape}, wanted {shape} (rows, or rows x history)")
    if len(history) != 2:
        raise ValueError(f"history_author_ids must be [B, L], got shape {history}")


def _seconds(column: npt.NDArray[Any]) -> Tensor:
    # A copy: columns that come from Arrow are read-only, and torch refuses to share those quietly.
    return torch.from_numpy(np.array(column, dtype=np.float32))


def _labels(columns: Mapping[str, npt.NDArray[Any]], names: Sequence[str], size: int) -> Tensor:
    labels = np.zeros((size, len(names)), dtype=np.float32)
    for index, name in enumerate(names):
        labels[:, index] = columns[name]
    return torch.from_numpy(labels)
