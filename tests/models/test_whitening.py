"""Whitening, against its definition."""

import numpy as np
import pytest

from models.whitening import RIDGE, Whitening

RNG = np.random.default_rng(0)
MIX = np.array([[3.0, 0.2, 0.0], [0.0, 1.0, 0.1], [0.5, 0.0, 0.3]])
VECTORS = (RNG.normal(size=(5000, 3)) @ MIX + [7.0, -4.0, 100.0]).astype(np.float32)


def test_fitted_vectors_have_mean_zero_and_covariance_one() -> None:
    whitened = Whitening.fit([VECTORS])(VECTORS)
    assert whitened.dtype == np.float32
    assert np.abs(whitened.astype(np.float64).mean(axis=0)).max() < 1e-3
    assert np.cov(whitened.T) == pytest.approx(np.eye(3), abs=2e-3)


def test_cosines_do_not_depend_on_how_the_vectors_were_mixed() -> None:
    """Whitened cosines of x and of x M + b are equal, for every M that can be undone."""
    other = VECTORS.astype(np.float64) @ RNG.normal(size=(3, 3)) + 5.0

    def cosine(vectors: np.ndarray) -> np.ndarray:
        whitened = Whitening.fit([vectors])(vectors[:50])
        unit = whitened / np.linalg.norm(whitened, axis=1, keepdims=True)
        return np.asarray(unit @ unit.T)

    assert cosine(VECTORS) == pytest.approx(cosine(other), abs=5e-3)


def test_blocks_give_what_the_whole_gives() -> None:
    whole, parts = Whitening.fit([VECTORS]), Whitening.fit([VECTORS[:0], VECTORS[:7], VECTORS[7:]])
    assert parts.mean == pytest.approx(whole.mean, rel=1e-5)
    assert parts.axes @ parts.axes.T == pytest.approx(whole.axes @ whole.axes.T, rel=1e-4)


def test_the_ridge_bounds_how_far_a_direction_is_stretched() -> None:
    vectors = VECTORS.copy()
    vectors[:, 2] = 1.0
    axes = Whitening.fit([vectors]).axes
    mean_variance = vectors.astype(np.float64).var(axis=0).mean()
    assert np.linalg.norm(axes, axis=0).max() == pytest.approx((RIDGE * mean_variance) ** -0.5, rel=1e-3)


def test_vectors_that_are_all_equal_become_zero() -> None:
    same = np.full((4, 3), 2.5, np.float32)
    assert not Whitening.fit([same])(same).any()


def test_no_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one vector, got none"):
        Whitening.fit([np.empty((0, 3), np.float32)])
