"""k-means: which centroid is nearest, and Lloyd's rounds. Parts of a corpus add up to a round over all of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_SCORES = 1 << 22
"""Distances held at a time: 16 MiB."""
_PAIRS = 1 << 24
"""Numbers held at a time where float64 decides: 128 MiB."""
_SEEDED_FROM = 32
"""Vectors per cluster that seeds are drawn from."""
_STEPS = 512
"""Steps in which all seeds are drawn, at most."""
_GROWTHS, _LOW_ROUNDS = 5, 10
"""Steps from one dimension to all of them, and most rounds at each step before the last."""
_TRIED = 5
"""Rounds after which the better start is told."""
_APART = 1e-3
"""How far the halves of a cluster begin from its mean, in standard deviations."""
_LEAST = 1e-30
"""Weight of a vector that is a seed already, so that there are always enough to draw from."""


def nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """[n, E], [K, E] float32 -> [n] int64: the nearest centroid, the first of several that are equally near.

    float32 decides where its rounding cannot matter, and float64 between those that are left. So a vector has the same
    answer in any batch, with any number of threads, and on any device. Memory beside the arguments: 150 MiB.

    Example:
        >>> nearest(torch.tensor([[0.4], [0.5], [2.0]]), torch.tensor([[0.0], [1.0]]))
        tensor([0, 0, 1])
    """
    squares = centroids.square().sum(dim=1)
    return torch.cat([_nearest(chunk, centroids, squares) for chunk in _chunks(vectors, centroids)])


def _chunks(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, ...]:
    return torch.split(vectors, max(1, _SCORES // len(centroids)))


def _nearest(vectors: Tensor, centroids: Tensor, squares: Tensor) -> Tensor:
    # |x - c|^2 without |x|^2, which all centroids have in common.
    scores = torch.addmm(squares, vectors, centroids.T, alpha=-2)
    least, first = scores.min(dim=1)
    # A sum of E products is off by E roundings at most (Higham, 3.1), and so are both scores that are compared.
    largest = squares.max()
    size = largest + 2 * (largest * vectors.square().sum(dim=1)).sqrt()
    limit = (least + (vectors.shape[1] + 2) * torch.finfo(scores.dtype).eps * size)[:, None]
    scores.scatter_(1, first[:, None], torch.inf)
    close = (scores.amin(dim=1, keepdim=True) <= limit).squeeze(1).nonzero().squeeze(1)
    if len(close):
        candidates = scores[close] <= limit[close]
        candidates.scatter_(1, first[close, None], True)
        first[close] = _exact(vectors[close], centroids, candidates)
    return first


def _exact(vectors: Tensor, centroids: Tensor, candidates: Tensor) -> Tensor:
    """The nearest of the centroids where candidates [n, K] is True, by float64."""
    rows, columns = candidates.nonzero(as_tuple=True)
    distances = torch.cat(
        [
            (vectors[of].double() - centroids[to].double()).square().sum(dim=1)
            for of, to in zip(
                *(torch.split(at, max(1, _PAIRS // vectors.shape[1])) for at in (rows, columns)), strict=True
            )
        ]
    )
    least = distances.new_full((len(vectors),), torch.inf).scatter_reduce(0, rows, distances, "amin")
    columns = columns.masked_fill(distances > least[rows], len(centroids))
    return columns.new_full((len(vectors),), len(centroids)).scatter_reduce(0, rows, columns, "amin")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """What a part of a corpus says of clusters. Those of two parts, added, are those of both."""

    counts: Tensor
    """[K] int64, vectors nearest to each centroid."""
    sums: Tensor
    """[K, E] float64, of those vectors."""
    error: float
    """Sum of all vectors' squared distances to their centroids."""

    @classmethod
    def of(cls, vectors: Tensor, centroids: Tensor) -> Moments:
        """Of vectors [n, E] at centroids [K, E]."""
        counts = torch.zeros(len(centroids), dtype=torch.int64, device=centroids.device)
        sums = torch.zeros(centroids.shape, dtype=torch.float64, device=centroids.device)
        squares, error = centroids.square().sum(dim=1), 0.0
        for chunk in _chunks(vectors, centroids):  # each is used while it is in the processor's cache
            codes = _nearest(chunk, centroids, squares)
            counts += torch.bincount(codes, minlength=len(centroids))
            sums.index_add_(0, codes, chunk.double())
            error += float((chunk - centroids[codes]).square().sum(dim=1).sum(dtype=torch.float64))
        return cls(counts=counts, sums=sums, error=error)

    def __add__(self, other: Moments) -> Moments:
        return Moments(counts=self.counts + other.counts, sums=self.sums + other.sums, error=self.error + other.error)

    def centroids(self, before: Tensor) -> Tensor:
        """[K, E] float32: the means; a cluster without vectors keeps its centroid of before."""
        means = (self.sums / self.counts.clamp(min=1)[:, None]).to(before.dtype)
        return torch.where(self.counts[:, None] > 0, means, before)


