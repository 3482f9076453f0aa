"""Visits of viewers: a feed shows one live after another, and who enters a room is in it until he leaves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.world.authors import DAY_MS
from pipelines.world.config import WorldConfig
from pipelines.world.platform.follows import Follows
from pipelines.world.platform.viewers import Viewers
from pipelines.world.tastes import Stage

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Columns = dict[str, NDArray[Any]]

VISITS_PER_CHUNK = 2000
_GUESS, _FAME, _FOLLOWED = 0.35, 1.0, 2.5  # weights of taste, log popularity and being followed in the feed's choice
_SCROLL_MS = (2_000, 9_000)  # between leaving one live and seeing the next
_BREAK_MS = 60_000  # at least, between two visits
_ENDS_SOON_MS = 120_000  # lives that end so soon are not shown
_ENTER_MS = 1000  # from exposure to entering; tables of events say the same
LONG_VIEW_S, _LONGER_S, _SHORT_S = 60.0, 90.0, 12.0
IMMEDIATE_S = 10.0
_LATE_GIFTS = 0.2


class Chances(Protocol):
    """Probabilities of exposures."""

    def __call__(self, user: Ints, live: Ints, ts_ms: Ints, followed: Bools) -> dict[str, Floats]:
        """P(click), and P(click) P(label | click) for the other tasks, [n]."""


def all_day(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """When visits are planned, as shares of a day, [count]: mostly in the evening."""
    return np.clip(rng.normal(0.78, 0.15, size=count), 0.02, 0.985)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that is fixed while a day is simulated."""

    viewers: Viewers
    stage: Stage
    chances: Chances
    config: WorldConfig
    author: Ints
    """Position of each live's author among everyone, [S]."""
    live_of: Ints = field(repr=False)
    """Live of each author on the day, -1 where none, [A]."""
    arrivals: Callable[[int, np.random.Generator], NDArray[np.float64]] = all_day


