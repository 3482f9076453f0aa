"""The acts of a day's lives as arrays, and how much they draw viewers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.tables.contract import SEGMENT_MS
from pipelines.world.live.programme import Course
from pipelines.world.lives import LivePlan
from pipelines.world.platform.content import FIELD_WEIGHTS, content_rows, theme_liking
from pipelines.world.platform.phrases import PhraseBook
from pipelines.world.platform.viewers import Viewers

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_BESIDE = FIELD_WEIGHTS | {
    "theme": 0.0,
    "scene": 0.0,
}  # what stays the same through a live: topics, points, audiences, format
_SCENE = 0.45  # how much a scene counts, where it moves; the theme counts as FIELD_WEIGHTS say


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Arrays over the lives of a day, by position; K is the most acts that any has, of which a live uses its own."""

    courses: list[Course]
    start_ts_ms: Ints
    theme: Ints
    """Phrase of each act, [S, K]."""
    scene: Ints
    """[S, K]."""
    intensity: Floats
    """[S, K]."""
    acts: Ints
    """Act of each segment, [S, segments of the longest live], -1 after its end."""
    usual: Floats
    """Share of the time that each act has in the long run, [S, K]."""
    beside: Floats
    """Weights of the attribute values that stay the same through a live, [S, V]."""

    def segment(self, live: Ints, ts_ms: Ints) -> Ints:
        """The segment of each live at a moment, [n]."""
        return (ts_ms - self.start_ts_ms[live]) // SEGMENT_MS

    def shares(self, live: Ints, segment: Ints, horizon: int) -> Floats:
        """Share of each act in the `horizon` segments after one, [n, K]; with a horizon of 0, in the segment itself."""
        following = segment[:, None] + (np.arange(1, horizon + 1) if horizon else np.zeros(1, np.int64))
        acts = self.acts[live[:, None], following]
        shares: Floats = (acts[:, :, None] == np.arange(self.theme.shape[1])).mean(axis=1, dtype=np.float32)
        return shares


def make_screen(plans: list[LivePlan], book: PhraseBook) -> Screen:
    """Arrays for a day's lives; each needs a course."""
    courses = [plan.course for plan in plans if plan.course is not None]
    most = max((len(c.programme.acts) for c in courses), default=1)
    theme, scene = np.zeros((2, len(courses), most), np.int64)
    intensity, usual = np.zeros((2, len(courses), most), np.float32)
    acts = np.full((len(courses), max((len(c.acts) for c in courses), default=1)), -1)
    for row, course in enumerate(courses):
        for k, act in enumerate(course.programme.acts):
            theme[row, k], scene[row, k], intensity[row, k] = act.theme, act.scene, act.intensity
        acts[row, : len(course.acts)] = course.acts
        np.add.at(usual[row], course.programme.act, course.programme.usual)
    return Screen(
        courses=courses,
        start_ts_ms=np.array([p.start_ts_ms for p in plans], np.int64),
        theme=theme,
        scene=scene,
        intensity=intensity,
        acts=acts,
        usual=usual,
        beside=content_rows(plans, book, _BESIDE),
    )


def act_liking(viewers: Viewers, screen: Screen, book: PhraseBook, user: Ints, live: Ints) -> Floats:
    """How much users like each act of lives, about standard normal, [n, K], for pairs of equal length."""
    themes, scenes = screen.theme[live], screen.scene[live]
    count = themes.shape[1]
    liking = theme_liking(viewers, themes.ravel(), book, np.repeat(user, count)).reshape(-1, count)
    liking += np.float32(_SCENE) * viewers.taste[user[:, None], book.attributes.first_scene + scenes]
    return liking


def beside_liking(viewers: Viewers, screen: Screen, user: Ints, live: Ints) -> Floats:
    """How much users like what stays the same through a live, [n]."""
    liking: Floats = np.einsum("nv,nv->n", viewers.taste[user], screen.beside[live])
    return liking
