"""Users of the simulated platform and what they like.

Tastes are over the fine phrases of an anchor, shared within groups that show partly in the profile, plus a user's own
deviation; and over single authors, through hidden factors.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.tables.contract import PROFILE
from pipelines.world.authors import Author
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import CATEGORIES, Lexicon
from pipelines.world.lives import LivePlan

Floats = NDArray[np.float32]

# How much each field of the anchor counts, in canonical order; squares sum to 1.
FIELD_WEIGHTS = np.array([0.25, 0.64, 0.25, 0.25, 0.42, 0.48], np.float32)
PROFILE_SIZES = dict(zip(PROFILE, (6, 2, 8, 3), strict=True))
FACTORS = 16
_CATEGORY_SHARE = 0.4  # of the variance of a group's taste for phrases that belong to a category
_CURRENT_THEME = 0.4  # how much the theme of the moment counts against the live's main theme


@dataclass(frozen=True, kw_only=True)
class Users:
    """All users, by position; arrays are [U] or [U, ...]."""

    user_id: NDArray[np.int64]
    profile: dict[str, NDArray[np.int16]]
    activity: NDArray[np.float64]
    """Chance of a session, sums to 1; long-tailed."""
    taste: Floats
    """Liking of each phrase, [U, V], standard normal per phrase and field-weighted; zero with the taste off."""
    factors: Floats
    """Hidden factors against authors', [U, F]."""

    def table(self) -> pa.Table:
        """Rows of the `users` table, ascending ids."""
        order = np.argsort(self.user_id)
        return pa.table({"user_id": self.user_id[order]} | {k: v[order] for k, v in self.profile.items()})


def make_users(config: WorldConfig, words: Lexicon, seed: int) -> Users:
    """All users of the world."""
    rng = np.random.default_rng([seed, 4])
    group = rng.choice(config.num_groups, size=config.num_users, p=rng.dirichlet(np.full(config.num_groups, 8.0)))
    profile = {}
    for name, size in PROFILE_SIZES.items():
        typical = rng.integers(size, size=config.num_groups)[group]
        noise = rng.random(config.num_users) < (1.0 if name == "device" else config.profile_noise)
        profile[name] = np.where(noise, rng.integers(size, size=config.num_users), typical).astype(np.int16)
    activity = rng.lognormal(0.0, 0.8, size=config.num_users)
    num_phrases = sum(len(v) for v in words.values())
    scale = float(np.hypot(config.group_taste, config.personal_taste)) or 1.0
    shared = _group_taste(config.num_groups, words, rng) * np.float32(config.group_taste / scale)
    taste = rng.standard_normal((config.num_users, num_phrases), np.float32)
    taste *= np.float32(config.personal_taste / scale)
    taste += shared[group]
    taste *= np.repeat(FIELD_WEIGHTS, [len(v) for v in words.values()]) * np.float32(config.semantic_taste)
    return Users(
        user_id=(rng.permutation(10 * config.num_users)[: config.num_users] + 1).astype(np.int64),
        profile=profile,
        activity=activity / activity.sum(),
        taste=taste,
        factors=rng.standard_normal((config.num_users, FACTORS), np.float32) / np.float32(FACTORS**0.5),
    )


