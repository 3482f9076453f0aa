"""The nearest lives on air: all of them are compared, and none that is not on air is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts.live_index import NO_END, LiveIndex
from models.artifacts.manifest import ArtifactError


def index_of(vectors: Any, start: Any, end: Any) -> LiveIndex:
    size = len(vectors)
    return LiveIndex(
        live_ids=np.arange(size) * 10 + 5,
        author_ids=np.arange(size)[::-1].copy(),
        start_ts_ms=np.asarray(start, np.int64),
        end_ts_ms=np.asarray(end, np.int64),
        vectors=np.asarray(vectors, np.float32).reshape(size, -1),
        until_ts_ms=77,
    )


LIVES = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=40)


@given(LIVES, st.integers(1, 50), st.integers(-1, 20))
def test_the_nearest_are_those_that_a_sort_of_all_puts_first(
    lives: list[tuple[int, int, int]], k: int, ts_ms: int
) -> None:
    values, starts, lengths = zip(*lives, strict=True)
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    index = index_of(values, starts, ends)
    found = index.nearest(np.array([-2.0], np.float32), k, ts_ms)
    # Python's own sort, of rows in the order of their ids: which are level stay in that order.
    on_air = [row for row in range(len(lives)) if starts[row] <= ts_ms < ends[row]]
    wanted = sorted(on_air, key=lambda row: 2 * values[row])[:k]
    assert found.rows.tolist() == wanted
    assert found.scores.tolist() == [-2.0 * values[row] for row in wanted]


@given(st.integers(0, 10**6), st.integers(1, 700), st.booleans())
def test_so_are_they_among_thousands(seed: int, k: int, is_sorted: bool) -> None:
    """Many levels, and lives that stand in the order of their scores: the sample that is looked at says little then."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-500, 500, 3_000)
    index = index_of(np.sort(values) if is_sorted else values, np.zeros(3_000), np.where(rng.random(3_000) < 0.5, 1, 9))
    found = index.nearest(np.ones(1, np.float32), k, 5)
    on_air = np.flatnonzero(index.end_ts_ms == 9)
    assert found.rows.tolist() == sorted(on_air.tolist(), key=lambda row: -index.vectors[row, 0])[:k]
    assert found.on_air == len(on_air)


def test_lives_that_are_known_to_be_over_are_not_found() -> None:
    index = index_of([[1.0], [2.0], [3.0]], [0, 0, 0], [NO_END] * 3)
    ended = np.array([25, 4, 5, 26, 999])
    found = index.nearest(np.ones(1, np.float32), 3, 5, ended)
    assert (found.rows.tolist(), found.on_air) == ([1], 1)
    assert index.rows_of(ended).tolist() == [2, 0]
    names = ("live_ids", "author_ids", "start_ts_ms", "end_ts_ms", "vectors")
    empty = replace(index, **{name: getattr(index, name)[:0] for name in names})
    assert empty.nearest(np.ones(1, np.float32), 3, 5, ended).rows.tolist() == []


def test_a_live_without_an_end_is_on_air_until_somebody_says_so() -> None:
    index = index_of([[1.0], [2.0]], [10, 10], [NO_END, 20])
    one = np.ones(1, np.float32)
    assert index.nearest(one, 2, 10**15).rows.tolist() == [0]
    assert index.nearest(one, 2, 20).rows.tolist() == [0]  # its end is no longer it
    assert index.nearest(one, 2, 19).rows.tolist() == [1, 0]
    assert index.nearest(one, 2, 9).rows.tolist() == []


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    index = index_of([[1.0, 2.0], [3.0, 4.0]], [1, 2], [3, NO_END])
    index.save(tmp_path)
    again = LiveIndex.load(tmp_path)
    for name in ("live_ids", "author_ids", "start_ts_ms", "end_ts_ms", "vectors"):
        assert np.array_equal(getattr(again, name), getattr(index, name))
    assert (again.until_ts_ms, again.width) == (77, 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"live_ids": np.array([5, 5])}, "ascending and unique"),
        ({"end_ts_ms": np.array([9, 2])}, "live 15: wanted an end after its start"),
        ({"vectors": np.array([[1.0], [np.nan]], np.float32)}, "vector of live 15 holds NaN"),
        ({"vectors": np.ones((2, 1))}, r"vectors: wanted float32 \(2, 1\), got float64"),
        ({"vectors": np.ones((3, 1), np.float32)}, r"vectors: wanted float32 \(2, 1\), got float32 \(3, 1\)"),
        ({"author_ids": np.ones(1, np.int64)}, r"author_ids: wanted int64 \(2,\), got int64 \(1,\)"),
    ],
)
def test_lives_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    index = index_of([[1.0], [2.0]], [1, 2], [3, 4])
    with pytest.raises(ArtifactError, match=message):
        replace(index, **changed)


def test_another_format_and_damaged_files_are_refused(tmp_path: Path) -> None:
    index_of([[1.0]], [1], [2]).save(tmp_path)
    head = tmp_path / "index.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"format": 2}))
    with pytest.raises(ArtifactError, match="format: got 2, wanted 1; run the job index again"):
        LiveIndex.load(tmp_path)
    (tmp_path / "lives.safetensors").write_bytes(b"no such file")
    with pytest.raises(ArtifactError, match="cannot be read"):
        LiveIndex.load(tmp_path)
