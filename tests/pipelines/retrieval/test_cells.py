"""Cells of very many lives: as many are looked into as hold what was asked for, against a sort of all lives."""

import numpy as np
import pytest

from pipelines.retrieval import cells


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def lives(count: int) -> np.ndarray:
    """Of 40 kinds."""
    rng = np.random.default_rng(1)
    return unit(rng.standard_normal((40, 8))[rng.integers(0, 40, count)] + 0.3 * rng.standard_normal((count, 8)))


@pytest.mark.parametrize("wanted", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_as_many_cells_are_looked_into_as_hold_the_nearest_on_air(wanted: float, share: float) -> None:
    vectors, k = lives(3_000), 50
    on_air = np.random.default_rng(2).random(len(vectors)) < share
    found, recall = cells.fit(vectors, on_air, k=k, recall=wanted, seed=4)
    assert recall >= wanted and len(found.centroids) == 128
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-5)
    products = vectors @ found.centroids.T
    assert (products[np.arange(len(vectors)), found.cells] >= products.max(axis=1) - 1e-5).all()
    held = {}
    for probes in (found.probes, found.probes // 2):
        of = []
        for user in vectors[::10]:
            nearest = np.argsort(np.where(on_air, -(vectors @ user), np.inf), kind="stable")[:k]
            looked = np.argsort(-(found.centroids @ user), kind="stable")[:probes]
            of.append(np.isin(found.cells[nearest], looked).mean())
        held[probes] = float(np.mean(of))
    assert held[found.probes] == pytest.approx(recall, abs=0.03)  # of other lives than those that it asked with
    if found.probes > 1:
        assert held[found.probes // 2] < wanted + 0.02  # half of them are too few


def test_where_nobody_is_on_air_all_lives_count() -> None:
    none, all_ = (cells.fit(lives(2_000), np.full(2_000, of), k=20, recall=0.9, seed=4) for of in (False, True))
    assert none[1] == all_[1] >= 0.9 and none[0].probes == all_[0].probes


def test_the_same_lives_have_the_same_cells() -> None:
    one, two = (cells.fit(lives(2_000), np.ones(2_000, bool), k=20, recall=0.9, seed=4) for _ in range(2))
    assert one[1] == two[1] and one[0].probes == two[0].probes
    assert np.array_equal(one[0].cells, two[0].cells) and np.array_equal(one[0].centroids, two[0].centroids)
