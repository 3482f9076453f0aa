"""Authors and the lives they plan."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipelines.tables.contract import FIELD_LIMITS
from pipelines.world.authors import DAY_MS, Author, day_name, day_start_ms, make_authors, plan_day, true_anchor
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import CATEGORIES, lexicon

WORDS = lexicon(48)
CONFIG = WorldConfig(num_authors=2000, num_days=4, new_author_share=0.02, num_points=48)


@pytest.fixture(scope="module")
def authors() -> list[Author]:
    return make_authors(CONFIG, WORDS, seed=1)


def within_4_errors(hits: int, count: int, share: float) -> bool:
    return abs(hits / count - share) < 4 * (share * (1 - share) / count) ** 0.5


def test_equal_seeds_give_equal_authors_and_another_seed_others(authors: list[Author]):
    assert make_authors(CONFIG, WORDS, seed=1) == authors
    assert {a.author_id for a in make_authors(CONFIG, WORDS, seed=2)} != {a.author_id for a in authors}
    assert len({a.author_id for a in authors}) == len(authors)


def test_new_authors_join_every_later_day_and_are_on_air_at_once(authors: list[Author]):
    assert Counter(a.first_day for a in authors) == {0: 2000, 1: 40, 2: 40, 3: 40}
    for day in range(4):
        on_air = {p.author_id for p in plan_day(authors, day, CONFIG, seed=1)}
        assert {a.author_id for a in authors if a.first_day > day}.isdisjoint(on_air)
        assert day == 0 or {a.author_id for a in authors if a.first_day == day} <= on_air


def test_the_coarse_category_errs_and_is_missing_as_often_as_configured(authors: list[Author]):
    missing = sum(a.shown_category is None for a in authors)
    wrong = sum(a.shown_category not in (None, a.category) for a in authors)
    assert within_4_errors(missing, len(authors), CONFIG.category_missing)
    assert within_4_errors(wrong, len(authors), CONFIG.category_error)


@pytest.mark.parametrize(("missing", "error"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
def test_the_shares_of_the_category_reach_their_ends(missing: float, error: float):
    config = replace(CONFIG, num_authors=100, category_missing=missing, category_error=error)
    for a in make_authors(config, WORDS, seed=0):
        assert (a.shown_category is None) == (missing == 1)
        assert (a.shown_category == a.category) == (missing == error == 0)


def test_popularity_is_long_tailed_with_mean_one(authors: list[Author]):
    popularity = np.sort([a.popularity for a in authors])[::-1]
    assert popularity.mean() == pytest.approx(1)
    assert popularity[: len(popularity) // 10].sum() > 0.25 * popularity.sum(), "the top tenth has far more viewers"
    assert np.median(popularity) < 0.8


def test_phrases_come_mostly_from_the_authors_own_category(authors: list[Author]):
    own = [WORDS.theme_category[t] == a.category for a in authors for t in a.themes]
    assert 0.8 < np.mean(own) < 1
    assert Counter(a.category for a in authors).keys() == set(range(len(CATEGORIES)))


def test_lives_fit_in_their_day_and_last_half_an_hour_to_three(authors: list[Author]):
    for day in range(2):
        midnight = day_start_ms(CONFIG.first_day, day)
        plans = plan_day(authors, day, CONFIG, seed=1)
        assert within_4_errors(len(plans) - 40 * day, 2000, CONFIG.on_air_share)
        assert [p.author_id for p in plans] == sorted({p.author_id for p in plans})
        for plan in plans:
            assert 60 <= plan.num_segments <= 360
            assert midnight <= plan.start_ts_ms
            assert plan.start_ts_ms + 30_000 * plan.num_segments <= midnight + DAY_MS
            assert 0 < plan.popularity <= 1
            assert all(theme != plan.theme for _, _, theme in plan.highlights)


def test_habits_hold_from_day_to_day_but_not_always(authors: list[Author]):
    """Yesterday's anchor says much about today's live: that is what a ranker has to go on."""
    days = [{p.author_id: p for p in plan_day(authors, day, CONFIG, seed=1)} for day in range(2)]
    both = [(days[0][a], days[1][a]) for a in days[0].keys() & days[1].keys()]
    assert len(both) > 200
    for name in ("theme", "scene", "format", "topics", "points", "audiences"):
        same = np.mean([getattr(one, name) == getattr(other, name) for one, other in both])
        assert 0.6 < same < 0.98, name


def test_about_the_configured_share_is_on_air_on_a_day(authors: list[Author]):
    shares = [len(plan_day(authors, day, CONFIG, seed=1)) / len(authors) for day in range(4)]
    assert np.mean(shares) == pytest.approx(CONFIG.on_air_share, abs=0.06)


def test_the_true_anchor_fills_every_field_within_its_limit(authors: list[Author]):
    for plan in plan_day(authors, 0, CONFIG, seed=1):
        anchor = true_anchor(plan, WORDS)
        assert list(anchor) == list(FIELD_LIMITS)
        for field, values in anchor.items():
            assert 1 <= len(values) == len(set(values)) <= FIELD_LIMITS[field]


def test_days_are_calendar_days_in_utc():
    assert day_name(CONFIG.first_day, 31) == "2026-02-01"
    assert day_start_ms(CONFIG.first_day, 0) == np.datetime64("2026-01-01", "ms").astype(int)
