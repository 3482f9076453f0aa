"""What lies over a bank: lookups are those of the folded arrays, and an overlay never changes once it is read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts.bank import Array
from serve.overlay import Overlay

ROWS = 50
CHANGES = st.lists(st.sets(st.integers(0, ROWS - 1), max_size=30).map(sorted), max_size=12)


def states(rows: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "sarm": rng.normal(size=(rows, 2, 3)).astype(np.float32),
        "tags": rng.integers(0, 99, (rows, 2)),
    }


def over(bank: dict[str, Array]) -> Overlay:
    return Overlay.empty(bank, ROWS)


@given(CHANGES, st.lists(st.integers(0, ROWS - 1), max_size=60))
def test_lookups_are_those_of_the_folded_arrays_now_and_later(changes: list[list[int]], asked: list[int]) -> None:
    bank = states(ROWS, 0)
    folded = {name: state.copy() for name, state in bank.items()}
    overlay, seen = over(bank), []
    for seed, touched in enumerate(changes, start=1):
        rows, new = np.array(touched, np.int64), states(len(touched), seed)
        overlay = overlay.with_rows(rows, new)
        for name, state in folded.items():
            state[rows] = new[name]
        seen.append((overlay, {name: state.copy() for name, state in folded.items()}))
    rows = np.array(asked, np.int64)
    # Those of before, too: requests may still read them.
    for each, wanted in seen:
        found = each.gather(bank, rows)
        assert all(np.array_equal(found[name], wanted[name][rows]) for name in bank)
    assert overlay.rows().tolist() == sorted(set().union(*changes))


def test_two_that_follow_one_do_not_touch_each_other() -> None:
    bank, row = states(ROWS, 0), np.array([3])
    first = over(bank).with_rows(np.array([1]), states(1, 1))
    left, right = first.with_rows(row, states(1, 2)), first.with_rows(row, states(1, 3))
    assert np.array_equal(left.gather(bank, row)["sarm"], states(1, 2)["sarm"])
    assert np.array_equal(right.gather(bank, row)["sarm"], states(1, 3)["sarm"])
    assert np.array_equal(first.gather(bank, row)["sarm"], bank["sarm"][row])


def test_memory_follows_the_rows_that_count_and_not_the_deltas() -> None:
    bank = states(ROWS, 0)
    overlay = over(bank)
    for seed in range(2000):
        overlay = overlay.with_rows(np.arange(10), states(10, seed))
    assert len(overlay.arrays["sarm"]) == 1024
    assert np.array_equal(overlay.gather(bank, np.arange(10))["sarm"], states(10, 1999)["sarm"])


def test_without_rows_over_it_a_bank_is_read_as_it_is() -> None:
    bank, rows = states(ROWS, 0), np.array([5, 5, 0])
    found = over(bank).gather(bank, rows)
    assert all(np.array_equal(found[name], state[rows]) for name, state in bank.items())