def kmeans(vectors: Tensor, clusters: int, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lloyd's rounds: vectors [n, E] -> centroids [K, E], and how many each is the mean of.

    They begin where it is better: at k-means++ seeds, which find clusters that lie apart, or where `_grown` ends, which
    divides what has none, such as the residuals of fine levels. Ends after `iterations` rounds, or with one that
    changes nothing. Raises ValueError for fewer vectors than clusters.
    """
    if len(vectors) < clusters:
        raise ValueError(f"wanted at least {clusters} vectors, one per cluster, got {len(vectors)}")
    starts = [_seeds(vectors, clusters, generator)]
    if vectors.shape[1] > 1:
        starts.append(_grown(vectors, clusters, generator))
    tried = [_rounds(vectors, start, min(iterations, _TRIED)) for start in starts]
    centroids, best = min(tried, key=lambda found: found[1].error)
    if iterations > _TRIED:
        centroids, best = _rounds(vectors, centroids, iterations - _TRIED)
    return centroids, best.counts


def _grown(vectors: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Centroids of the few directions in which vectors differ most, then of more and more of them.

    In many dimensions at once k-means++ seeds are outliers, and Lloyd's rounds end near where they begin (faiss's
    ProgressiveDimClustering, the default of its ResidualQuantizer).
    """
    width, mean, turned = vectors.shape[1], vectors.mean(dim=0), _principal(vectors)
    sizes = sorted({round(width ** (step / _GROWTHS)) for step in range(1, _GROWTHS)} - {width})
    centroids = _seeds((vectors - mean) @ turned[:, : sizes[0]], clusters, generator)
    for size in sizes:
        low = (vectors - mean) @ turned[:, :size]
        centroids, _ = _rounds(low, F.pad(centroids, (0, size - centroids.shape[1])), _LOW_ROUNDS)
    return centroids @ turned[:, : sizes[-1]].T + mean


def _principal(vectors: Tensor) -> Tensor:
    """[E, E] directions as columns, that in which vectors differ most first."""
    directions: Tensor = torch.linalg.eigh(torch.cov(vectors.T.double())).eigenvectors.flip(1)
    return directions.to(vectors.dtype)


def _rounds(vectors: Tensor, centroids: Tensor, most: int) -> tuple[Tensor, Moments]:
    """Lloyd's rounds, and the moments of the last one; a cluster without vectors takes half of a large one."""
    for left in reversed(range(most)):
        moments = Moments.of(vectors, centroids)
        before, centroids = centroids, moments.centroids(centroids)
        empty = (moments.counts == 0).nonzero().squeeze(1)
        if left and len(empty):
            largest, apart = moments.counts.topk(len(empty)).indices, _APART * vectors.std(dim=0)
            centroids[empty] = centroids[largest] + apart
            centroids[largest] -= apart
        if torch.equal(centroids, before):
            break
    return centroids, moments


def _seeds(vectors: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++ over a sample: each further seed is drawn by its squared distance to those before.

    Of more than _STEPS clusters several are drawn at a time, so that the time is that of matrix products.
    """
    if len(vectors) > _SEEDED_FROM * clusters:
        vectors = vectors[_drawn(len(vectors), _SEEDED_FROM * clusters, generator).to(vectors.device)]
    squares, at_a_time = vectors.square().sum(dim=1), -(-clusters // _STEPS)
    chosen = _drawn(len(vectors), at_a_time, generator).to(vectors.device)
    distance = torch.full_like(squares, torch.inf)
    while len(chosen) < clusters:
        new = chosen[-at_a_time:]
        scores = torch.addmm(squares[new], vectors, vectors[new].T, alpha=-2).amin(dim=1) + squares
        distance = torch.minimum(distance, scores.clamp(min=0)).index_fill_(0, new, 0)
        weights = distance.clamp(min=_LEAST).cpu()
        further = torch.multinomial(weights, min(at_a_time, clusters - len(chosen)), generator=generator)
        chosen = torch.cat([chosen, further.to(vectors.device)])
    return vectors[chosen].clone()


def _drawn(total: int, number: int, generator: torch.Generator) -> Tensor:
    """Places of a sample without replacement."""
    return torch.randperm(total, generator=generator)[:number]
