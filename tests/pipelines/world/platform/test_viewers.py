"""Viewers: they join every day, and their tastes over attribute values drift."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.tables import values
from pipelines.world.config import WorldConfig
from pipelines.world.platform.phrases import attributes
from pipelines.world.platform.viewers import make_viewers

CONFIG = WorldConfig(laws="platform", num_users=600, num_days=30, new_user_share=0.05, num_points=48)
VALUES = attributes(48, 7)
DAYS = {day: make_viewers(CONFIG, VALUES, 1, day) for day in (0, 1, 10, 29)}


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_only_tastes_depend_on_the_day():
    for day, viewers in DAYS.items():
        assert (viewers.user_id == DAYS[0].user_id).all() and (viewers.factors == DAYS[0].factors).all()
        assert (viewers.taste != DAYS[0].taste).any() == (day > 0)
    assert (make_viewers(CONFIG, VALUES, 1, 10).taste == DAYS[10].taste).all()
    assert (make_viewers(CONFIG, VALUES, 2, 10).user_id != DAYS[10].user_id).any()


def test_new_users_join_every_later_day():
    first_day = DAYS[0].first_day
    assert np.bincount(first_day).tolist() == [600] + 29 * [30]
    table = values.validate(DAYS[0].table(first_day == 3), "users", "2026-01-04")
    assert sorted(DAYS[0].user_id[first_day == 3]) == table["user_id"].to_pylist()


def test_tastes_move_a_little_every_day_and_stay_of_the_same_size():
    tastes = {day: viewers.taste for day, viewers in DAYS.items()}
    near, far, farther = (alike(tastes[0], tastes[day]) for day in (1, 10, 29))
    assert 1 > near > 0.99 > far > farther > 0.5
    assert tastes[29].std() == pytest.approx(tastes[0].std(), rel=0.05)


def test_an_own_taste_walks_farther_than_its_group():
    def moved(**scales: float) -> float:
        config = replace(CONFIG, **scales)
        return alike(make_viewers(config, VALUES, 1, 0).taste, make_viewers(config, VALUES, 1, 10).taste)

    assert moved(group_taste=0.0, personal_taste=5.0) < 0.9 < moved(group_taste=5.0, personal_taste=0.0) < 1
    assert moved(group_taste=5.0, personal_taste=5.0, taste_drift=0.0) == pytest.approx(1)


def test_some_values_are_liked_by_nearly_everyone():
    mean = DAYS[0].taste.mean(axis=0)
    assert mean.std() > 0.35
    strongest = np.argsort(-np.abs(mean))[:5]
    assert (np.sign(DAYS[0].taste[:, strongest]) == np.sign(mean[strongest])).mean() > 0.85


def test_without_semantic_taste_no_value_is_liked_by_anyone():
    blind = make_viewers(replace(CONFIG, semantic_taste=False), VALUES, 1, 10)
    assert (blind.taste == 0).all() and (blind.factors == DAYS[0].factors).all()
