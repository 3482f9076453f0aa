"""Nearest authors and their precision, on cases that are counted by hand."""

import numpy as np
import pytest

from pipelines.analysis import neighbours

# Directions on a circle, in degrees; the length must not count.
ANGLES = np.radians([0, 10, 25, 90, 100])
VECTORS = (np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * [[1], [9], [2], [5], [0.1]]).astype(np.float32)
THEMES = [frozenset("a"), frozenset("b"), frozenset("ac"), frozenset("c"), frozenset("d")]
ALL = np.arange(5)


def test_nearest_is_by_angle_and_leaves_the_author_itself_out() -> None:
    found, cosines = neighbours.nearest(VECTORS, ALL, 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]
    assert cosines[0] == pytest.approx(np.cos(np.radians([10, 25])), abs=1e-6)


def test_many_authors_are_compared_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    whole = neighbours.nearest(vectors, np.arange(40), 10)
    monkeypatch.setattr(neighbours, "_COMPARED_TOGETHER", 100)
    parts = neighbours.nearest(vectors, np.arange(40), 10)
    assert np.array_equal(whole[0], parts[0]) and np.allclose(whole[1], parts[1], atol=1e-6)
    cosine = (unit := vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ unit.T
    assert [row[0] for row in whole[0].tolist()] == np.argmax(cosine - 9 * np.eye(40), axis=1).tolist()


def test_a_hit_shares_at_least_one_theme() -> None:
    found, _ = neighbours.nearest(VECTORS, ALL, 2)
    # Hits: of a: ac. Of b: none. Of ac: a (of b, a). Of c: ac (of d, ac). Of d: none.
    assert neighbours.precision(found, ALL, THEMES) == pytest.approx(3 / 10)
    assert neighbours.precision(found[2:3], np.array([2]), THEMES) == pytest.approx(1 / 2)


def test_chance_and_ceiling_count_who_shares_a_theme() -> None:
    # Others that share: a 1, b 0, ac 2, c 1, d 0, of 4 others each.
    assert neighbours.limits(ALL, THEMES, 2) == pytest.approx((4 / 20, (0.5 + 0 + 1 + 0.5 + 0) / 5))
    assert neighbours.limits(np.array([2]), THEMES, 1) == pytest.approx((0.5, 1.0))


def test_chance_is_the_precision_of_random_neighbours() -> None:
    rng = np.random.default_rng(1)
    themes = [frozenset(rng.choice(list("abcdefgh"), size=2)) for _ in range(60)]
    drawn = [
        neighbours.precision(neighbours.nearest(rng.normal(size=(60, 8)), np.arange(60), 10)[0], np.arange(60), themes)
        for _ in range(30)
    ]
    assert np.mean(drawn) == pytest.approx(neighbours.limits(np.arange(60), themes, 10)[0], abs=0.01)


def test_too_few_authors_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 5 authors .* got 5"):
        neighbours.nearest(VECTORS, ALL, 5)
