"""Probabilities given the future, and the expectations over it, against a sum over every way on."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from pipelines.tables.contract import TASKS_COLUMNS
from pipelines.tables.truth import KNOWLEDGE
from pipelines.world.live.chances import LiveChances
from pipelines.world.live.config import LiveConfig
from tests.pipelines.world.live.conftest import CONFIG, laws_of

LAWS = laws_of()
PLANS = LAWS.plan(0)
CHANCES = LAWS.chances(LAWS.viewers(0), PLANS)
# Of programmes with few acts, so that every way on can be walked.
LIVE = min(range(len(PLANS)), key=lambda i: len(PLANS[i].course.programme.act))
USER = np.arange(5)
FOLLOWED = np.array([False, False, False, True, False])
SEGMENT = 7


def moment(live: int = LIVE, segment: int = SEGMENT) -> np.ndarray:
    return np.full(len(USER), PLANS[live].start_ts_ms + 30_000 * segment + 12_345)


def shown(acts: dict[int, int], chances: LiveChances = CHANCES) -> dict[str, np.ndarray]:
    """True chances of the users at SEGMENT, where these acts are on screen in these segments instead."""
    changed = chances.screen.acts.copy()
    for segment, act in acts.items():
        changed[LIVE, segment] = act
    now = replace(chances, screen=replace(chances.screen, acts=changed))
    return now(USER, np.full(len(USER), LIVE), moment(), FOLLOWED)


def walked(start: np.ndarray) -> dict[str, np.ndarray]:
    """The expectation of the true chances at SEGMENT over its state, of chances `start` [Q], and the four after it."""
    programme = PLANS[LIVE].course.programme
    result = {task: np.zeros(len(USER)) for task in TASKS_COLUMNS}
    for way in itertools.product(range(len(start)), repeat=5):
        p = start[way[0]] * np.prod([programme.step[a, b] for a, b in itertools.pairwise(way)])
        if p:
            here = shown({SEGMENT + i: int(programme.act[state]) for i, state in enumerate(way)})
            for task in result:
                result[task] += p * here[task]
    return result


def test_expectations_are_the_sums_over_every_way_on():
    course = PLANS[LIVE].course
    programme, states = course.programme, course.states
    given = {
        "present": np.eye(len(programme.act))[states[SEGMENT]],
        "past": programme.step[states[SEGMENT - 1]],
        "author": programme.usual,
    }
    expected = CHANCES.expected(USER, np.full(len(USER), LIVE), moment(), FOLLOWED)
    assert len(expected) == len(KNOWLEDGE) * len(TASKS_COLUMNS)
    for known, start in given.items():
        for task, wanted in walked(start).items():
            np.testing.assert_allclose(expected[f"{known}_{task}"], wanted, rtol=1e-4)


def test_in_the_first_segment_nothing_is_past():
    programme = PLANS[LIVE].course.programme
    expected = CHANCES.expected(USER, np.full(len(USER), LIVE), moment(segment=0), FOLLOWED)
    for task, wanted in walked(programme.opening).items():
        np.testing.assert_allclose(expected[f"past_{task}"], wanted, rtol=1e-4)


@pytest.mark.parametrize(("task", "first", "last"), [("click", 0, 0), ("long_view", 1, 2), ("gift", 1, 4)])
def test_each_label_depends_on_its_own_segments(task: str, first: int, last: int):
    """The chance of a label given a click is moved by the segments from `first` to `last`, counted from now."""

    def given_click(acts: dict[int, int]) -> np.ndarray:
        here = shown(acts)
        return here[task] if task == "click" else here[task] / here["click"]

    count = len(PLANS[LIVE].course.programme.acts)
    still = {SEGMENT + i: 0 for i in range(7)}
    for ahead in range(7):
        moved = [given_click(still | {SEGMENT + ahead: act}) for act in range(1, count)]
        differs = any((np.abs(m / given_click(still) - 1) > 1e-3).all() for m in moved)
        assert differs == (first <= ahead <= last), ahead
        if not differs:
            for m in moved:
                np.testing.assert_allclose(m, given_click(still), rtol=1e-5)


def test_the_more_is_known_the_better_labels_are_ranked():
    """Squared error against the true chance falls with knowledge, and nobody who knows less is wrong on average."""
    rng = np.random.default_rng(0)
    user, live = rng.integers(200, size=4000), rng.integers(len(PLANS), size=4000)
    ts_ms = CHANCES.screen.start_ts_ms[live] + rng.integers(0, 25 * 30_000, size=4000)
    none = np.zeros(4000, bool)
    true, expected = CHANCES(user, live, ts_ms, none), CHANCES.expected(user, live, ts_ms, none)
    np.testing.assert_allclose(expected["present_click"], true["click"], rtol=1e-5)
    for task in ("click", "long_view", "gift"):
        errors = [np.mean((expected[f"{known}_{task}"] - true[task]) ** 2) for known in KNOWLEDGE]
        assert errors[0] < errors[1] < errors[2], task
        for known in KNOWLEDGE:
            miss = expected[f"{known}_{task}"] - true[task]
            assert abs(miss.mean()) < 4 * miss.std() / 4000**0.5 + 1e-9, (task, known)


@pytest.mark.parametrize("off", [{"live": LiveConfig(live_taste=False)}, {"semantic_taste": False}])
def test_in_the_control_nothing_on_screen_matters(off: dict[str, object]):
    laws = laws_of(replace(CONFIG, **off))
    chances = laws.chances(laws.viewers(0), laws.plan(0))
    true = shown({}, chances)
    expected = chances.expected(USER, np.full(len(USER), LIVE), moment(), FOLLOWED)
    for task in TASKS_COLUMNS:
        for known in KNOWLEDGE:
            np.testing.assert_allclose(expected[f"{known}_{task}"], true[task], rtol=1e-5)
        np.testing.assert_array_equal(shown({SEGMENT + i: 1 for i in range(5)}, chances)[task], true[task])
    assert np.ptp(true["click"]) > 0.01, "users do not differ in their taste for one author"
