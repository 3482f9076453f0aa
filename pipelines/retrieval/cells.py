"""Cells of an index of very many lives, and how many of them a search must look into (inverted lists, by faiss)."""

import faiss
import numpy as np
import numpy.typing as npt

from models.artifacts.live_cells import LiveCells

_SAMPLE_PER_CELL, _ROUNDS = 39, 6
_ASKED = 200
"""Lives whose vectors stand for those of users where recall is measured."""

Floats = npt.NDArray[np.float32]


def fit(vectors: Floats, on_air: npt.NDArray[np.bool_], *, k: int, recall: float, seed: int) -> tuple[LiveCells, float]:
    """Cells of vectors [n, D] of length 1, and the part of the `k` nearest on air that a search finds in them.

    As many are looked into, a power of two or all, as hold `recall` of these on average, asked with vectors of lives:
    `on_air` [n] says which count, all where none is; the fewer they are, the further away the k nearest lie.
    """
    count = min(2 ** round(np.log2(2 * np.sqrt(len(vectors)))), len(vectors))
    rounds = faiss.Kmeans(
        vectors.shape[1], count, niter=_ROUNDS, seed=seed, spherical=True, max_points_per_centroid=_SAMPLE_PER_CELL
    )
    rounds.train(np.ascontiguousarray(vectors))
    centroids = np.array(rounds.centroids)
    cells = rounds.index.search(vectors, 1)[1][:, 0].astype(np.int32)
    found = np.flatnonzero(on_air if on_air.any() else ~on_air)
    drawn = np.random.default_rng(seed).choice(found, min(_ASKED, len(found)), replace=False)
    before = _before(vectors[found], centroids, cells[found], vectors[drawn], k)
    probes = 1
    while probes < count and (before < probes).mean() < recall:
        probes *= 2
    return LiveCells(centroids=centroids, cells=cells, probes=probes), float((before < probes).mean())


def _before(
    vectors: Floats, centroids: Floats, cells: npt.NDArray[np.int32], users: Floats, k: int
) -> npt.NDArray[np.int64]:
    """[u, k], of users [u, D]: how many cells a search looks into before that of each of the k nearest lives."""
    _, best = faiss.knn(users, vectors, min(k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
    place = np.argsort(np.argsort(-(users @ centroids.T), axis=1, kind="stable"), axis=1)
    before: npt.NDArray[np.int64] = np.take_along_axis(place, cells[best], axis=1)
    return before
