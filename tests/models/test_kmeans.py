"""k-means: which centroid is nearest, whatever rounds float32, and rounds of parts against rounds of all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.kmeans import Moments, kmeans, nearest


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_float64(vectors: Tensor, centroids: Tensor) -> Tensor:
    return (vectors.double()[:, None] - centroids.double()[None]).square().sum(dim=2).argmin(dim=1)


@pytest.mark.parametrize("shift", [0.0, 30.0, 3000.0])
def test_the_nearest_is_that_of_float64_also_where_float32_cannot_tell(shift: float) -> None:
    """Far from the origin the differences that count are lost in float32's products."""
    vectors, centroids = random(3000, 24) + shift, random(40, 24, seed=1) + shift
    assert torch.equal(nearest(vectors, centroids), by_float64(vectors, centroids))
    if shift == 3000.0:
        plain = torch.addmm(centroids.square().sum(dim=1), vectors, centroids.T, alpha=-2).argmin(dim=1)
        assert not torch.equal(plain, by_float64(vectors, centroids))


def test_of_equally_near_centroids_the_first_is_taken() -> None:
    centroids = torch.tensor([[5.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    vectors = torch.tensor([[0.5, 0.5], [0.0, 1.0], [5.0, 0.0], [9.0, 0.0], [1.0, 0.1]])
    assert nearest(vectors, centroids).tolist() == [1, 1, 0, 0, 2]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 9), st.integers(0, 10**6))
def test_a_vector_has_the_same_answer_in_any_batch(size: int, clusters: int, width: int, seed: int) -> None:
    """Coarse values make many ties."""
    vectors, centroids = (random(n, width, seed=seed + n).mul(2).round() for n in (size, clusters))
    together = nearest(vectors, centroids)
    alone = torch.cat([nearest(vector[None], centroids) for vector in vectors])
    assert torch.equal(together, alone) and torch.equal(together, by_float64(vectors, centroids))


def test_moments_by_hand_and_of_parts() -> None:
    vectors, centroids = torch.tensor([[0.0], [1.0], [9.0], [10.0], [14.0]]), torch.tensor([[0.0], [10.0], [99.0]])
    moments = Moments.of(vectors, centroids)
    assert moments.counts.tolist() == [2, 3, 0] and moments.sums.tolist() == [[1.0], [33.0], [0.0]]
    assert moments.error == 1 + 1 + 16
    assert moments.centroids(centroids).tolist() == [[0.5], [11.0], [99.0]]
    added = Moments.of(vectors[:2], centroids) + Moments.of(vectors[2:], centroids)
    assert torch.equal(added.sums, moments.sums) and torch.equal(added.counts, moments.counts)
    assert added.error == moments.error


def test_clusters_that_lie_apart_are_found_by_any_seed() -> None:
    """Seeds drawn evenly would often miss one of ten; those of k-means++ seldom do."""
    centers = torch.arange(10.0)[:, None] * 100
    vectors = (centers[:, None] + torch.tensor([[-1.0], [0.0], [1.0]])).flatten(0, 1)
    for seed in range(20):
        centroids, counts = kmeans(vectors, 10, 25, torch.Generator().manual_seed(seed))
        assert torch.equal(centroids.sort(dim=0).values, centers) and counts.tolist() == [3] * 10


def test_many_clusters_are_seeded_several_at_a_time_and_are_no_worse() -> None:
    """600 clusters are more than there are steps; no two of them may start at one vector."""
    vectors = torch.cat([random(600, 8) * 50, random(600, 8) * 50]) + random(1200, 8, seed=1)
    centroids, counts = kmeans(vectors, 600, 10, torch.Generator().manual_seed(0))
    assert len(torch.unique(centroids, dim=0)) == 600 and int((counts > 0).sum()) == 600
    assert Moments.of(vectors, centroids).error < 0.2 * float((vectors - vectors.mean(dim=0)).square().sum())


def test_rounds_end_where_nothing_changes_and_never_make_it_worse() -> None:
    vectors, errors = random(500, 4), []
    for rounds in (1, 2, 4, 8):
        centroids, _ = kmeans(vectors, 16, rounds, torch.Generator().manual_seed(0))
        errors.append(Moments.of(vectors, centroids).error)
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    centroids, counts = kmeans(vectors, 16, 500, torch.Generator().manual_seed(0))
    settled = Moments.of(vectors, centroids)
    assert torch.equal(settled.centroids(centroids), centroids) and torch.equal(settled.counts, counts)


def test_equal_vectors_and_too_few_of_them() -> None:
    centroids, _ = kmeans(torch.ones(10, 3), 4, 25, torch.Generator().manual_seed(0))
    assert torch.equal(centroids, torch.ones(4, 3))
    with pytest.raises(ValueError, match="at least 4 vectors, one per cluster, got 3"):
        kmeans(torch.ones(3, 3), 4, 25, torch.Generator())
