"""The authors whose vectors are nearest, and how often the truth says that they are alike (SARM, Fig. 7)."""

from collections.abc import Sequence, Set

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]
_COMPARED_TOGETHER = 2**24
"""Cosines held in memory at a time."""


def nearest(vectors: npt.NDArray[np.float32], queries: Positions, k: int) -> tuple[Positions, npt.NDArray[np.float32]]:
    """The k nearest others of each query by cosine, nearest first: positions [Q, k] and cosines [Q, k].

    `vectors` [N, D]; `queries` [Q] are positions among them. Raises ValueError where there are fewer than k others.
    """
    if len(vectors) <= k:
        raise ValueError(f"neighbours: wanted more than {k} authors to look among, got {len(vectors)}")
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    positions, cosines = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    step = max(1, _COMPARED_TOGETHER // len(units))
    for part in (slice(start, start + step) for start in range(0, len(queries), step)):
        asked = queries[part]
        cosine = units[asked] @ units.T
        cosine[np.arange(len(asked)), asked] = -np.inf
        best = np.sort(np.argpartition(-cosine, k - 1, axis=1)[:, :k], axis=1)
        cosine_of_best = np.take_along_axis(cosine, best, axis=1)
        order = np.argsort(-cosine_of_best, axis=1, kind="stable")
        positions[part] = np.take_along_axis(best, order, 1)
        cosines[part] = np.take_along_axis(cosine_of_best, order, 1)
    return positions, cosines


def precision(neighbours: Positions, queries: Positions, themes: Sequence[Set[str]]) -> float:
    """The share of hits among `neighbours` [Q, k]: those that share at least one theme with their query."""
    pairs = ((query, other) for query, row in zip(queries, neighbours, strict=True) for other in row)
    hits = [bool(themes[query] & themes[other]) for query, other in pairs]
    return sum(hits) / len(hits)


def limits(queries: Positions, themes: Sequence[Set[str]], k: int) -> tuple[float, float]:
    """The precision to expect of k others drawn at random, and that of the best k, as means over queries.

    The second is below 1 where fewer than k others share a theme.
    """
    holders: dict[str, set[int]] = {}
    for position, themes_of_author in enumerate(themes):
        for theme in themes_of_author:
            holders.setdefault(theme, set()).add(position)
    alike = [set[int]().union(*(holders[theme] for theme in themes[query])) - {int(query)} for query in queries]
    sharing = np.array([len(others) for others in alike])
    return float(sharing.mean() / (len(themes) - 1)), float(np.minimum(sharing, k).mean() / k)
