"""Residual quantisation by k-means (RQ-KMeans), which turns an embedding into a few discrete codes (semantic ids).

LARM eq. 3 fits, eq. 4 encodes: level l holds the centroids of what the levels before left over, and a vector's code is
the nearest one, greedily, level by level. The paper's sizes are 512, 256 and 128; one level alone is plain k-means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.kmeans import Moments, kmeans, nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualConfig:
    """Sizes of the quantiser, and how it is fitted."""

    clusters: tuple[int, ...] = (64, 64, 64)
    """K of each level, from coarse to fine."""
    iterations: int = 25
    """Most rounds of k-means at a level."""
    seed: int = 0
    """Fixes the first centroids."""

    def __post_init__(self) -> None:
        if min(self.clusters, default=0) < 1 or self.iterations < 1:
            raise ValueError(f"clusters and iterations must be >= 1, and clusters name a level, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResidualQuantizer:
    """The centroids of every level, as many as that level has.

    Example:
        >>> vectors = torch.tensor([[0.0, 0.0], [0.0, 1.0], [8.0, 0.0], [8.0, 1.0]])
        >>> quantizer = ResidualQuantizer.fit(vectors, ResidualConfig(clusters=(2, 2)))
        >>> quantizer.codes(vectors).shape
        torch.Size([4, 2])
        >>> torch.allclose(quantizer.decode(quantizer.codes(vectors)), vectors)
        True
    """

    centroids: tuple[Tensor, ...]
    """By level: [K, E] float32."""
    counts: tuple[Tensor, ...]
    """By level: [K] int64, how many vectors each centroid is the mean of. With them its sum is known, too, from which
    moving averages go on (SSRLive eq. 8)."""

    @classmethod
    def fit(
        cls, vectors: Tensor, config: ResidualConfig, rounds: int = 0, corpus: Callable[[Self], Moments] | None = None
    ) -> Self:
        """Learn the centroids from vectors [n, E]. Raises ValueError where there are fewer vectors than clusters.

        For a corpus that is larger than memory the vectors are a sample of it. `corpus` is then called `rounds` times
        a level with the quantiser so far, and gives its `moments` over the whole corpus: a round of Lloyd's each.
        """
        generator = torch.Generator().manual_seed(config.seed)
        fitted, residual = cls(centroids=(), counts=()), vectors
        for clusters in config.clusters:
            fitted = fitted._with(*kmeans(residual, clusters, config.iterations, generator))
            for _ in range(rounds if corpus is not None else 0):
                assert corpus is not None
                moments = corpus(fitted)
                level = moments.centroids(fitted.centroids[-1]), moments.counts
                fitted = cls(centroids=fitted.centroids[:-1], counts=fitted.counts[:-1])._with(*level)
            residual = residual - fitted.centroids[-1][nearest(residual, fitted.centroids[-1])]
        return fitted

    def _with(self, centroids: Tensor, counts: Tensor) -> Self:
        return type(self)(centroids=(*self.centroids, centroids), counts=(*self.counts, counts))

    @property
    def clusters(self) -> tuple[int, ...]:
        """K of each level."""
        return tuple(len(centroids) for centroids in self.centroids)

    @property
    def width(self) -> int:
        """E."""
        return self.centroids[0].shape[1]

    @property
    def mean(self) -> Tensor:
        """[E], of the vectors that the first level was fitted on."""
        weights = self.counts[0].double() / self.counts[0].sum().clamp(min=1)
        return (weights @ self.centroids[0].double()).to(self.centroids[0].dtype)

    @property
    def num_rows(self) -> int:
        """Of a table that has a row for every code of every level, and row 0 for none."""
        return 1 + sum(self.clusters)

    def rows(self, codes: Tensor) -> Tensor:
        """codes [n, L] -> their rows in such a table, [n, L] int64 from 1; no two levels share one."""
        return codes + torch.tensor([1, *accumulate(self.clusters, initial=1)][1:-1], device=codes.device)

    def codes(self, vectors: Tensor) -> Tensor:
        """vectors [n, E] -> the nearest centroid of every level, [n, L] int64 from 0 to K - 1."""
        return self.encode(vectors)[0]

    def encode(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """vectors [n, E] -> codes [n, L] int64, and the squared length of what each level leaves over, [n, L]."""
        residual, codes, errors = vectors, [], []
        for centroids in self.centroids:
            codes.append(nearest(residual, centroids))
            residual = residual - centroids[codes[-1]]
            errors.append(residual.square().sum(dim=1))
        return torch.stack(codes, dim=1), torch.stack(errors, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [n, L] -> the vectors that they stand for, [n, E]; fewer levels than there are stand for the coarse."""
        levels = zip(self.centroids, codes.unbind(dim=1), strict=False)
        return sum((centroids[of] for centroids, of in levels), self.centroids[0].new_zeros(()))

    def moments(self, vectors: Tensor) -> Moments:
        """Those of the last level, over what the levels before it leave of vectors [n, E]."""
        residual = vectors
        for centroids in self.centroids[:-1]:
            residual = residual - centroids[nearest(residual, centroids)]
        return Moments.of(residual, self.centroids[-1])

    def save(self, file: Path) -> None:
        """Write a safetensors file."""
        parts = {"centroids": self.centroids, "counts": self.counts}
        named = {f"{name}.{level}": of.cpu() for name, levels in parts.items() for level, of in enumerate(levels)}
        save_file(named, file)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote. Raises ValueError for another file, with what it holds."""
        named = load_file(file)
        levels = range(len(named) // 2)
        wanted = [f"{name}.{level}" for name in ("centroids", "counts") for level in levels]
        if not named or sorted(named) != sorted(wanted):
            raise ValueError(f"{file}: wanted centroids.L and counts.L of every level L, got {sorted(named)}")
        return cls(
            centroids=tuple(named[f"centroids.{level}"] for level in levels),
            counts=tuple(named[f"counts.{level}"] for level in levels),
        )
