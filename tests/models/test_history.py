"""The rule of history: what is known at a moment, and what must be kept for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.history import HistoryRule, known_at, num_stored

TIMES = st.lists(st.integers(0, 60), max_size=20).map(lambda times: np.sort(np.array(times, np.int64)) * 1000)


def test_a_click_is_known_when_the_delay_has_passed() -> None:
    times, watched = np.array([1000, 2000, 3000]), np.full(3, 0.5, np.float32)
    assert known_at(3000, times, watched, 9)[0].tolist() == [0, 1]
    assert known_at(3001, times, watched, 9)[0].tolist() == [0, 1, 2]
    assert known_at(3001, times, watched, 9, delay_ms=1000)[0].tolist() == [0, 1]
    assert known_at(3000, times, watched, 9, delay_ms=1000)[0].tolist() == [0]


def test_the_newest_come_last_with_age_and_what_was_watched_by_then() -> None:
    times, watched = np.array([1000, 2000, 3000]), np.array([9.0, 0.5, 9.0], np.float32)
    known, ages_s, watched_s = known_at(5500, times, watched, 2)
    assert known.tolist() == [1, 2] and ages_s.tolist() == [3.5, 2.5] and watched_s.tolist() == [0.5, 2.5]
    assert ages_s.dtype == watched_s.dtype == np.float32


@given(st.lists(TIMES, min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 30), st.integers(1, 90_000))
def test_what_is_stored_is_enough_for_any_moment_after_a_users_newest_click(
    of_users: list[np.ndarray], length: int, delay_s: int, after_ms: int
) -> None:
    of_users = [times for times in of_users if len(times)]
    if not of_users:
        return
    rule = HistoryRule(length=length, days=1, delay_ms=1000 * delay_s)
    user = np.repeat(np.arange(len(of_users)), [len(times) for times in of_users])
    newest = np.array([times[-1] for times in of_users])
    kept = num_stored(user, np.concatenate(of_users), newest, rule)
    for times in of_users:
        moment = int(times[-1]) + after_ms
        whole, part = (
            known_at(moment, some, np.zeros(len(some), np.float32), length, rule.delay_ms)
            for some in (times, times[-kept:])
        )
        assert part[1].tolist() == whole[1].tolist()


def test_without_a_delay_no_more_is_stored_than_is_read() -> None:
    user, times = np.array([0, 0, 0, 1]), np.array([1, 5, 5, 9])
    assert num_stored(user, times, np.array([5, 9]), HistoryRule(length=2, days=1, delay_ms=0)) == 2


def test_no_more_is_stored_than_a_delay_can_hide() -> None:
    user, times = np.array([0, 0, 0, 1]), np.array([1, 5, 6, 9])
    assert num_stored(user, times, np.array([6, 9]), HistoryRule(length=2, days=1, delay_ms=2)) == 4


@pytest.mark.parametrize("wrong", [{"length": 0}, {"days": -1}, {"delay_ms": -1}])
def test_a_rule_that_makes_no_history_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="wanted length >= 1"):
        HistoryRule(**({"length": 1, "days": 0, "delay_ms": 0} | wrong))
