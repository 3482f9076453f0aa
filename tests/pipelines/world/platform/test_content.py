"""Liking is over attribute values: the same content in other words is liked equally."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.world.config import WorldConfig
from pipelines.world.platform.authors import make_authors, plan_day
from pipelines.world.platform.content import content_liking, make_stage
from pipelines.world.platform.phrases import WORDINGS
from pipelines.world.platform.viewers import make_viewers

CONFIG = WorldConfig(laws="platform", num_authors=300, num_users=200, num_days=2, num_points=48, on_air_share=1.0)
EVERYONE, BOOK = make_authors(CONFIG, seed=1)
VIEWERS = make_viewers(CONFIG, BOOK.attributes, 1, 0)
PLANS = plan_day(EVERYONE, 0, CONFIG, seed=1)


def everyones(plan, segment: int = 0) -> np.ndarray:
    """Liking of one live by every viewer, [U]."""
    stage = make_stage([plan], EVERYONE, BOOK, seed=1)
    user = np.arange(len(VIEWERS.user_id))
    moment = np.full(len(user), plan.start_ts_ms + 30_000 * segment)
    return content_liking(VIEWERS, stage, BOOK, user, np.zeros(len(user), np.int64), moment)


def test_the_same_content_in_other_words_is_liked_equally():
    plan = replace(PLANS[0], highlights=())
    author = next(a for a in EVERYONE if a.author_id == plan.author_id)
    said = [
        replace(plan, theme=author.themes[0] + i, topics=(author.topics[0] + i,), points=(author.points[0] + i,))
        for i in range(WORDINGS)
    ]
    assert len({BOOK.themes[p.theme] for p in said}) > 1
    likings = [everyones(p) for p in said]
    assert all((liking == likings[0]).all() for liking in likings)


def test_two_languages_are_liked_equally():
    """Two authors' themes of the same values, found anywhere in the book."""
    values = [tuple(v) for v in BOOK.theme_values.tolist()]
    first = {v: i for i, v in reversed(list(enumerate(values)))}
    pairs = [(first[v], i) for i, v in enumerate(values) if i - first[v] >= WORDINGS]
    one, other = next((i, j) for i, j in pairs if not set(BOOK.themes[i].split()) & set(BOOK.themes[j].split()))
    plan = replace(PLANS[0], highlights=())
    np.testing.assert_array_equal(everyones(replace(plan, theme=one)), everyones(replace(plan, theme=other)))


def test_likings_add_up_over_values_but_for_a_small_interaction():
    plan = replace(PLANS[0], highlights=())
    thing, style, mood = BOOK.theme_values[plan.theme]
    single = VIEWERS.taste[:, [thing, style, mood]].sum(axis=1) * 0.85 / 3**0.5
    pair = 0.85 * 0.25 * VIEWERS.taste[:, thing] * VIEWERS.taste[:, mood]
    other = next(p for p in PLANS if not np.isin(BOOK.theme_values[p.theme], [thing, style, mood]).any()).theme
    t, s, m = BOOK.theme_values[other]
    change = (
        VIEWERS.taste[:, [t, s, m]].sum(axis=1) * 0.85 / 3**0.5
        + 0.85 * 0.25 * VIEWERS.taste[:, t] * VIEWERS.taste[:, m]
    )
    np.testing.assert_allclose(
        everyones(replace(plan, theme=other)) - everyones(plan), change - single - pair, atol=1e-4
    )
    assert pair.std() < 0.4 * single.std()


def test_the_theme_of_the_moment_counts_in_part():
    calm = replace(PLANS[0], highlights=(), num_segments=60)
    other = PLANS[1].theme
    lively = replace(calm, highlights=((10, 12, other),))
    np.testing.assert_array_equal(everyones(lively, 9), everyones(calm, 9))
    moved = everyones(replace(calm, theme=other)) - everyones(calm)
    np.testing.assert_allclose(everyones(lively, 10) - everyones(calm, 10), 0.4 * moved, atol=1e-4)


def test_likings_are_about_standard_normal():
    stage = make_stage(PLANS, EVERYONE, BOOK, seed=1)
    rng = np.random.default_rng(0)
    user, live = rng.integers(len(VIEWERS.user_id), size=20_000), rng.integers(len(PLANS), size=20_000)
    liking = content_liking(VIEWERS, stage, BOOK, user, live, stage.start_ts_ms[live])
    assert abs(liking.mean()) < 0.6 and liking.std() == pytest.approx(1.0, abs=0.25)
