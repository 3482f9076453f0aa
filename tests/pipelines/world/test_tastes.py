"""Users' tastes: shared in groups that show in the profile, over content and over single authors."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.tables import values
from pipelines.world.authors import make_authors, plan_day
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import lexicon
from pipelines.world.tastes import PROFILE_SIZES, Stage, Users, author_liking, content_liking, make_stage, make_users

WORDS = lexicon(48)
CONFIG = WorldConfig(num_authors=200, num_users=400, num_days=2, on_air_share=1.0, num_points=48, profile_noise=0.0)
AUTHORS = make_authors(CONFIG, WORDS, seed=1)


@pytest.fixture(scope="module")
def users() -> Users:
    return make_users(CONFIG, WORDS, seed=1)


@pytest.fixture(scope="module")
def stage() -> Stage:
    return make_stage(plan_day(AUTHORS, 0, CONFIG, seed=1), AUTHORS, WORDS, seed=1)


def pairs(users: Users, stage: Stage, count: int = 20_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random users, lives and moments in them."""
    rng = np.random.default_rng(0)
    user = rng.integers(len(users.user_id), size=count)
    live = rng.integers(len(stage.live_id), size=count)
    ts_ms = rng.integers(stage.start_ts_ms[live], stage.end_ts_ms[live])
    return user, live, ts_ms


def test_the_theme_of_a_moment_is_the_plans(users: Users, stage: Stage):
    _, live, ts_ms = pairs(users, stage)
    wanted = [
        stage.plans[i].theme_at(int(ts - stage.start_ts_ms[i]) // 30_000) for i, ts in zip(live, ts_ms, strict=True)
    ]
    assert stage.theme_at(live, ts_ms).tolist() == wanted
    assert (stage.theme_at(live, ts_ms) != stage.theme[live]).mean() > 0.01, "no moment of another theme was drawn"


def test_a_theme_changes_on_the_segments_edge():
    plan = replace(plan_day(AUTHORS, 0, CONFIG, seed=1)[0], theme=0, highlights=((10, 12, 5),))
    stage = make_stage([plan], AUTHORS, WORDS, seed=1)
    edges = plan.start_ts_ms + 30_000 * np.array([10, 10, 12, 12]) + np.array([-1, 0, -1, 0])
    assert stage.theme_at(np.zeros(4, np.int64), edges).tolist() == [0, 5, 5, 0]


def test_equal_seeds_give_equal_users(users: Users):
    again, other = make_users(CONFIG, WORDS, seed=1), make_users(CONFIG, WORDS, seed=2)
    assert (again.taste == users.taste).all() and (again.factors == users.factors).all()
    assert again.table() == users.table() != other.table()


def test_the_users_table_keeps_the_contract(users: Users):
    table = values.validate(users.table(), "users", "2026-01-01")
    assert table["user_id"].to_pylist() == sorted(users.user_id)
    for name, size in PROFILE_SIZES.items():
        assert set(table[name].to_pylist()) == set(range(size)) or name != "device"
        assert 0 <= min(table[name].to_pylist()) <= max(table[name].to_pylist()) < size


def test_activity_is_a_long_tailed_distribution(users: Users):
    activity = np.sort(users.activity)[::-1]
    assert activity.sum() == pytest.approx(1)
    assert activity[: len(activity) // 10].sum() > 0.25


def test_likings_are_about_standard_normal(users: Users, stage: Stage):
    user, live, ts_ms = pairs(users, stage)
    for liking in (content_liking(users, stage, user, live, ts_ms), author_liking(users, stage, user, live)):
        assert abs(liking.mean()) < 0.25
        assert 0.75 < liking.std() < 1.25


def test_taste_is_shared_by_users_of_one_profile(users: Users):
    """Without profile noise, equal profiles (device apart) mean one group, and the group's taste weighs most."""
    profile = np.stack([users.profile[name] for name in ("age_band", "gender", "region")], axis=1)
    taste = users.taste / np.linalg.norm(users.taste, axis=1, keepdims=True)
    alike = taste @ taste.T
    same = (profile[:, None] == profile).all(-1) & ~np.eye(len(taste), dtype=bool)
    assert np.median(alike[same]) > 0.8  # two groups may have one profile
    assert abs(alike[(profile[:, None] != profile).any(-1)].mean()) < 0.15


def test_profile_noise_hides_the_group(users: Users):
    noisy = make_users(replace(CONFIG, profile_noise=1.0), WORDS, seed=1)
    for name in ("age_band", "gender", "region"):
        counts = np.bincount(noisy.profile[name], minlength=PROFILE_SIZES[name]) / len(noisy.user_id)
        assert np.abs(counts - 1 / PROFILE_SIZES[name]).max() < 0.1


def test_without_semantic_taste_only_authors_are_liked(users: Users, stage: Stage):
    blind = make_users(replace(CONFIG, semantic_taste=False), WORDS, seed=1)
    user, live, ts_ms = pairs(blind, stage)
    assert (blind.taste == 0).all()
    assert (content_liking(blind, stage, user, live, ts_ms) == 0).all()
    assert (author_liking(blind, stage, user, live) == author_liking(users, stage, user, live)).all()


def test_no_taste_scale_at_all_is_no_taste():
    config = replace(CONFIG, group_taste=0.0, personal_taste=0.0)
    assert (make_users(config, WORDS, seed=1).taste == 0).all()


def test_an_authors_factors_do_not_change_with_the_day(stage: Stage):
    tomorrow = make_stage(plan_day(AUTHORS, 1, CONFIG, seed=1)[::-1], AUTHORS, WORDS, seed=1)
    today = dict(zip(stage.author_id.tolist(), stage.factors, strict=True))
    shared = [(i, a) for i, a in enumerate(tomorrow.author_id.tolist()) if a in today]
    assert shared and all((tomorrow.factors[i] == today[a]).all() for i, a in shared)


def test_content_changes_the_liking_and_the_theme_of_the_moment_too(users: Users):
    plan = replace(plan_day(AUTHORS, 0, CONFIG, seed=1)[0], theme=0, highlights=((10, 12, 5),))
    stage = make_stage([plan, replace(plan, theme=7, highlights=())], AUTHORS, WORDS, seed=1)
    user = np.arange(len(users.user_id))
    calm, lively = (np.full(len(user), plan.start_ts_ms + 30_000 * segment) for segment in (0, 10))
    first, second = np.zeros(len(user), np.int64), np.ones(len(user), np.int64)
    base = content_liking(users, stage, user, first, calm)
    assert (content_liking(users, stage, user, second, calm) != base).all()
    theme = users.taste[:, stage.theme_offset + 5] - users.taste[:, stage.theme_offset]
    np.testing.assert_allclose(content_liking(users, stage, user, first, lively) - base, 0.4 * theme, atol=1e-5)
