"""Authors keep their programmes; lives are short, all in one evening, and show and say their acts."""

from collections import Counter

import numpy as np
import pytest

from pipelines.world import lives as content
from pipelines.world.authors import DAY_MS, day_start_ms
from pipelines.world.lives import segment_rows
from pipelines.world.platform.phrases import WORDINGS
from tests.pipelines.world.live.conftest import CONFIG, laws_of

LAWS = laws_of()
DAYS = [LAWS.plan(day) for day in range(2)]
EVERY = [plan for plans in DAYS for plan in plans]


def test_programmes_are_cycles_of_three_to_six_acts_with_a_law():
    programmes = {plan.author_id: plan.course.programme for plan in EVERY}
    assert {len(p.acts) for p in programmes.values()} == {3, 4, 5, 6}
    jumping = [p.law for p in programmes.values() if len(p.acts) > 3]
    assert len(set(jumping)) == len(jumping) > 50, "each author jumps in a way of its own"
    for programme in programmes.values():
        law = np.array(programme.law)
        count = len(law)
        np.testing.assert_allclose(law.sum(axis=1), 1)
        np.testing.assert_allclose(law[np.arange(count), (np.arange(count) + 1) % count], 0.75)
        assert (np.diag(law) == 0).all() and (law >= 0).all()
        for field in ("theme", "scene"):
            assert len({getattr(act, field) for act in programme.acts}) == count
    acts = [act for p in programmes.values() for act in p.acts]
    assert {act.intensity for act in acts} == {-1, 0, 1} and {act.segments for act in acts} == {1, 2, 3, 4}


def test_an_author_has_one_programme_on_all_days():
    today, tomorrow = ({p.author_id: p.course for p in plans} for plans in DAYS)
    both = today.keys() & tomorrow.keys()
    assert len(both) > 50
    for author in both:
        assert today[author].programme == tomorrow[author].programme
    assert any(today[a].acts[:8] != tomorrow[a].acts[:8] for a in both)


def test_lives_are_short_and_of_one_evening():
    assert min(len(p.course.acts) for p in EVERY) >= 30 and max(p.num_segments for p in EVERY) <= 60
    for day, plans in enumerate(DAYS):
        start = day_start_ms(CONFIG.first_day, day)
        for plan in plans:
            assert plan.num_segments == len(plan.course.acts)
            assert start + 0.72 * DAY_MS <= plan.start_ts_ms
            assert plan.start_ts_ms + 30_000 * plan.num_segments <= start + 0.88 * DAY_MS


def test_the_anchors_theme_and_scene_are_those_of_the_main_act():
    for plan in EVERY:
        main = Counter(plan.course.acts).most_common(1)[0][1]
        assert plan.course.acts.count(plan.course.main) == main
        assert plan.theme == plan.course.themes[plan.course.main]
        assert plan.scene == plan.course.programme.acts[plan.course.main].scene


def test_themes_are_worded_anew_for_each_live():
    for plan in EVERY:
        for act, said in zip(plan.course.programme.acts, plan.course.themes, strict=True):
            assert act.theme <= said < act.theme + WORDINGS


def test_each_segment_says_its_theme_and_shows_its_scene(monkeypatch: pytest.MonkeyPatch):
    """Frames are drawn with the scene of the act, which no text tells."""
    shown: list[int] = []

    def seen(scene: int, *rest: object) -> np.ndarray:
        shown.append(scene)
        return np.zeros((16, 16, 3), np.uint8)

    monkeypatch.setattr(content, "render", seen)
    for plan in EVERY[:10]:
        shown.clear()
        rows = segment_rows(plan, LAWS.words, np.random.default_rng(0), recorded=0, frames=1, frame_size=16)
        acts = [plan.course.act_at(row["segment"]) for row in rows]
        assert shown == [act.scene for act in acts] and len(set(shown)) > 1
        for row, k in zip(rows, plan.course.acts, strict=True):
            assert LAWS.words.themes[plan.course.themes[k]] in row["speech"]


def test_intensity_moves_viewers_likes_gifts_and_comments():
    rng = np.random.default_rng(0)
    means: dict[int, list[list[float]]] = {-1: [], 0: [], 1: []}
    for plan in EVERY:
        for row in segment_rows(plan, LAWS.words, rng, recorded=0, frames=0, frame_size=16):
            here = means[plan.course.act_at(row["segment"]).intensity]
            here.append(
                [row["viewers"] / plan.popularity, row["likes"] / row["viewers"], row["gifts"] / row["viewers"],
                 len(row["comments"])]
            )  # fmt: skip
    calm, lively, peak = (np.mean(means[i], axis=0) for i in (-1, 0, 1))
    assert (lively > 1.1 * calm).all() and (peak > 1.1 * lively).all()
