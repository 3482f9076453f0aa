"""Nearest authors, against whitened cosines of the whole table."""

from pathlib import Path

import numpy as np
import pytest

import serve.likeness
import serve.neighbours
from models.whitening import Whitening
from serve.likeness import Likeness
from serve.neighbours import Neighbours

RNG = np.random.default_rng(0)
CLS = (RNG.normal(size=(60, 4)) * [5.0, 1.0, 0.1, 0.01] + 3.0).astype(np.float32)
ANCHORED = np.arange(60) % 7 > 0


def neighbours(vectors: np.ndarray, anchored: np.ndarray) -> Neighbours:
    likeness = Likeness.fit(vectors, anchored)
    return Neighbours(vectors, anchored, lambda: likeness)


def wanted(row: int) -> tuple[list[int], np.ndarray]:
    """All other rows with an anchor, nearest first, and their cosines."""
    whitened = Whitening.fit([CLS[ANCHORED]])(CLS).astype(np.float64)
    unit = whitened / np.linalg.norm(whitened, axis=1, keepdims=True)
    cosine = unit @ unit[row]
    order = sorted((i for i in range(60) if ANCHORED[i] and i != row), key=lambda i: -cosine[i])
    return order, cosine[order]


@pytest.mark.parametrize("k", [1, 3, 20, 1000])
def test_nearest_is_by_whitened_cosine_among_rows_with_an_anchor(k: int) -> None:
    rows, cosines = neighbours(CLS, ANCHORED).nearest(8, k)
    order, of_order = wanted(8)
    assert rows.tolist() == order[:k]
    assert cosines == pytest.approx(of_order[:k], abs=1e-3)
    assert cosines.max() <= 1 + 1e-5


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = neighbours(CLS, ANCHORED).nearest(8, 5)
    monkeypatch.setattr(serve.neighbours, "_ROWS", 7)
    monkeypatch.setattr(serve.likeness, "_BLOCK_ROWS", 7)
    parts = neighbours(CLS, ANCHORED).nearest(8, 5)
    assert parts[0].tolist() == whole[0].tolist() and parts[1] == pytest.approx(whole[1], abs=1e-4)


def many() -> tuple[np.ndarray, np.ndarray]:
    """Vectors about 200 topics, and which of them count."""
    rng = np.random.default_rng(1)
    topics = rng.normal(size=(200, 16))
    vectors = topics[rng.integers(0, 200, 6000)] + 0.4 * rng.normal(size=(6000, 16))
    return vectors.astype(np.float32), rng.random(6000) < 0.8


def test_an_index_finds_nearly_all_and_their_cosines_are_the_true_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vectors, anchored = many()
    exact = neighbours(vectors, anchored)
    monkeypatch.setattr(serve.likeness, "EXACT_BELOW", 1000)
    monkeypatch.setattr(serve.likeness, "PROBES", 16)
    made = Likeness.fit(vectors, anchored)
    assert made.index is not None and exact._likeness().index is None  # type: ignore[union-attr]
    made.save(tmp_path)
    mapped = Likeness.load(tmp_path)
    found = 0
    for row in range(0, 6000, 100):
        rows, cosines = Neighbours(vectors, anchored, lambda: mapped).nearest(row, 10)
        same = Neighbours(vectors, anchored, lambda: made).nearest(row, 10)
        assert rows.tolist() == same[0].tolist() and np.array_equal(cosines, same[1]), "as before it was saved"
        wanted_rows, wanted_cosines = exact.nearest(row, 10)
        assert anchored[rows].all() and row not in rows and (np.diff(cosines) <= 0).all()
        by_row = dict(zip(*(of.tolist() for of in exact.nearest(row, 5999)), strict=True))
        assert cosines == pytest.approx([by_row[each] for each in rows.tolist()], abs=1e-4)
        found += len(set(rows.tolist()) & set(wanted_rows.tolist()))
    assert found > 0.95 * 600


def test_rows_of_deltas_count_beside_an_index_and_their_old_vectors_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, anchored = many()
    monkeypatch.setattr(serve.likeness, "EXACT_BELOW", 1000)
    made = Likeness.fit(vectors, anchored)
    of = Neighbours(vectors, anchored, lambda: made)
    me = int(np.flatnonzero(anchored)[0])
    (gone, *_), (came,) = of.nearest(me, 3)[0], np.flatnonzero(~anchored)[:1]
    slot = np.full(len(vectors), -1, np.int32)
    slot[[gone, came]] = [0, 1]
    now = anchored.copy()
    now[came] = True
    after = of.with_rows(now, slot, np.stack([-vectors[me], vectors[me]]))
    rows, cosines = after.nearest(me, 10)
    assert rows[0] == came and cosines[0] == pytest.approx(1.0, abs=1e-4) and gone not in rows
    assert of.nearest(me, 3)[0][0] == gone, "what was there before stays"
    assert after.nearest(int(came), 5)[0][0] == me


def test_nothing_is_compared_before_its_likeness_is_made() -> None:
    made: list[Likeness] = []
    of = Neighbours(CLS, ANCHORED, lambda: made[0] if made else None)
    assert not of.is_ready
    made.append(Likeness.fit(CLS, ANCHORED))
    assert of.is_ready and len(of.nearest(8, 3)[0]) == 3


def test_equal_vectors_have_cosine_zero_and_are_ordered_by_row() -> None:
    rows, cosines = neighbours(np.ones((50, 4), np.float32), np.ones(50, bool)).nearest(3, 3)
    assert rows.tolist() == [0, 1, 2] and cosines.tolist() == [0.0, 0.0, 0.0]


def test_where_no_row_has_an_anchor_nothing_is_near() -> None:
    rows, cosines = neighbours(CLS, np.zeros(60, bool)).nearest(8, 3)
    assert len(rows) == len(cosines) == 0
