"""HitRate@K against a search of one moment after another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models import hit_rate
from models.hit_rate import NO_END, NOT_THERE, Candidates, hit_rates, search


def slow(user: np.ndarray, at: int, own: int, candidates: Candidates) -> tuple[int, int]:
    """By the words of the definition."""
    there = [s for s in range(len(candidates.vectors)) if candidates.since_ms[s] <= at < candidates.until_ms[s]]
    if own not in there:
        return NOT_THERE, len(there)
    score = {s: float(user @ candidates.vectors[s]) for s in there}
    return sum(score[s] >= score[own] for s in there if s != own), len(there)


@given(seed=st.integers(0, 10**6), moments=st.integers(0, 12), together=st.integers(1, 5))
def test_ranks_are_those_of_a_search_of_each_moment(seed: int, moments: int, together: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 15))
    since = rng.integers(0, 20, size)
    until = np.where(rng.random(size) < 0.2, NO_END, since + rng.integers(0, 10, size))
    candidates = Candidates(rng.integers(-2, 3, (size, 3)).astype(np.float32), since, until)
    users = rng.integers(-2, 3, (moments, 3)).astype(np.float32)
    at, own = rng.integers(0, 30, moments), rng.integers(-1, size, moments)
    before, hit_rate._TOGETHER = hit_rate._TOGETHER, together
    try:
        found = search(users, at, own, candidates)
    finally:
        hit_rate._TOGETHER = before
    expected = [slow(users[m], int(at[m]), int(own[m]), candidates) for m in range(moments)]
    assert list(zip(found.ranks.tolist(), found.candidates.tolist(), strict=True)) == expected


def test_a_model_that_says_the_same_of_all_finds_nothing() -> None:
    candidates = Candidates(np.zeros((5, 2), np.float32), np.zeros(5, np.int64), np.full(5, NO_END))
    found = search(np.ones((3, 2), np.float32), np.arange(3), np.arange(3), candidates)
    assert found.ranks.tolist() == [4, 4, 4] and found.candidates.tolist() == [5, 5, 5]
    assert hit_rates(found.ranks, (4, 5)) == {4: 0.0, 5: 1.0}
    assert np.isnan(hit_rates(found.ranks[:0], (4,))[4])
