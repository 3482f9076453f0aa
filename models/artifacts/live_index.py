"""The artifact "live_index": lives that may be on air, each with a vector of what it shows; the nearest to a user."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from models.artifacts.live_cells import LiveCells
from models.artifacts.manifest import ArtifactError

FORMAT = 1
"""Version of the files' layout; an index of another one is refused."""
NO_END = int(np.iinfo(np.int64).max)
"""End of a live that goes on as far as anybody knows."""

_HEAD, _LIVES = "index.json", "lives.safetensors"
_TYPES = {
    "live_ids": np.dtype(np.int64),
    "author_ids": np.dtype(np.int64),
    "start_ts_ms": np.dtype(np.int64),
    "end_ts_ms": np.dtype(np.int64),
    "vectors": np.dtype(np.float32),
}
_OF_CELLS = ("centroids", "cells")

_SAMPLED = 16
"""One score of so many is looked at to guess which are among the best."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Nearest(NamedTuple):
    """Rows of an index, the nearest first."""

    rows: Ints
    """[k]."""
    scores: Floats
    """[k], inner products with the user's vector."""
    on_air: int
    """Lives that were compared."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveIndex:
    """n lives. `nearest` compares all of them, whoever asks: 100,000 of width 64 take 1.3 ms of one core and 29 MB.

    Time grows with n x D: 300,000 take 4 ms, and above about 350,000 a search is longer than 5 ms. An index of more has
    cells, by which the endpoint finds nearly all of the nearest (serve/live_search.py).

    Example:
        >>> ids, times = np.arange(3), np.array([0, 0, 900])
        >>> index = LiveIndex(
        ...     live_ids=ids, author_ids=ids, start_ts_ms=times, end_ts_ms=times + 600, until_ts_ms=900,
        ...     vectors=np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], np.float32),
        ... )
        >>> index.nearest(np.array([1.0, 0.5], np.float32), k=5, ts_ms=100).rows.tolist()
        [0, 1]
    """

    live_ids: Ints
    """[n], ascending, unique."""
    author_ids: Ints
    """[n]."""
    start_ts_ms: Ints
    """[n], ms since 1970."""
    end_ts_ms: Ints
    """[n], NO_END where it is not known; a live is on air from its start until before its end."""
    vectors: Floats
    """[n, D]."""
    until_ts_ms: int
    """What was on screen until then is in the vectors."""
    cells: LiveCells | None = None
    """Of an index that is not searched exactly."""

    def __post_init__(self) -> None:
        """Raises ArtifactError for lives that nobody can be asked about."""
        size = len(self.live_ids)
        for name, dtype in _TYPES.items():
            array = getattr(self, name)
            wanted = (size, *array.shape[1:2]) if name == "vectors" else (size,)
            if array.dtype != dtype or array.shape != wanted or 0 in wanted[1:]:
                raise ArtifactError(f"live_index: {name}: wanted {dtype} {wanted}, got {array.dtype} {array.shape}")
        if not (self.live_ids[1:] > self.live_ids[:-1]).all():
            raise ArtifactError("live_index: wanted live_ids ascending and unique")
        if not (self.end_ts_ms > self.start_ts_ms).all():
            row = int(np.flatnonzero(self.end_ts_ms <= self.start_ts_ms)[0])
            raise ArtifactError(f"live_index: live {self.live_ids[row]}: wanted an end after its start")
        if not np.isfinite(self.vectors).all():
            row = int(np.flatnonzero(~np.isfinite(self.vectors).all(axis=1))[0])
            raise ArtifactError(f"live_index: vector of live {self.live_ids[row]} holds NaN or infinity")
        if self.cells is not None:
            got, wanted = (len(self.cells.cells), self.cells.centroids.shape[1]), (size, self.width)
            if got != wanted:
                raise ArtifactError(f"live_index: wanted cells of {wanted[0]} lives of width {wanted[1]}, got {got}")

    @property
    def width(self) -> int:
        """D."""
        return int(self.vectors.shape[1])

    def on_air(self, ts_ms: int) -> npt.NDArray[np.bool_]:
        """[n], which lives are on air at a moment."""
        return (self.start_ts_ms <= ts_ms) & (ts_ms < self.end_ts_ms)

    def rows_of(self, live_ids: Ints) -> Ints:
        """Rows of those of some lives that are here."""
        places = np.minimum(np.searchsorted(self.live_ids, live_ids), len(self.live_ids) - 1)
        return places[self.live_ids[places] == live_ids] if len(self.live_ids) else places[:0]

    def nearest(self, user: Floats, k: int, ts_ms: int, ended: Ints | None = None) -> Nearest:
        """The k lives on air with the largest inner product with user [D]; fewer where fewer are on air.

        Equal ones are ordered by id. Exact. `ended` are ids of lives that are known to be over, whatever is said here.
        """
        # By torch, whose threads a process sets for all that it computes.
        scores: Floats = torch.mv(torch.from_numpy(self.vectors), torch.from_numpy(user)).numpy()
        on_air = self.on_air(ts_ms)
        if ended is not None:
            on_air[self.rows_of(ended)] = False
        scores[~on_air] = -np.inf
        count = int(np.count_nonzero(on_air))
        k = min(k, count)
        if not k:
            return Nearest(np.empty(0, np.int64), np.empty(0, np.float32), 0)
        rows = _few(scores, k)
        # All that are level with the last one, of which a partition alone would take any.
        least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= least]
        rows = rows[np.argsort(-scores[rows], kind="stable")[:k]]
        return Nearest(rows, scores[rows], count)

    def save(self, folder: Path) -> None:
        """Write index.json and lives.safetensors."""
        head = {"format": FORMAT, "until_ts_ms": self.until_ts_ms}
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _TYPES}
        if self.cells is not None:
            head["probes"] = self.cells.probes
            arrays |= {name: np.ascontiguousarray(getattr(self.cells, name)) for name in _OF_CELLS}
        (folder / _HEAD).write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")
        save_file(arrays, folder / _LIVES)

    @classmethod
    def load(cls, folder: Path) -> LiveIndex:
        """Read what `save` wrote. Raises ArtifactError for another format, and where a file does not fit."""
        try:
            head: dict[str, Any] = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
            found, until_ts_ms = head["format"], int(head["until_ts_ms"])
            lives = load_file(folder / _LIVES)
            arrays = {name: lives[name] for name in _TYPES}
            probes = head.get("probes")
            cells = None if probes is None else {name: lives[name] for name in _OF_CELLS} | {"probes": int(probes)}
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ArtifactError(f"live_index {folder}: cannot be read ({error!r}); run the job index again") from error
        if found != FORMAT:
            raise ArtifactError(f"live_index {folder}: format: got {found}, wanted {FORMAT}; run the job index again")
        return cls(until_ts_ms=until_ts_ms, cells=None if cells is None else LiveCells(**cells), **arrays)


def _few(scores: Floats, k: int) -> Ints:
    """Rows among which the k best are, ascending, with all that are level with the last of these.

    A sample says how good the best are: a partition of 100,000 takes half as long as their products with the user.
    """
    sample = scores[::_SAMPLED]
    rank = k // _SAMPLED + 4 * math.isqrt(k // _SAMPLED) + 1
    if rank < len(sample):
        rows = np.flatnonzero(scores >= np.partition(sample, len(sample) - rank)[len(sample) - rank])
        if len(rows) >= k:
            return rows
    return np.arange(len(scores))
