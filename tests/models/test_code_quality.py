"""Figures of codes, by hand; purity against what it must be for codes that say nothing, and for codes that say all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.code_quality import CodeQuality, combined, purities, purity


def test_figures_by_hand() -> None:
    quality = CodeQuality((4, 2))
    quality.add(np.array([[0, 0], [0, 0]]), np.array([[8.0, 4.0, 2.0], [8.0, 4.0, 0.0]]), np.array([5, 5]))
    quality.add(np.array([[0, 1], [3, 1]]), np.array([[2.0, 0.0, 0.0], [2.0, 2.0, 2.0]]), np.array([5, 5]))
    quality.add(np.array([[3, 1]], np.int32), np.array([[0.0, 0.0, 1.0]]), np.array([9]))
    figures = quality.figures()
    first, second = figures.pop("levels")
    # Codes (0, 0) twice, both of owner 5; (0, 1); (3, 1) of owners 5 and 9, who collide.
    assert figures == {"vectors": 5, "variance": 4.0, "distinct": 3, "unique_ratio": 0.6, "collisions": 0.4}
    assert first["clusters"] == 4 and first["used"] == 0.5 and second["used"] == 1.0
    assert (first["mse"], second["mse"]) == (2.0, 1.0) and (first["explained"], second["explained"]) == (0.5, 0.75)
    assert first["entropy"] == pytest.approx(0.971, abs=1e-3) == second["entropy"]  # of 0.6 and 0.4


def test_parts_in_any_order_give_the_same_figures() -> None:
    rng = np.random.default_rng(0)
    codes, owners = rng.integers(0, 3, (60, 2)), rng.integers(0, 9, 60)
    left = np.ones((60, 3))
    one, two = CodeQuality((3, 3)), CodeQuality((3, 3))
    one.add(codes, left, owners)
    for at in (slice(40, 60), slice(0, 7), slice(7, 40)):
        two.add(codes[at], left[at], owners[at])
    assert one.figures() == two.figures()
    sharing = [len(set(owners[(codes == row).all(axis=1)])) > 1 for row in codes]
    assert one.figures()["collisions"] == np.mean(sharing)


def test_no_vectors_and_too_many_combinations() -> None:
    assert CodeQuality((2,)).figures() == {"vectors": 0}
    with pytest.raises(ValueError, match=r"at most 2\*\*63"):
        CodeQuality((1 << 16,) * 4)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=50))
def test_combinations_are_numbered_apart(rows: list[tuple[int, int, int]]) -> None:
    numbers = combined(np.array(rows), (5, 7, 3))
    assert len(set(numbers.tolist())) == len(set(rows)) and 0 <= numbers.min() <= numbers.max() < 105


def test_purity_of_codes_that_say_nothing_something_and_all() -> None:
    themes = np.repeat(np.array(["food", "games", "music", "talk"]), 250)
    rng = np.random.default_rng(0)
    first = (np.repeat(np.arange(4), 250) // 2)[:, None]  # two themes share a code
    second = np.repeat(np.arange(4), 250)[:, None] % 2  # which tells them apart
    third = rng.integers(0, 4, (1000, 1))
    measured = purities(np.concatenate([first, second, third], axis=1), themes)
    assert [of["purity"] for of in measured] == [0.5, 1.0, 1.0]
    assert all(0.25 <= of["chance"] < 0.4 for of in measured)
    assert purity(third[:, 0], themes) == pytest.approx(0.27, abs=0.03)
    assert purity(np.arange(1000), rng.permutation(themes)) == 1.0
    with pytest.raises(ValueError, match="at least one"):
        purity(np.array([]), np.array([]))
