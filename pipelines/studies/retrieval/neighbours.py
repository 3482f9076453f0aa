"""Who is near whom: how many of the nearest authors show the same thing (LARM, figure 4, counted over all authors)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

NEAREST = 10
_TOGETHER = 1024


def neighbours(vectors: npt.NDArray[np.float32], labels: Mapping[str, npt.NDArray[Any]]) -> dict[str, dict[str, float]]:
    """By label: `share` of each author's NEAREST whose label is its own, and `chance`, that of any two authors.

    Args: vectors [N, D] of length 1, and labels [N] of each kind.

    Example:
        >>> vectors = np.repeat(np.eye(2, dtype=np.float32), 11, axis=0)
        >>> found = neighbours(vectors, {"theme": np.repeat(["food", "games"], 11)})
        >>> {name: round(value, 3) for name, value in found["theme"].items()}
        {'share': 1.0, 'chance': 0.476}
    """
    size = len(vectors)
    if size <= NEAREST:
        raise ValueError(f"neighbours: wanted more than {NEAREST} authors, got {size}")
    same = dict.fromkeys(labels, 0)
    for start in range(0, size, _TOGETHER):
        rows = np.arange(start, min(start + _TOGETHER, size))
        scores = vectors[rows] @ vectors.T
        scores[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]
        for name, of in labels.items():
            same[name] += int((of[nearest] == of[rows, None]).sum())
    return {name: {"share": same[name] / (size * NEAREST), "chance": _chance(of)} for name, of in labels.items()}


def _chance(labels: npt.NDArray[Any]) -> float:
    """That two different authors have one label."""
    _, counts = np.unique(labels, return_counts=True)
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))
