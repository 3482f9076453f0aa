"""Cells beside an index: what was saved is what is loaded, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifacts.live_cells import LiveCells
from models.artifacts.live_index import LiveIndex
from models.artifacts.manifest import ArtifactError
from tests.models.artifacts.test_live_index import index_of


def with_cells() -> LiveIndex:
    index = index_of([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [1, 2, 3], [4, 5, 6])
    cells = np.array([0, 1, 1], np.int32)
    return replace(index, cells=LiveCells(centroids=np.eye(2, dtype=np.float32), cells=cells, probes=2))


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    index = with_cells()
    index.save(tmp_path)
    again = LiveIndex.load(tmp_path).cells
    assert again is not None and index.cells is not None and again.probes == 2
    assert np.array_equal(again.centroids, index.cells.centroids) and np.array_equal(again.cells, index.cells.cells)


def test_an_index_without_cells_says_nothing_of_them(tmp_path: Path) -> None:
    replace(with_cells(), cells=None).save(tmp_path)
    assert LiveIndex.load(tmp_path).cells is None and "probes" not in (tmp_path / "index.json").read_text()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cells": np.array([0, 2, 1], np.int32)}, "wanted cells from 0 to 1"),
        ({"cells": np.array([0, -1, 1], np.int32)}, "wanted cells from 0 to 1"),
        ({"cells": np.array([0, 1, 1])}, "of int32, got int64"),
        ({"centroids": np.full((2, 2), np.nan, np.float32)}, "centroids .* of finite float32"),
        ({"centroids": np.eye(2)}, "centroids .* of finite float32"),
        ({"probes": 0}, "wanted probes from 1 to 2, got 0"),
        ({"probes": 3}, "wanted probes from 1 to 2, got 3"),
    ],
)
def test_cells_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    cells = with_cells().cells
    assert cells is not None
    with pytest.raises(ArtifactError, match=message):
        replace(cells, **changed)


def test_cells_of_other_lives_are_refused() -> None:
    index = with_cells()
    assert index.cells is not None
    with pytest.raises(ArtifactError, match=r"wanted cells of 3 lives of width 2, got \(2, 2\)"):
        replace(index, cells=replace(index.cells, cells=np.zeros(2, np.int32)))
    with pytest.raises(ArtifactError, match=r"wanted cells of 3 lives of width 2, got \(3, 3\)"):
        replace(index, cells=replace(index.cells, centroids=np.eye(3, dtype=np.float32)[:2]))
