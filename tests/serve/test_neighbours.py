"""Nearest authors, against whitened cosines of the whole table."""

import numpy as np
import pytest

import serve.neighbours
from models.whitening import Whitening
from serve.neighbours import Neighbours

RNG = np.random.default_rng(0)
CLS = (RNG.normal(size=(60, 4)) * [5.0, 1.0, 0.1, 0.01] + 3.0).astype(np.float32)
ANCHORED = np.arange(60) % 7 > 0


def wanted(row: int) -> tuple[list[int], np.ndarray]:
    """All other rows with an anchor, nearest first, and their cosines."""
    whitened = Whitening.fit([CLS[ANCHORED]])(CLS).astype(np.float64)
    unit = whitened / np.linalg.norm(whitened, axis=1, keepdims=True)
    cosine = unit @ unit[row]
    order = sorted((i for i in range(60) if ANCHORED[i] and i != row), key=lambda i: -cosine[i])
    return order, cosine[order]


@pytest.mark.parametrize("k", [1, 3, 20, 1000])
def test_nearest_is_by_whitened_cosine_among_rows_with_an_anchor(k: int) -> None:
    rows, cosines = Neighbours(CLS, ANCHORED).nearest(8, k)
    order, of_order = wanted(8)
    assert rows.tolist() == order[:k]
    assert cosines == pytest.approx(of_order[:k], abs=1e-3)
    assert cosines.max() <= 1 + 1e-5


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Neighbours(CLS, ANCHORED).nearest(8, 5)
    monkeypatch.setattr(serve.neighbours, "_BLOCK_ROWS", 7)
    parts = Neighbours(CLS, ANCHORED).nearest(8, 5)
    assert parts[0].tolist() == whole[0].tolist() and parts[1] == pytest.approx(whole[1], abs=1e-4)


def test_equal_vectors_have_cosine_zero_and_are_ordered_by_row() -> None:
    rows, cosines = Neighbours(np.ones((50, 4), np.float32), np.ones(50, bool)).nearest(3, 3)
    assert rows.tolist() == [0, 1, 2] and cosines.tolist() == [0.0, 0.0, 0.0]


def test_where_no_row_has_an_anchor_nothing_is_near() -> None:
    rows, cosines = Neighbours(CLS, np.zeros(60, bool)).nearest(8, 3)
    assert len(rows) == len(cosines) == 0
