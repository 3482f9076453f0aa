"""Very many lives are found by cells: the best of those looked into, as many as were asked for, none that is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts.live_cells import LiveCells
from models.artifacts.live_index import LiveIndex
from serve.live_search import CellSearch, LiveSearch
from serve.retrieval import Retrieval
from serve.user_sequence import DamagedError
from tests.models.artifacts.test_live_index import index_of
from tests.serve import searched
from tests.serve.test_retrieval import asked, searches

SIZE, WIDTH, CELLS = 500, 6, 16


def many(seed: int, probes: int) -> LiveIndex:
    """Lives in cells by their nearest centroid; two thirds of them are on air at 5."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, (SIZE, WIDTH)).astype(np.float32)  # many are level with others
    centroids = rng.standard_normal((CELLS, WIDTH)).astype(np.float32)
    cells = (vectors @ centroids.T).argmax(axis=1).astype(np.int32)
    index = index_of(vectors, np.where(rng.random(SIZE) < 0.67, 0, 6), np.full(SIZE, 9))
    return replace(index, cells=LiveCells(centroids=centroids, cells=cells, probes=probes))


@given(st.integers(0, 10**6), st.integers(1, SIZE), st.integers(1, CELLS))
def test_the_best_of_the_cells_that_are_looked_into_are_found(seed: int, k: int, probes: int) -> None:
    index = many(seed, probes)
    assert index.cells is not None
    rng = np.random.default_rng(seed + 1)
    user = rng.standard_normal(WIDTH).astype(np.float32)
    ended = rng.choice(index.live_ids, 40, replace=False)
    found = CellSearch(index).nearest(user, k, 5, ended)
    on_air = index.on_air(5) & ~np.isin(index.live_ids, ended)
    assert found.on_air == on_air.sum() and len(set(found.rows.tolist())) == min(k, found.on_air)
    assert on_air[found.rows].all()
    while True:  # by hand: more cells where those nearest to the user hold too few
        looked = np.argsort(-(index.cells.centroids @ user), kind="stable")[:probes]
        rows = np.flatnonzero(on_air & np.isin(index.cells.cells, looked))
        if len(rows) >= min(k, found.on_air):
            break
        probes = min(2 * probes, CELLS)
    best = np.sort((index.vectors @ user)[rows])[::-1][: len(found.rows)]
    np.testing.assert_allclose(found.scores, best, atol=1e-4)
    np.testing.assert_allclose((index.vectors @ user)[found.rows], best, atol=1e-4)


def test_with_all_cells_they_are_those_that_a_search_of_all_lives_finds() -> None:
    index, user = many(7, CELLS), np.random.default_rng(9).standard_normal(WIDTH).astype(np.float32)
    exact, found = index.nearest(user, 100, 5), CellSearch(index).nearest(user, 100, 5)
    assert (found.on_air, len(found.rows)) == (exact.on_air, 100)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-4)
    assert CellSearch(index).nearest(user, 100, 10).rows.tolist() == []  # nobody is on air


def test_a_vector_that_is_none_finds_nobody_and_ends() -> None:
    assert CellSearch(many(7, 1)).nearest(np.full(WIDTH, np.nan, np.float32), 100, 5).rows.tolist() == []


def test_towers_that_say_no_number_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched.publish(tmp_path)
    retrieval = Retrieval(searches(tmp_path))
    monkeypatch.setattr(LiveSearch, "user_vector", lambda *_: np.full(searched.DIM, np.nan, np.float32))
    with pytest.raises(DamagedError, match="the vector of user .* by towers .* holds NaN or infinity"):
        retrieval.retrieve(asked())


def test_an_index_with_cells_answers_as_one_without(tmp_path: Path) -> None:
    """Towers and a store as the jobs leave them: all cells are looked into."""
    index = searched.index_of(lives=300)
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((8, index.width)).astype(np.float32)
    cells = (index.vectors @ centroids.T).argmax(axis=1).astype(np.int32)
    answers = []
    for name, of in (("plain", None), ("cells", LiveCells(centroids=centroids, cells=cells, probes=8))):
        searched.publish_towers(tmp_path / name, "t1", searched.towers_of())
        searched.publish_index(tmp_path / name, "i1", replace(index, cells=of), {"towers": "t1"})
        answers.append(Retrieval(searches(tmp_path / name)).retrieve(asked(k=50)))
    assert len(answers[0].live_ids) == 50 and answers[0].live_ids == answers[1].live_ids
    np.testing.assert_allclose(answers[0].scores, answers[1].scores, atol=2e-6)
