"""HitRate@K of retrieval: how often what was clicked is among the K nearest of all that was there at that moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

NOT_THERE = int(np.iinfo(np.int64).max)
"""Rank of an item that was no candidate: nobody could have found it."""
NO_END = NOT_THERE
"""End of what holds until further notice."""
_TOGETHER = 256


class Candidates(NamedTuple):
    """Vectors, each of which stands for its item for a while; those of an item do so one after another."""

    vectors: Floats
    """[S, D]."""
    since_ms: Ints
    """[S], from when on, this moment included."""
    until_ms: Ints
    """[S], until when, this moment excluded."""


class Found(NamedTuple):
    """What a search gives at moments, [M]."""

    ranks: Ints
    """How many other candidates come before the own one; NOT_THERE where it was none. Level ones come before it: a
    model that gives all the same score finds nothing."""
    candidates: Ints
    """How many there were."""


def search(users: Floats, at_ms: Ints, own: Ints, candidates: Candidates) -> Found:
    """Ranks by inner product of the own candidate at each moment, exact.

    Args: users [M, D]; moments `at_ms` [M], in any order; `own` [M], rows of `candidates`, -1 for none.
    Memory: 256 numbers a candidate that holds within 256 moments which follow one another.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], np.float32)
        >>> lives = Candidates(vectors, np.array([0, 0, 50]), np.array([100, 50, 100]))
        >>> user = np.array([[0.0, 1.0]], np.float32)
        >>> search(np.repeat(user, 2, axis=0), np.array([10, 60]), np.array([0, 0]), lives).ranks.tolist()
        [1, 1]
    """
    ranks, counts = np.full(len(at_ms), NOT_THERE, np.int64), np.zeros(len(at_ms), np.int64)
    order = np.argsort(at_ms, kind="stable")
    for start in range(0, len(order), _TOGETHER):
        some = order[start : start + _TOGETHER]
        at = at_ms[some]
        rows = np.flatnonzero((candidates.since_ms <= at[-1]) & (candidates.until_ms > at[0]))
        there = (candidates.since_ms[rows] <= at[:, None]) & (at[:, None] < candidates.until_ms[rows])
        counts[some] = there.sum(axis=1)
        is_own = there & (rows == own[some, None])
        scores = users[some] @ candidates.vectors[rows].T
        has_own = is_own.any(axis=1)
        mine = np.where(is_own, scores, -np.inf).max(axis=1, initial=-np.inf)
        before = (there & (scores >= mine[:, None])).sum(axis=1) - 1
        ranks[some[has_own]] = before[has_own]
    return Found(ranks, counts)


def hit_rates(ranks: Ints, ks: Sequence[int]) -> dict[int, float]:
    """By K, the share of ranks below it; nan for none.

    Example:
        >>> hit_rates(np.array([0, 4, NOT_THERE, 9]), ks=(5, 10))
        {5: 0.5, 10: 0.75}
    """
    return {k: float((ranks < k).mean()) if len(ranks) else float("nan") for k in ks}
