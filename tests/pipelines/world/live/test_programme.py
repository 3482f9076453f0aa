"""The law of acts, against what follows from it by hand and by drawing lives."""

import itertools

import numpy as np
import pytest

from pipelines.world.live.programme import Act, Course, Programme, outlook

ACTS = tuple(Act(theme=10 * k, scene=k, intensity=0, segments=n) for k, n in enumerate((2, 1, 3)))
PROGRAMME = Programme(acts=ACTS, law=((0.0, 0.75, 0.25), (0.4, 0.0, 0.6), (0.9, 0.1, 0.0)))


def test_states_are_acts_and_the_time_they_have_been_on():
    assert PROGRAMME.act.tolist() == [0, 0, 1, 2, 2, 2]
    assert PROGRAMME.states([0, 0, 1, 2, 2, 2, 0, 0]).tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert PROGRAMME.states([2, 2, 2, 1, 0]).tolist() == [3, 4, 5, 2, 0], "a live may end within an act"
    assert PROGRAMME.states([]).tolist() == []


def test_an_act_lasts_its_time_and_then_the_law_decides():
    wanted = np.zeros((6, 6))
    wanted[0, 1] = wanted[3, 4] = wanted[4, 5] = 1
    wanted[1, [2, 3]] = 0.75, 0.25
    wanted[2, [0, 3]] = 0.4, 0.6
    wanted[5, [0, 2]] = 0.9, 0.1
    np.testing.assert_array_equal(PROGRAMME.step, wanted)
    assert PROGRAMME.best_next.tolist() == [0, 1, 2, 2, 2, 0]
    np.testing.assert_allclose(PROGRAMME.opening, [1 / 3, 0, 1 / 3, 1 / 3, 0, 0])


def test_usual_shares_are_those_of_a_long_live():
    np.testing.assert_allclose(PROGRAMME.usual @ PROGRAMME.step, PROGRAMME.usual, atol=1e-12)
    states = PROGRAMME.states(PROGRAMME.run(60_000, np.random.default_rng(0)))
    np.testing.assert_allclose(np.bincount(states) / len(states), PROGRAMME.usual, atol=0.01)


def test_drawn_lives_follow_the_law():
    states = PROGRAMME.states(PROGRAMME.run(60_000, np.random.default_rng(1)))
    pairs = np.zeros((6, 6))
    np.add.at(pairs, (states[:-1], states[1:]), 1)
    np.testing.assert_allclose(pairs / pairs.sum(axis=1, keepdims=True), PROGRAMME.step, atol=0.02)
    firsts = np.bincount([PROGRAMME.run(1, np.random.default_rng(i))[0] for i in range(600)])
    assert firsts.min() > 150, "every act may begin a live"


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_the_outlook_is_the_sum_over_every_way_on(horizon: int):
    """Way by way: the chance of each sequence of states, and the acts in it."""
    share, chance = outlook(PROGRAMME, horizon)
    np.testing.assert_allclose(chance.sum(axis=1), 1)
    np.testing.assert_allclose(share.sum(axis=1), 1)
    assert len(np.unique(share, axis=0)) == len(share)
    for state in range(6):
        wanted: dict[tuple[float, ...], float] = {}
        for way in itertools.product(range(6), repeat=horizon):
            p = np.prod([PROGRAMME.step[a, b] for a, b in itertools.pairwise((state, *way))])
            if p:
                key = tuple(np.bincount(PROGRAMME.act[list(way)], minlength=3) / horizon)
                wanted[key] = wanted.get(key, 0) + p
        found = {tuple(s): c for s, c in zip(share, chance[state], strict=True) if c}
        assert found == pytest.approx(wanted)


def test_the_main_act_is_on_for_most_of_the_live():
    course = Course(programme=PROGRAMME, acts=(2, 1, 0, 0, 1, 2, 2), themes=(3, 14, 25))
    assert course.main == 2 and course.act_at(2) == ACTS[0]
    assert course.states.tolist() == [3, 2, 0, 1, 2, 3, 4]
