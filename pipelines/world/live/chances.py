"""The true probability of each label where the screen moves, and what of it can be known from less than the future.

A click and a follow depend on the act on screen, a long view and a gift on those of the segments that follow.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.tables.contract import TASKS_COLUMNS
from pipelines.tables.truth import KNOWLEDGE
from pipelines.world.live.programme import outlook
from pipelines.world.live.screen import Screen, act_liking, beside_liking
from pipelines.world.platform.phrases import PhraseBook
from pipelines.world.platform.viewers import Viewers
from pipelines.world.tastes import Stage

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of one label, in its logit."""

    intercept: float
    act: float
    """Of the liking of what is on screen."""
    intensity: float
    beside: float
    """Of the liking of topics, points, audiences and format, which stay the same through a live."""
    author: float
    quality: float
    followed: float
    horizon: int = 0
    """On screen in how many segments that follow; 0 = at this moment."""


WEIGHTS = {
    "click": Weights(intercept=-1.4, act=1.1, intensity=0.4, beside=0.6, author=0.4, quality=0.2, followed=0.8),
    "follow": Weights(intercept=-6.1, act=0.8, intensity=0.4, beside=0.6, author=2.0, quality=0.5, followed=-np.inf),
    "long_view": Weights(
        intercept=-2.6, act=1.8, intensity=0.8, beside=0.6, author=0.6, quality=0.8, followed=0.6, horizon=2
    ),
    "gift": Weights(
        intercept=-8.6, act=2.0, intensity=1.2, beside=0.6, author=2.0, quality=0.4, followed=3.0, horizon=4
    ),
}
"""All but click's are given a click."""


@dataclass(frozen=True, kw_only=True)
class LiveChances:
    """Probabilities of a day's exposures."""

    viewers: Viewers
    stage: Stage
    screen: Screen
    book: PhraseBook
    author_taste: float
    watched: bool
    """Whether what is on screen matters."""

    def content(self, user: Ints, live: Ints, ts_ms: Ints | None = None) -> Floats:
        """What content adds to the logit of a click, [n]: that of a moment, or without one the author's usual."""
        screen = self.screen
        shares = screen.usual[live] if ts_ms is None else screen.shares(live, screen.segment(live, ts_ms), 0)
        draw = self._draw("click", act_liking(self.viewers, screen, self.book, user, live), live)
        beside = np.float32(WEIGHTS["click"].beside) * beside_liking(self.viewers, screen, user, live)
        content: Floats = (draw * shares).sum(axis=1) + beside
        return content

    def __call__(self, user: Ints, live: Ints, ts_ms: Ints, followed: Bools) -> dict[str, Floats]:
        """P(click), and P(click) P(label | click) for the others, given what really follows, [n]."""
        segment = self.screen.segment(live, ts_ms)
        rest = self._rest(user, live, followed)
        liking = act_liking(self.viewers, self.screen, self.book, user, live)
        result = {}
        for task, of in WEIGHTS.items():
            shares = self.screen.shares(live, segment, of.horizon)
            result[task] = _sigmoid(rest[task] + (self._draw(task, liking, live) * shares).sum(axis=1))
        return _together(result)

    def expected(self, user: Ints, live: Ints, ts_ms: Ints, followed: Bools) -> dict[str, Floats]:
        """The same given less: `<one of KNOWLEDGE>_<task>`, each the expectation over the author's law, [n]."""
        result = {f"{known}_{task}": np.zeros(len(user), np.float32) for known in KNOWLEDGE for task in TASKS_COLUMNS}
        segment = self.screen.segment(live, ts_ms)
        for each in np.unique(live).tolist():
            rows = np.flatnonzero(live == each)
            by_state = self._by_state(user[rows], each, followed[rows])
            for known, weight in self._states(each, segment[rows]).items():
                for task, chance in by_state.items():
                    result[f"{known}_{task}"][rows] = (chance * weight).sum(axis=1)
        return result

    def _by_state(self, user: Ints, live: int, followed: Bools) -> dict[str, Floats]:
        """Probabilities of exposures of one live in each state that it may be in, over all that may follow, [n, Q]."""
        lives = np.full(len(user), live)
        programme = self.screen.courses[live].programme
        rest = self._rest(user, lives, followed)
        liking = act_liking(self.viewers, self.screen, self.book, user, lives)
        result = {}
        for task, of in WEIGHTS.items():
            draw = self._draw(task, liking, lives)[:, : len(programme.acts)]
            if of.horizon:
                share, chance = outlook(programme, of.horizon)
                given = _sigmoid(rest[task][:, None] + draw @ share.T.astype(np.float32))
                result[task] = (given @ chance.T).astype(np.float32)
            else:
                result[task] = _sigmoid(rest[task][:, None] + draw)[:, programme.act]
        return _together(result)

    def _states(self, live: int, segment: Ints) -> dict[str, Floats]:
        """Chance of each state at a segment of a live, [n, Q], by what is known. Nothing has ended in the first one."""
        course = self.screen.courses[live]
        programme, states = course.programme, course.states
        before = np.where((segment > 0)[:, None], programme.step[states[np.maximum(segment - 1, 0)]], programme.opening)
        present = np.eye(len(programme.act))[states[segment]]
        usual = np.broadcast_to(programme.usual, present.shape)
        return dict(zip(KNOWLEDGE, (present, before, usual), strict=True))

    def _draw(self, task: str, liking: Floats, live: Ints) -> Floats:
        """What each act adds to a logit, [n, K]."""
        of = WEIGHTS[task]
        return np.float32(of.act) * liking + np.float32(of.intensity * self.watched) * self.screen.intensity[live]

    def _rest(self, user: Ints, live: Ints, followed: Bools) -> dict[str, Floats]:
        """What does not move with the screen, in each logit, [n]."""
        beside = beside_liking(self.viewers, self.screen, user, live)
        factors = np.einsum("nf,nf->n", self.viewers.factors[user], self.stage.factors[live])
        author, quality = factors * np.float32(self.author_taste), self.stage.quality[live]
        result = {}
        for task, of in WEIGHTS.items():
            logit = of.intercept + of.beside * beside + of.author * author + of.quality * quality
            if task in self.viewers.readiness:
                logit += self.viewers.readiness[task][user]
            result[task] = np.where(followed, logit + of.followed, logit).astype(np.float32)
        return result


def _sigmoid(logit: Floats) -> Floats:
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def _together(chance: dict[str, Floats]) -> dict[str, Floats]:
    """With P(click) in all that need a click."""
    return {task: p if task == "click" else p * chance["click"] for task, p in chance.items()}
