"""Authors: a few stars who are on air most, habits that hold in other words."""

from collections import Counter

import numpy as np
import pytest

from pipelines.tables.contract import FIELD_LIMITS
from pipelines.world.authors import DAY_MS, day_start_ms, true_anchor
from pipelines.world.config import WorldConfig
from pipelines.world.platform.authors import make_authors, plan_day
from pipelines.world.platform.phrases import WORDINGS

CONFIG = WorldConfig(laws="platform", num_authors=2000, num_days=3, num_points=48)
EVERYONE, BOOK = make_authors(CONFIG, seed=1)
DAYS = [{p.author_id: p for p in plan_day(EVERYONE, day, CONFIG, seed=1)} for day in range(3)]


def test_equal_seeds_give_equal_authors_and_another_seed_others():
    again, book = make_authors(CONFIG, seed=1)
    assert again == EVERYONE and book == BOOK
    assert make_authors(CONFIG, seed=2)[1].themes != BOOK.themes


def test_authors_join_as_in_the_other_laws():
    assert Counter(a.first_day for a in EVERYONE) == {0: 2000, 1: 40, 2: 40}
    for day, plans in enumerate(DAYS):
        assert not plans.keys() & {a.author_id for a in EVERYONE if a.first_day > day}
        assert day == 0 or plans.keys() >= {a.author_id for a in EVERYONE if a.first_day == day}


def test_stars_are_on_air_more_often_and_longer():
    ranked = sorted((a for a in EVERYONE if a.first_day == 0), key=lambda a: -a.popularity)
    stars, others = ({a.author_id for a in some} for some in (ranked[:10], ranked[1000:]))
    often = [np.mean([a in plans for plans in DAYS for a in some]) for some in (stars, others)]
    assert often[0] > 0.7 and often[1] == pytest.approx(CONFIG.on_air_share, abs=0.04)
    long = [np.mean([plans[a].num_segments for plans in DAYS for a in some if a in plans]) for some in (stars, others)]
    assert long[0] > 1.5 * long[1]


def test_lives_fit_in_their_day_and_anchors_in_their_limits():
    for day, plans in enumerate(DAYS):
        midnight = day_start_ms(CONFIG.first_day, day)
        assert list(plans) == sorted(plans)
        for plan in plans.values():
            assert midnight <= plan.start_ts_ms
            assert plan.start_ts_ms + 30_000 * plan.num_segments <= midnight + DAY_MS
            for field, values in true_anchor(plan, BOOK).items():
                assert 1 <= len(values) == len(set(values)) <= FIELD_LIMITS[field]


def test_content_holds_from_live_to_live_and_its_words_change():
    both = [(DAYS[0][a], DAYS[1][a]) for a in DAYS[0].keys() & DAYS[1].keys()]
    same_content = np.mean([(BOOK.theme_values[x.theme] == BOOK.theme_values[y.theme]).all() for x, y in both])
    same_words = np.mean([BOOK.themes[x.theme] == BOOK.themes[y.theme] for x, y in both])
    assert same_content == pytest.approx(0.85, abs=0.05)
    assert same_words < 0.5
    assert all(any(p.theme in range(t, t + WORDINGS) for t in _habits(p.author_id)) for p, _ in both)


def test_a_programme_has_its_own_topics_and_points():
    """Authors who changed the theme say other topics and points too; who kept it, the same in other words."""
    for author in DAYS[0].keys() & DAYS[1].keys():
        one, other = DAYS[0][author], DAYS[1][author]
        same = (BOOK.theme_values[one.theme] == BOOK.theme_values[other.theme]).all()
        for field, values in (("topics", BOOK.topic_values), ("points", BOOK.point_values)):
            content = [{tuple(values[i]) for i in getattr(plan, field)} for plan in (one, other)]
            assert content[0] == content[1] if same else not content[0] & content[1]


def _habits(author_id: int) -> tuple[int, ...]:
    return next(a.themes for a in EVERYONE if a.author_id == author_id)
