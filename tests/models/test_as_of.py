"""The newest segments that are known of a live at a moment: never one that ends after it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.as_of import newest_segments


def rows(*args: list[int], **sizes: int) -> list[list[int]]:
    return newest_segments(*(np.array(a, np.int64) for a in args), **sizes).tolist()


def test_a_segment_is_known_from_its_end_on():
    lives, ends = [7, 7, 7], [30, 60, 90]
    assert rows(lives, ends, [7] * 6, [29, 30, 59, 60, 90, 10_000]) == [[-1], [0], [0], [1], [2], [2]]


def test_a_delay_is_waited_for():
    lives, ends = [7, 7], [30, 60]
    assert rows(lives, ends, [7] * 4, [34, 35, 64, 65], delay_ms=5) == [[-1], [0], [0], [1]]


def test_the_newest_stand_last_and_lives_are_kept_apart():
    lives, ends = [2, 1, 2, 1, 2], [90, 30, 30, 60, 60]
    assert rows(lives, ends, [2, 1, 2, 3], [95, 95, 65, 95], count=3) == [[2, 4, 0], [-1, 1, 3], [-1, 2, 4], [-1] * 3]


def test_of_two_that_end_at_once_the_later_row_is_the_newer():
    assert rows([1, 1], [30, 30], [1], [30], count=2) == [[0, 1]]


def test_nothing_is_known_where_there_is_nothing():
    assert rows([], [], [1, 2], [5, 5], count=2) == [[-1, -1]] * 2
    assert rows([1], [30], [], []) == []


@pytest.mark.parametrize(("args", "sizes", "message"), [
    (([1], [1, 2], [1], [1]), {}, "1 lives and 2 ends"),
    (([1], [1], [1], [1]), {"delay_ms": -1}, "delay_ms >= 0"),
    (([1], [1], [1], [1]), {"count": 0}, "count >= 1"),
])  # fmt: skip
def test_what_cannot_be_answered_is_refused(args: tuple[list[int], ...], sizes: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        rows(*args, **sizes)


times = st.integers(-(2**50), 2**50) | st.integers(0, 12)
pairs = st.lists(st.tuples(st.integers(0, 3) | st.integers(-(2**63), 2**63 - 1), times), max_size=25)


@given(pairs, pairs, st.integers(0, 4), st.integers(1, 4))
def test_never_a_segment_that_ends_later_and_always_the_last_before(
    segments: list[tuple[int, int]], moments: list[tuple[int, int]], delay: int, count: int
):
    """Against the rule read word by word, moment by moment."""
    lives, ends = ([s[i] for s in segments] for i in range(2))
    at_lives, at = ([m[i] for m in moments] for i in range(2))
    found = rows(lives, ends, at_lives, at, delay_ms=delay, count=count)
    assert len(found) == len(moments)
    for (live, moment), row in zip(moments, found, strict=True):
        assert all(ends[i] + delay <= moment and lives[i] == live for i in row if i >= 0), "leakage"
        known = sorted((e + delay, i) for i, (v, e) in enumerate(segments) if v == live and e + delay <= moment)
        assert row == [-1] * (count - len(known)) + [i for _, i in known[-count:]]


@given(pairs, pairs, pairs)
def test_what_comes_later_changes_nothing(
    segments: list[tuple[int, int]], moments: list[tuple[int, int]], later: list[tuple[int, int]]
):
    """Segments that end after a moment, whatever they are, leave its rows as they were."""
    last = max((m for _, m in moments), default=0)
    more = segments + [(live, last + 1 + abs(end)) for live, end in later]
    before, after = (
        rows([v for v, _ in s], [e for _, e in s], [v for v, _ in moments], [m for _, m in moments], count=2)
        for s in (segments, more)
    )
    assert before == after