def _group_taste(num_groups: int, words: Lexicon, rng: np.random.Generator) -> Floats:
    """Standard normal liking of each phrase by each group, [G, V]; phrases of one category are liked alike, in part."""
    fine = rng.standard_normal((num_groups, sum(len(v) for v in words.values())), np.float32)
    by_category = rng.standard_normal((num_groups, len(CATEGORIES)), np.float32)
    categories = np.array([*words.point_category, *words.theme_category, *words.topic_category])
    own = slice(0, len(categories))  # points, themes and topics stand first and belong to a category
    fine[:, own] *= np.float32((1 - _CATEGORY_SHARE) ** 0.5)
    fine[:, own] += np.float32(_CATEGORY_SHARE**0.5) * by_category[:, categories]
    return fine


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The lives of one day as arrays, by position: what users can like. Shapes [S] or [S, ...], S lives."""

    plans: list[LivePlan]
    author_id: NDArray[np.int64]
    live_id: NDArray[np.int64]
    start_ts_ms: NDArray[np.int64]
    end_ts_ms: NDArray[np.int64]
    phrases: Floats
    """Share of each phrase in the live's anchor, [S, V]; each field sums to 1."""
    factors: Floats
    quality: Floats
    popularity: Floats
    theme: NDArray[np.int64]
    highlights: NDArray[np.int64]
    """[S, 3, 3]: first segment, end segment, theme; zeros where none."""
    theme_offset: int
    """Position of the first theme among all phrases."""

    def theme_at(self, live: NDArray[np.int64], ts_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """The theme on air in a live at a moment, for pairs of equal length."""
        segment = ((ts_ms - self.start_ts_ms[live]) // 30_000)[:, None]
        marks = self.highlights[live]
        inside = (marks[:, :, 0] <= segment) & (segment < marks[:, :, 1])
        first = inside.argmax(axis=1)
        return np.where(inside.any(axis=1), marks[np.arange(len(live)), first, 2], self.theme[live])


def make_stage(plans: list[LivePlan], authors: list[Author], words: Lexicon, seed: int) -> Stage:
    """Arrays for a day's lives. An author's factors depend on the author alone, not on the day."""
    by_id = {a.author_id: a for a in authors}
    sizes = [len(v) for v in words.values()]
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    phrases = np.zeros((len(plans), sum(sizes)), np.float32)
    highlights = np.zeros((len(plans), 3, 3), np.int64)
    factors = np.empty((len(plans), FACTORS), np.float32)
    for row, plan in enumerate(plans):
        fields = (plan.points, (plan.theme,), plan.topics, plan.audiences, (plan.format,), (plan.scene,))
        for offset, values in zip(offsets, fields, strict=True):
            phrases[row, offset + np.array(values)] = 1 / len(values) ** 0.5
        for i, mark in enumerate(plan.highlights):
            highlights[row, i] = mark
        factors[row] = np.random.default_rng([seed, 5, plan.author_id]).standard_normal(FACTORS, np.float32)
    start = np.array([p.start_ts_ms for p in plans], np.int64)
    return Stage(
        plans=plans,
        author_id=np.array([p.author_id for p in plans], np.int64),
        live_id=np.array([p.live_id for p in plans], np.int64),
        start_ts_ms=start,
        end_ts_ms=start + 30_000 * np.array([p.num_segments for p in plans], np.int64),
        phrases=phrases,
        factors=factors,
        quality=np.array([by_id[p.author_id].quality for p in plans], np.float32),
        popularity=np.array([by_id[p.author_id].popularity for p in plans], np.float32),
        theme=np.array([p.theme for p in plans], np.int64),
        highlights=highlights,
        theme_offset=int(offsets[1]),
    )


def content_liking(
    users: Users, stage: Stage, user: NDArray[np.int64], live: NDArray[np.int64], ts_ms: NDArray[np.int64]
) -> Floats:
    """How much a user likes what a live shows at a moment, about standard normal, for pairs of equal length."""
    base = (users.taste[user] * stage.phrases[live]).sum(axis=1)
    now = users.taste[user, stage.theme_offset + stage.theme_at(live, ts_ms)]
    main = users.taste[user, stage.theme_offset + stage.theme[live]]
    liking: Floats = base + np.float32(_CURRENT_THEME) * (now - main)
    return liking


def author_liking(users: Users, stage: Stage, user: NDArray[np.int64], live: NDArray[np.int64]) -> Floats:
    """How much a user likes an author apart from content, standard normal, for pairs of equal length."""
    liking: Floats = (users.factors[user] * stage.factors[live]).sum(axis=1)
    return liking
