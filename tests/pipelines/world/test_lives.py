"""What lives show and say: the truth can be read off what the prompt keeps, scene and format from pixels alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.semantics.author_day import PromptConfig, gather
from pipelines.world.authors import make_authors, plan_day, true_anchor
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import FORMATS, SCENES, lexicon
from pipelines.world.lives import SEGMENT_MS, LivePlan, segment_rows

WORDS = lexicon(48)
CONFIG = WorldConfig(num_authors=150, num_days=1, on_air_share=1.0, num_points=48)
AUTHORS = make_authors(CONFIG, WORDS, seed=1)


def rows_of(plan: LivePlan, seed: int = 0, **sizes: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, plan.author_id])
    return segment_rows(plan, WORDS, rng, **{"recorded": 6, "frames": 1, "frame_size": 16} | sizes)


@pytest.fixture(scope="module")
def lives() -> list[tuple[LivePlan, list[dict[str, Any]]]]:
    """150 lives as the default world records them, with small frames."""
    return [(plan, rows_of(plan)) for plan in plan_day(AUTHORS, 0, CONFIG, seed=1)]


def test_everything_but_scene_and_format_stands_in_the_text_that_the_prompt_keeps(
    lives: list[tuple[LivePlan, list[dict[str, Any]]]],
):
    for plan, rows in lives:
        day = gather("Mila from Lopar", rows, PromptConfig())
        text = "\n".join([*day.speech, *day.comments])
        truth = true_anchor(plan, WORDS)
        for field in ("point_of_interest", "theme", "topic", "target_audience"):
            for phrase in truth[field]:
                assert phrase in text, (plan.author_id, field)


def test_scene_and_format_are_never_put_in_words(lives: list[tuple[LivePlan, list[dict[str, Any]]]]):
    texts = [row["speech"] for _, rows in lives for row in rows]
    texts += [comment["text"] for _, rows in lives for row in rows for comment in row["comments"]]
    texts += [author.profile for author in AUTHORS]
    everything = "\n".join(texts).lower()
    assert [phrase for phrase in (*SCENES, *FORMATS) if phrase in everything] == []


def test_the_speech_of_a_highlight_names_its_own_theme():
    plan = replace(plan_day(AUTHORS, 0, CONFIG, seed=1)[0], theme=0, highlights=((10, 20, 5),), num_segments=60)
    rows = rows_of(plan, recorded=0)
    assert [row["segment"] for row in rows] == list(range(60))
    for row in rows:
        here, other = (5, 0) if 10 <= row["segment"] < 20 else (0, 5)
        assert plan.theme_at(row["segment"]) == here
        assert WORDS.themes[here] in row["speech"] and WORDS.themes[other] not in row["speech"]


def test_of_two_highlights_at_once_the_first_is_on_air():
    plan = replace(plan_day(AUTHORS, 0, CONFIG, seed=1)[0], theme=0, highlights=((5, 9, 1), (3, 7, 2)))
    assert [plan.theme_at(segment) for segment in range(2, 10)] == [0, 2, 2, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(("count", "wanted"), [(0, 90), (6, 6), (1, 1), (90, 90), (200, 90)])
def test_recorded_segments_are_spread_over_the_live(count: int, wanted: int):
    plan = replace(plan_day(AUTHORS, 0, CONFIG, seed=1)[0], num_segments=90)
    kept = plan.recorded(count)
    assert len(kept) == len(set(kept)) == wanted
    assert set(kept) <= set(range(90))
    assert all(abs((i + 0.5) * 90 / wanted - segment) <= 1 for i, segment in enumerate(kept))


def test_rows_are_placed_in_their_segment(lives: list[tuple[LivePlan, list[dict[str, Any]]]]):
    for plan, rows in lives[:20]:
        for row in rows:
            assert row["start_ts_ms"] == plan.start_ts_ms + row["segment"] * SEGMENT_MS
            offsets = [comment["offset_ms"] for comment in row["comments"]]
            assert offsets == sorted(offsets) and 0 <= offsets[0] <= offsets[-1] < SEGMENT_MS
            assert all(0 <= frame["offset_ms"] < SEGMENT_MS for frame in row["frames"])


def test_several_frames_a_segment_differ_in_time_and_pixels():
    (row,) = rows_of(plan_day(AUTHORS, 0, CONFIG, seed=1)[0], recorded=1, frames=3)
    assert [frame["offset_ms"] for frame in row["frames"]] == [5_000, 15_000, 25_000]
    assert len({frame["jpeg"] for frame in row["frames"]}) == 3


def test_equal_draws_give_equal_rows_and_others_other_rows():
    plan = plan_day(AUTHORS, 0, CONFIG, seed=1)[0]
    assert rows_of(plan) == rows_of(plan) != rows_of(plan, seed=1)


def test_points_of_interest_are_written_by_the_engaged(lives: list[tuple[LivePlan, list[dict[str, Any]]]]):
    for plan, rows in lives[:20]:
        points = true_anchor(plan, WORDS)["point_of_interest"]
        for comment in (c for row in rows for c in row["comments"]):
            assert any(point in comment["text"] for point in points) == (comment["engagement"] >= 0.5)
