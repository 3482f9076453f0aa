"""Which authors are alike: cosines of whitened h_CLS, exact, over a bank that stays where it is on disk."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from models.whitening import Whitening

_BLOCK_ROWS = 65_536

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Slots = npt.NDArray[np.int32]


class Neighbours:
    """The authors that have an anchor, by likeness. Holds 5 bytes per row; a question reads the bank once.

    The whitening is that of the full bank: rows that deltas bring are whitened by it until the next full bank.
    """

    def __init__(self, cls: Floats, anchored: npt.NDArray[np.bool_]) -> None:
        """cls [N+1, D], a view of the bank; anchored [N+1], which rows count. Reads the bank twice."""
        self._cls, self._anchored = cls, anchored
        # Where no author has an anchor there is nothing to compare; one row then stands in for the missing fit.
        fitted = (block[mask] for block, mask in self._blocks()) if anchored.any() else [cls[:1]]
        self._whitening = Whitening.fit(fitted)
        self._lengths = np.concatenate([np.linalg.norm(self._whitening(block), axis=1) for block, _ in self._blocks()])
        self._over: tuple[Slots, Floats] | None = None

    def with_rows(self, rows: Rows, anchored: npt.NDArray[np.bool_], slot: Slots, vectors: Floats) -> Neighbours:
        """After new vectors of rows [R]; anchored [N+1].

        Vectors [capacity, D] lie over the bank's for all rows whose `slot` [N+1], the place there, is not negative.
        """
        fresh = copy.copy(self)
        fresh._anchored, fresh._over, fresh._lengths = anchored, (slot, vectors), self._lengths.copy()
        fresh._lengths[rows] = np.linalg.norm(self._whitening(vectors[slot[rows]]), axis=1)
        return fresh

    def _blocks(self) -> Iterator[tuple[Floats, npt.NDArray[np.bool_]]]:
        for start in range(0, len(self._cls), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            yield self._cls[part], self._anchored[part]

    def nearest(self, row: int, k: int) -> tuple[Rows, Floats]:
        """At most k other rows with an anchor, and their cosines, descending; equal ones by row."""
        cosine = self._cosines(row)
        cosine[~self._anchored] = -np.inf
        cosine[row] = -np.inf
        best = np.argsort(-cosine, kind="stable")[:k] if k * 8 > len(cosine) else _top(cosine, k)
        best = best[np.isfinite(cosine[best])]
        return best, cosine[best]

    def between(self, rows: Rows, others: Rows) -> Floats:
        """Cosines of rows [n] with other rows [m], [n, m]; 0 where a whitened vector has no length."""
        left, right = (np.stack([self._whitening(self._vector(int(row))) for row in part]) for part in (rows, others))
        lengths = np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
        dots = left @ right.T
        cosine: Floats = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
        return cosine

    def _cosines(self, row: int) -> Floats:
        """With every row, [N+1]; 0 where a whitened vector has no length."""
        query = self._whitening.axes @ self._whitening(self._vector(row))
        dots = np.concatenate([(block - self._whitening.mean) @ query for block, _ in self._blocks()])
        if self._over is not None:
            slot, vectors = self._over
            over = np.flatnonzero(slot >= 0)
            dots[over] = (vectors[slot[over]] - self._whitening.mean) @ query
        lengths = self._lengths * self._lengths[row]
        cosine: Floats = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
        return cosine

    def _vector(self, row: int) -> Floats:
        if self._over is not None and self._over[0][row] >= 0:
            return self._over[1][self._over[0][row]]  # type: ignore[no-any-return]
        return self._cls[row]  # type: ignore[no-any-return]


def _top(values: Floats, k: int) -> Rows:
    """Positions of the k largest values, descending, ties by position."""
    candidates = np.flatnonzero(values >= np.partition(values, -k)[-k])
    return candidates[np.argsort(-values[candidates], kind="stable")][:k].astype(np.int64)
