"""Which authors are alike: cosines of whitened vectors over a bank that stays where it is on disk, and its deltas.

Exact for a bank of `EXACT_BELOW` rows; of more, an index finds candidates in the full bank, whose cosines are computed.
Rows that deltas brought are compared all, in any case.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from models.artifacts.precision import as_read
from serve.likeness import Flags, Floats, Likeness, Rows

_ROWS = 65_536
_FOUND_LEAST, _FOUND_PER_ANSWER = 64, 4
"""Candidates of the index for an answer of k: those at its end are not in the order of their true cosines."""

Slots = npt.NDArray[np.int32]


class Neighbours:
    """The authors that have an anchor, by likeness.

    The whitening is that of the full bank: rows that deltas bring are whitened by it until the next full bank.
    """

    def __init__(self, vectors: Floats, anchored: Flags, likeness: Callable[[], Likeness | None]) -> None:
        """vectors [N+1, D], a view of the bank; anchored [N+1], which rows count; `likeness` is None until made."""
        self._vectors, self._anchored, self._likeness = vectors, anchored, likeness
        self._slot: Slots | None = None
        self._over: Floats = np.empty((0, vectors.shape[1]), np.float32)
        self._over_rows: Rows = np.empty(0, np.int64)
        self._lengths: Floats | None = None

    @property
    def is_ready(self) -> bool:
        """Whether authors can be compared by now."""
        return self._likeness() is not None

    def with_rows(self, anchored: Flags, slot: Slots, vectors: Floats) -> Neighbours:
        """After a delta; anchored [N+1].

        Vectors [capacity, D] lie over the bank's for all rows whose `slot` [N+1], the place there, is not negative.
        """
        fresh = copy.copy(self)
        fresh._anchored, fresh._slot, fresh._over = anchored, slot, vectors
        fresh._over_rows, fresh._lengths = np.flatnonzero(slot >= 0), None
        return fresh

    def nearest(self, row: int, k: int) -> tuple[Rows, Floats]:
        """At most k other rows with an anchor, and their cosines, descending; equal ones by row.

        Raises AssertionError before `is_ready`.
        """
        likeness = self._likeness()
        assert likeness is not None, "ask is_ready first"
        query = likeness.whitening(self._of(np.array([row])))[0]
        if likeness.index is not None:
            found = likeness.found(query, max(_FOUND_LEAST, _FOUND_PER_ANSWER * k) + 1)
            rows = np.union1d(found, self._over_rows)
            rows = rows[self._anchored[rows] & (rows != row)]
            if len(rows) >= k:
                return _best(rows, self._cosines(likeness, query, rows), k)
        rows = np.flatnonzero(self._anchored)
        rows = rows[rows != row]
        return _best(rows, self._with_all(likeness, query)[rows], k)

    def _with_all(self, likeness: Likeness, query: Floats) -> Floats:
        """Cosines of a whitened vector [D] with every row, [N+1], block after block as they lie on disk."""
        direction, mean = likeness.whitening.axes @ query, likeness.whitening.mean
        blocks = (as_read(self._vectors[at : at + _ROWS]) for at in range(0, len(self._vectors), _ROWS))
        dots = np.concatenate([(block - mean) @ direction for block in blocks])
        lengths = likeness.lengths * np.linalg.norm(query)
        cosines: Floats = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
        if len(self._over_rows):
            cosines[self._over_rows] = self._cosines(likeness, query, self._over_rows)
        return cosines

    def between(self, rows: Rows, others: Rows) -> Floats:
        """Cosines of rows [n] with other rows [m], [n, m]; 0 where a vector has no length.

        Raises AssertionError before `is_ready`.
        """
        likeness = self._likeness()
        assert likeness is not None, "ask is_ready first"
        return np.stack([self._cosines(likeness, query, others) for query in likeness.whitening(self._of(rows))])

    def _cosines(self, likeness: Likeness, query: Floats, rows: Rows) -> Floats:
        """Of a whitened vector [D] with rows [n]; 0 where either has no length."""
        # The whitening goes to the side of the query: a product with a vector, where it would be one with a matrix.
        dots = (self._of(rows) - likeness.whitening.mean) @ (likeness.whitening.axes @ query)
        lengths = likeness.lengths[rows] * np.linalg.norm(query)
        if self._slot is not None:
            over = np.flatnonzero(self._slot[rows] >= 0)
            lengths[over] = self._over_lengths(likeness)[self._slot[rows[over]]] * np.linalg.norm(query)
        cosines: Floats = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
        return cosines

    def _over_lengths(self, likeness: Likeness) -> Floats:
        """[capacity], of the whitened vectors that deltas brought; computed at the first question after each."""
        if self._lengths is None:
            places = self._slot[self._over_rows] if self._slot is not None else np.empty(0, np.int32)
            lengths = np.zeros(len(self._over), np.float32)
            lengths[places] = np.linalg.norm(likeness.whitening(as_read(self._over[places])), axis=1)
            self._lengths = lengths
        return self._lengths

    def _of(self, rows: Rows) -> Floats:
        """Vectors [n, D] of rows [n], those of deltas where there are any."""
        # Indexed, because `take` would copy all of a view like this one first.
        vectors: Floats = as_read(self._vectors[rows])
        if self._slot is not None:
            over = np.flatnonzero(self._slot[rows] >= 0)
            vectors[over] = as_read(self._over[self._slot[rows[over]]])
        return vectors


def _best(rows: Rows, cosines: Floats, k: int) -> tuple[Rows, Floats]:
    """The k largest of rows [n], ascending, with their cosines: descending, equal ones by row."""
    some = np.arange(len(rows))
    if k * 8 < len(rows):
        some = np.flatnonzero(cosines >= np.partition(cosines, -k)[-k])
    order = some[np.argsort(-cosines[some], kind="stable")][:k]
    return rows[order], cosines[order]
