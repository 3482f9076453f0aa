"""Whitening: vectors of equal variance in every direction, so that their cosines are not ruled by the few widest ones.

Author vectors are trained for ranking and share one large mean, with most of the rest in a few directions: plain
cosines are all near 1 there and say little of content.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

RIDGE = 1e-5
"""Share of the mean variance that is added to each direction: the least varying ones stay clear of rounding."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Whitening:
    """x -> (x - mean) axes, where the vectors that it was fitted on have mean 0 and covariance 1 (up to the ridge).

    Example:
        >>> vectors = np.random.default_rng(0).normal(3.0, [1.0, 0.1], (1000, 2))
        >>> whitened = Whitening.fit([vectors[:400], vectors[400:]])(vectors)
        >>> bool(np.allclose(np.cov(whitened.T), np.eye(2), atol=0.01))
        True
    """

    mean: Array
    """[D] float32."""
    axes: Array
    """[D, D] float32, one column per direction, divided by its standard deviation; zeros where nothing varies."""

    @classmethod
    def fit(cls, blocks: Iterable[Array]) -> Whitening:
        """Of all rows of the blocks [n, D], each held once. Raises ValueError where there is no row."""
        filled = (block.astype(np.float64) for block in blocks if len(block))
        first = next(filled, None)
        if first is None:
            raise ValueError("whitening: wanted at least one vector, got none")
        # Moments about a vector among them, because about zero the common mean would drown the differences.
        origin = first[0]
        count, total, squares = 0, np.zeros_like(origin), np.zeros((len(origin), len(origin)))
        for block in chain([first], filled):
            shifted = block - origin
            count, total, squares = count + len(shifted), total + shifted.sum(axis=0), squares + shifted.T @ shifted
        mean = total / count
        variance, axes = np.linalg.eigh(squares / count - np.outer(mean, mean))
        variance = variance.clip(min=0.0)
        deviation = np.sqrt(variance + RIDGE * variance.mean())
        scaled = np.divide(axes, deviation, out=np.zeros_like(axes), where=deviation > 0)
        return cls(mean=(origin + mean).astype(np.float32), axes=scaled.astype(np.float32))

    def __call__(self, vectors: Array) -> Array:
        """[..., D] -> [..., D] float32."""
        whitened: Array = (vectors - self.mean) @ self.axes
        return whitened