def simulate(scene: Scene, follows: Follows, start_of_day: int, day: int, rng: np.random.Generator) -> Columns:
    """Exposures of a day with labels and probabilities, in time order; users and lives are positions.

    A viewer's visits are taken one after another: the next begins after the last has ended, and knows whom the viewer
    follows since.
    """
    user, moment = _visits(scene, start_of_day, day, rng)
    number = np.arange(len(user)) - np.searchsorted(user, user)
    free = np.zeros(len(scene.viewers.user_id), np.int64)
    nobody = np.zeros(0, np.int64)
    parts = [_show(scene, follows, nobody, nobody, nobody, rng)]
    for turn in range(int(number.max()) + 1):
        seen = []
        now = np.flatnonzero(number == turn)
        for first in range(0, len(now), VISITS_PER_CHUNK):
            chunk = now[first : first + VISITS_PER_CHUNK]
            begin = np.maximum(moment[chunk], free[user[chunk]])
            rows, left = _visit(scene, follows, user[chunk], begin, rng)
            free[user[chunk]] = left + _BREAK_MS
            seen += rows
        for part in seen:
            made = part["follow"]
            follows = follows.and_also(part["user"][made], scene.author[part["live"][made]])
        parts += seen
    columns = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = np.argsort(columns["ts_ms"], kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _visits(scene: Scene, start_of_day: int, day: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Users and planned moments of the day's visits, by user and time. Who joins today comes at least once."""
    viewers, config = scene.viewers, scene.config
    count = max(1, round(config.impressions_per_day / config.session_length))
    activity = np.where(viewers.first_day <= day, viewers.activity, 0.0)
    new = np.flatnonzero((viewers.first_day == day) & (day > 0))[:count]
    rest = rng.choice(len(activity), size=count - len(new), p=activity / activity.sum())
    user = np.concatenate([new, rest])
    moment = start_of_day + (scene.arrivals(count, rng) * DAY_MS).astype(np.int64)
    order = np.lexsort((moment, user))
    return user[order], moment[order]


def _visit(
    scene: Scene, follows: Follows, user: Ints, begin: Ints, rng: np.random.Generator
) -> tuple[list[Columns], Ints]:
    """One visit of each user (each once), all at the same time: what was seen, and when the visits ended."""
    feed, on_air = _feed(scene, follows, user, begin, rng)
    now = begin.copy()
    parts = []
    for live, real in zip(feed.T, on_air.T, strict=True):
        ts_ms = now + rng.integers(*_SCROLL_MS, size=len(now))
        rows = np.flatnonzero(real & (ts_ms < scene.stage.end_ts_ms[live] - _ENDS_SOON_MS))
        part = _show(scene, follows, user[rows], live[rows], ts_ms[rows], rng)
        parts.append(part)
        stay_ms = np.where(part["click"], _ENTER_MS + np.ceil(1000 * part["watch_time_s"].astype(np.float64)), 0)
        now[rows] = ts_ms[rows] + stay_ms.astype(np.int64)
    return parts, now


def _feed(scene: Scene, follows: Follows, user: Ints, moment: Ints, rng: np.random.Generator) -> tuple[Ints, Bools]:
    """The lives that a visit shows, in order, and whether each is on air; [n, L] both.

    The feed knows popularity and follows and guesses taste; Gumbel noise makes the top a draw without replacement.
    """
    viewers, stage = scene.viewers, scene.stage
    guess = viewers.taste[user] @ stage.phrases.T
    guess += viewers.factors[user] @ stage.factors.T * np.float32(scene.config.author_taste)
    score = _GUESS * guess + _FAME * np.log(stage.popularity) + rng.gumbel(size=guess.shape)
    row, author = follows.of(user)
    live = scene.live_of[author]
    score[row[live >= 0], live[live >= 0]] += _FOLLOWED
    on_air = (stage.start_ts_ms <= moment[:, None]) & (moment[:, None] < stage.end_ts_ms - _ENDS_SOON_MS)
    score[~on_air] = -np.inf
    length = min(scene.config.session_length, score.shape[1])
    if not length:
        return np.zeros((len(user), 0), np.int64), np.zeros((len(user), 0), bool)
    top = np.argpartition(-score, length - 1, axis=1)[:, :length]
    top = rng.permuted(top, axis=1)
    return top, np.take_along_axis(on_air, top, axis=1)


def _show(scene: Scene, follows: Follows, user: Ints, live: Ints, ts_ms: Ints, rng: np.random.Generator) -> Columns:
    """One exposure of each user: labels drawn from their probabilities, and the time in the room, [n]."""
    followed = follows.has(user, scene.author[live])
    p = scene.chances(user, live, ts_ms, followed)
    count = len(user)
    click = rng.random(count) < p["click"]
    labels = {task: click & (rng.random(count) < p[task] / p["click"]) for task in ("follow", "long_view", "gift")}
    watch = np.where(
        labels["long_view"],
        LONG_VIEW_S + rng.exponential(_LONGER_S, size=count),
        np.minimum(rng.exponential(_SHORT_S, size=count), LONG_VIEW_S - 1),
    )
    # Nobody stays behind in a room that closed.
    watch = np.where(click, np.minimum(watch, (scene.stage.end_ts_ms[live] - ts_ms) / 1000 - 2), 0).astype(np.float32)
    soon = np.minimum(watch, IMMEDIATE_S) * rng.random(count)
    late = np.where(rng.random(count) < _LATE_GIFTS, np.maximum(watch - IMMEDIATE_S, 0) * rng.random(count), 0)
    gift_s = np.where(late > 0, IMMEDIATE_S + late, soon)
    return {
        "user": user, "live": live, "ts_ms": ts_ms, "click": click, **labels, "watch_time_s": watch, "gift_s": gift_s,
        "followed": followed,
        **{f"p_{task}": chance for task, chance in p.items()},
    }  # fmt: skip
