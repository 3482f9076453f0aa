"""Residual quantisation by k-means (RQ-KMeans), which turns an embedding into a few discrete codes (semantic ids)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualConfig:
    """Sizes of the quantiser."""

    levels: int = 3
    """Codes of an embedding, from coarse to fine."""
    clusters: int = 64
    """K: codes of a level."""
    iterations: int = 25
    """Most rounds of k-means at a level."""
    seed: int = 0
    """Fixes the first centroids."""

    def __post_init__(self) -> None:
        if min(self.levels, self.clusters, self.iterations) < 1:
            raise ValueError(f"levels, clusters and iterations must be >= 1, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResidualQuantizer:
    """Level l holds K centroids of what the levels before left over.

    Example:
        >>> vectors = torch.tensor([[0.0, 0.0], [0.0, 1.0], [8.0, 0.0], [8.0, 1.0]])
        >>> quantizer = ResidualQuantizer.fit(vectors, ResidualConfig(levels=2, clusters=2))
        >>> quantizer.codes(vectors).shape
        torch.Size([4, 2])
        >>> torch.allclose(quantizer.decode(quantizer.codes(vectors)), vectors)
        True
    """

    centroids: Tensor
    """[L, K, E] float32."""

    @classmethod
    def fit(cls, vectors: Tensor, config: ResidualConfig) -> ResidualQuantizer:
        """Learn the centroids from vectors [n, E]. Raises ValueError where there are fewer vectors than clusters."""
        if len(vectors) < config.clusters:
            raise ValueError(f"wanted at least {config.clusters} vectors, one per cluster, got {len(vectors)}")
        generator = torch.Generator().manual_seed(config.seed)
        residual, levels = vectors, []
        for _ in range(config.levels):
            centroids = _kmeans(residual, config.clusters, config.iterations, generator)
            residual = residual - centroids[_nearest(residual, centroids)]
            levels.append(centroids)
        return cls(centroids=torch.stack(levels))

    def codes(self, vectors: Tensor) -> Tensor:
        """vectors [n, E] -> the nearest centroid of every level, [n, L] int64 from 0 to K - 1."""
        residual, codes = vectors, []
        for centroids in self.centroids:
            nearest = _nearest(residual, centroids)
            residual = residual - centroids[nearest]
            codes.append(nearest)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [n, L] -> the vectors that they stand for, [n, E]."""
        return sum((c[codes[:, level]] for level, c in enumerate(self.centroids)), self.centroids.new_zeros(()))


def _nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """[n, E], [K, E] -> [n]; in chunks, so that memory is n * K no more than a chunk at a time."""
    return torch.cat([torch.cdist(chunk, centroids).argmin(dim=1) for chunk in torch.split(vectors, _CHUNK)])


def _kmeans(vectors: Tensor, clusters: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's rounds from k-means++ seeds; a cluster that loses all its vectors keeps its centroid."""
    centroids = _seeds(vectors, clusters, generator)
    before = torch.full((len(vectors),), -1, device=vectors.device)
    for _ in range(iterations):
        nearest = _nearest(vectors, centroids)
        if torch.equal(nearest, before):
            break
        before = nearest
        sizes = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, vectors)
        held = sizes > 0
        centroids = torch.where(held[:, None], sums / sizes.clamp(min=1)[:, None], centroids)
    return centroids


def _seeds(vectors: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++: each further seed is drawn by its squared distance to those before."""
    chosen = [int(torch.randint(len(vectors), (1,), generator=generator))]
    distance = (vectors - vectors[chosen[0]]).square().sum(dim=1)
    for _ in range(clusters - 1):
        # Where all vectors are seeds already, any of them will do.
        weight = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weight.cpu(), 1, generator=generator)))
        distance = torch.minimum(distance, (vectors - vectors[chosen[-1]]).square().sum(dim=1))
    return vectors[torch.tensor(chosen, device=vectors.device)]
