"""What the lives of a day say, as attribute values, and how much viewers like it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.world.authors import Author
from pipelines.world.lives import LivePlan
from pipelines.world.platform.phrases import PhraseBook
from pipelines.world.platform.viewers import Viewers
from pipelines.world.tastes import FACTORS, Stage

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# How much each field counts, in canonical order; squares sum to about 1. Values within a phrase share its weight.
FIELD_WEIGHTS = {"point": 0.15, "theme": 0.85, "topic": 0.45, "audience": 0.15, "format": 0.15, "scene": 0.15}
_INTERACTION = 0.25  # of the likings of a theme's thing and mood
_CURRENT_THEME = 0.4  # how much the theme of the moment counts against the live's main theme


def content_rows(lives: Sequence[LivePlan], book: PhraseBook, weight: Mapping[str, float] = FIELD_WEIGHTS) -> Floats:
    """Weight of each attribute value in the content of each live, [n, V], the field's weight included."""
    values = book.attributes
    rows = np.zeros((len(lives), len(values)), np.float32)
    for row, live in zip(rows, lives, strict=True):
        np.add.at(row, book.point_values[list(live.points)], weight["point"] / (2 * len(live.points)) ** 0.5)
        np.add.at(row, book.theme_values[live.theme], weight["theme"] / 3**0.5)
        np.add.at(row, book.topic_values[list(live.topics)], weight["topic"] / (2 * len(live.topics)) ** 0.5)
        row[values.first_audience + np.array(live.audiences)] += weight["audience"] / len(live.audiences) ** 0.5
        row[values.first_format + live.format] += weight["format"]
        row[values.first_scene + live.scene] += weight["scene"]
    return rows


def make_stage(plans: list[LivePlan], authors: list[Author], book: PhraseBook, seed: int) -> Stage:
    """Arrays for a day's lives; `Stage.phrases` has the weights of attribute values."""
    by_id = {a.author_id: a for a in authors}
    highlights = np.zeros((len(plans), 3, 3), np.int64)
    for row, plan in enumerate(plans):
        for i, mark in enumerate(plan.highlights):
            highlights[row, i] = mark
    ids = np.array([p.author_id for p in plans], np.int64)
    start = np.array([p.start_ts_ms for p in plans], np.int64)
    return Stage(
        plans=plans,
        author_id=ids,
        live_id=np.array([p.live_id for p in plans], np.int64),
        start_ts_ms=start,
        end_ts_ms=start + 30_000 * np.array([p.num_segments for p in plans], np.int64),
        phrases=content_rows(plans, book),
        factors=author_factors(ids, seed),
        quality=np.array([by_id[a].quality for a in ids.tolist()], np.float32),
        popularity=np.array([by_id[a].popularity for a in ids.tolist()], np.float32),
        theme=np.array([p.theme for p in plans], np.int64),
        highlights=highlights,
        theme_offset=0,
    )


def author_factors(author_id: Ints, seed: int) -> Floats:
    """Hidden factors of authors, [n, F]: of the author alone, not of the day."""
    factors = np.empty((len(author_id), FACTORS), np.float32)
    for row, author in enumerate(author_id.tolist()):
        factors[row] = np.random.default_rng([seed, 13, author]).standard_normal(FACTORS, np.float32)
    return factors


def liking_of(viewers: Viewers, rows: Floats, theme: Ints, book: PhraseBook, user: Ints) -> Floats:
    """How much users like contents, about standard normal: `rows` [n, V] and main `theme` [n] of pairs with `user`."""
    liking: Floats = np.einsum("nv,nv->n", viewers.taste[user], rows)
    return liking + np.float32(FIELD_WEIGHTS["theme"]) * _together(viewers, theme, book, user)


def content_liking(viewers: Viewers, stage: Stage, book: PhraseBook, user: Ints, live: Ints, ts_ms: Ints) -> Floats:
    """How much users like what lives show at a moment, for pairs of equal length."""
    now, main = stage.theme_at(live, ts_ms), stage.theme[live]
    liking = liking_of(viewers, stage.phrases[live], main, book, user)
    moved = theme_liking(viewers, now, book, user) - theme_liking(viewers, main, book, user)
    return liking + np.float32(_CURRENT_THEME) * moved


def theme_liking(viewers: Viewers, theme: Ints, book: PhraseBook, user: Ints) -> Floats:
    """How much users like themes, the field's weight included, for pairs of equal length."""
    single = viewers.taste[user[:, None], book.theme_values[theme]].sum(axis=1) / np.float32(3**0.5)
    liking: Floats = np.float32(FIELD_WEIGHTS["theme"]) * (single + _together(viewers, theme, book, user))
    return liking


def _together(viewers: Viewers, theme: Ints, book: PhraseBook, user: Ints) -> Floats:
    """The small interaction: a thing and a mood that are both liked, or both disliked, go well together."""
    values = book.theme_values[theme]
    both: Floats = viewers.taste[user, values[:, 0]] * viewers.taste[user, values[:, 2]]
    return np.float32(_INTERACTION) * both
