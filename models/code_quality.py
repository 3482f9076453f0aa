"""What codes are worth: how near they are, how evenly used, how many share one, and whether they mean something."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
MOST = 1 << 63
"""Combinations of codes that are told apart."""


class CodeQuality:
    """Figures of codes, which come part by part. Memory: 16 bytes a vector.

    Example:
        >>> quality = CodeQuality(clusters=(2, 4))
        >>> codes, left = np.array([[0, 1], [0, 1], [1, 3]]), np.array([[9.0, 4.0, 1.0]] * 3)
        >>> quality.add(codes, left, owners=np.array([7, 8, 8]))
        >>> {name: round(value, 2) for name, value in quality.figures().items() if name != "levels"}
        {'vectors': 3, 'variance': 9.0, 'distinct': 2, 'unique_ratio': 0.67, 'collisions': 0.67}
    """

    def __init__(self, clusters: Sequence[int]) -> None:
        """Args: `clusters` of each level. Raises ValueError for more combinations than MOST."""
        if combinations(clusters) > MOST:
            raise ValueError(f"clusters: wanted at most 2**63 combinations of codes, got {tuple(clusters)}")
        self._clusters = tuple(clusters)
        self._used = [np.zeros(of, np.int64) for of in clusters]
        self._left = np.zeros(1 + len(self._clusters))
        self._combined, self._owners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]

    def add(self, codes: NDArray[Any], left: NDArray[Any], owners: Ints) -> None:
        """Vectors by their codes [n, L], squared lengths of what is left [n, 1 + L], and whose they are [n].

        The first column of `left` is the squared distance to the mean of all vectors, further ones follow the levels.
        """
        for used, of in zip(self._used, codes.T, strict=True):
            used += np.bincount(of, minlength=len(used))
        self._left += left.sum(axis=0, dtype=np.float64)
        self._combined.append(combined(codes, self._clusters))
        self._owners.append(owners)

    def figures(self) -> dict[str, Any]:
        """Of all vectors: `vectors`, `variance`, `levels`, `distinct` (combinations of codes), `unique_ratio` (distinct
        per vector), and `collisions` (share of vectors whose combination another owner's vector has, too).

        Of each level: `clusters`, `mse` (mean squared distance of a vector to what its codes so far stand for),
        `explained` (1 - mse / variance), `used` (share of its codes) and `entropy` (in bits, of log2 clusters).
        """
        whole, owners = np.concatenate(self._combined), np.concatenate(self._owners)
        total = len(whole)
        if not total:
            return {"vectors": 0}
        _, of = np.unique(whole, return_inverse=True)
        order = np.lexsort((owners, of))
        is_new = np.ones(total, bool)
        is_new[1:] = (np.diff(of[order]) != 0) | (np.diff(owners[order]) != 0)
        owners_of = np.bincount(of[order], weights=is_new)
        variance, *left = (self._left / total).tolist()
        return {
            "vectors": total,
            "variance": variance,
            "levels": [
                {
                    "clusters": len(used),
                    "mse": mse,
                    "explained": 1 - mse / variance if variance else 1.0,
                    "used": float((used > 0).mean()),
                    "entropy": _entropy(used),
                }
                for used, mse in zip(self._used, left, strict=True)
            ],
            "distinct": len(owners_of),
            "unique_ratio": len(owners_of) / total,
            "collisions": float((owners_of > 1)[of].mean()),
        }


def combinations(clusters: Sequence[int]) -> int:
    """Of one code of each level."""
    return prod(clusters)


def combined(codes: NDArray[Any], clusters: Sequence[int]) -> Ints:
    """codes [n, L] -> one number for each combination, [n] int64."""
    number = np.zeros(len(codes), np.int64)
    for of, size in zip(codes.T, clusters, strict=True):
        number = number * size + of
    return number


def purity(clusters: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of vectors whose label is the most frequent one of their cluster: [n], [n] -> 0 to 1.

    It is 1 where every vector has a cluster of its own, so read it beside that of shuffled labels.

    Example:
        >>> purity(np.array([4, 4, 4, 9]), np.array(["food", "food", "games", "games"]))
        0.75
    """
    if not len(labels):
        raise ValueError("purity: wanted at least one vector, got none")
    _, of = np.unique(clusters, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    pairs, counts = np.unique(of * (label.max() + 1) + label, return_counts=True)
    most = np.zeros(of.max() + 1, np.int64)
    np.maximum.at(most, pairs // (label.max() + 1), counts)
    return float(most.sum() / len(of))


def purities(codes: NDArray[Any], labels: NDArray[Any], seed: int = 0) -> list[dict[str, float]]:
    """Of the first code, the first two, and so on: `purity`, and `chance`, that of shuffled labels (LARM figure 5).

    Args: codes [n, L], labels [n]. The paper looks at authors who share the first two codes.
    """
    shuffled = np.random.default_rng(seed).permutation(labels)
    sizes = [int(of.max(initial=0)) + 1 for of in codes.T]
    prefixes = [combined(codes[:, :level], sizes[:level]) for level in range(1, codes.shape[1] + 1)]
    return [{"purity": purity(of, labels), "chance": purity(of, shuffled)} for of in prefixes]


def _entropy(used: Ints) -> float:
    share = used[used > 0] / used.sum()
    return float(sum(-p * log2(p) for p in share.tolist())) + 0.0
