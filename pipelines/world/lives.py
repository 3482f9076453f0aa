"""What a simulated live shows and says: frames, speech and comments of its recorded segments.

Theme and topics are said by the host, audiences by the host, points of interest by host and viewers; scene and format
are never put in words.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.tables.contract import SEGMENT_MS
from pipelines.world.lexicon import Lexicon
from pipelines.world.live.programme import Course
from pipelines.world.render import jpeg, render

_THEME = ("today we do {}", "welcome back to {}", "this stream is {}", "we are here for {}", "all day long {}")
_HIGHLIGHT = ("quick break for a {} moment", "now a short {} moment", "someone asked for a {} moment")
_TOPIC = ("let us talk about {}", "next up {}", "a word on {}", "many questions about {}")
_AUDIENCE = ("good for {}", "hello to all {}", "made for {}", "greetings {}")
_POINT_SAID = ("soon comes {}", "stay for {}", "nobody skips {}")
_POINT_WRITTEN = ("{} please", "here for {}", "love {}", "when is {}", "{} is the best")
_SMALL_TALK = ("lol", "first", "hi everyone", "nice one", "hahaha", "so good", "where are you from", "can you hear me")
_EXCITEMENT = {-1: (0.75, 0.35, 0), 0: (1.0, 1.0, 1), 1: (1.35, 3.0, 4)}
"""By the intensity of an act: factors of viewers, and of likes and gifts of each, and further comments."""
_ASIDE = ("uh", "okay", "right", "well", "so", "let me see")


@dataclass(frozen=True, kw_only=True)
class LivePlan:
    """One live, decided before it is rendered. Phrases are indices into the lexicon."""

    author_id: int
    live_id: int
    start_ts_ms: int
    num_segments: int
    theme: int
    highlights: tuple[tuple[int, int, int], ...]
    """(first segment, end segment, theme) of the moments when another theme takes over."""
    topics: tuple[int, ...]
    points: tuple[int, ...]
    audiences: tuple[int, ...]
    format: int
    scene: int
    popularity: float
    """Relative size of the audience, 0..1."""
    course: Course | None = None
    """What is on screen, segment by segment, where it moves from act to act (`world.live`); it has no highlights."""

    def theme_at(self, segment: int) -> int:
        """The theme on air in a segment."""
        if self.course is not None:
            return self.course.themes[self.course.acts[segment]]
        return next((theme for first, end, theme in self.highlights if first <= segment < end), self.theme)

    def scene_at(self, segment: int) -> int:
        """The scene on air in a segment."""
        return self.scene if self.course is None else self.course.act_at(segment).scene

    def excitement_at(self, segment: int) -> tuple[float, float, int]:
        """In a segment: factors of how many watch and of how much they like and give, and how many more comment."""
        if self.course is None:
            return 1.0, 1.0 if self.theme_at(segment) == self.theme else 3.0, 0
        return _EXCITEMENT[self.course.act_at(segment).intensity]

    def recorded(self, count: int) -> list[int]:
        """Evenly spread segments that the platform keeps; 0 keeps all."""
        if count == 0 or count >= self.num_segments:
            return list(range(self.num_segments))
        return [int((i + 0.5) * self.num_segments / count) for i in range(count)]


def segment_rows(
    plan: LivePlan, words: Lexicon, rng: np.random.Generator, *, recorded: int, frames: int, frame_size: int
) -> list[dict[str, Any]]:
    """Rows of the `segments` table for one live."""
    rows = []
    for order, segment in enumerate(plan.recorded(recorded)):
        theme = plan.theme_at(segment)
        crowd, excitement, more = plan.excitement_at(segment)
        viewers = int(1 + 400 * plan.popularity * crowd * rng.uniform(0.5, 1.5))
        rows.append(
            {
                "author_id": plan.author_id,
                "live_id": plan.live_id,
                "segment": segment,
                "start_ts_ms": plan.start_ts_ms + segment * SEGMENT_MS,
                "frames": [
                    {
                        "offset_ms": int((i + 0.5) * SEGMENT_MS / frames),
                        "jpeg": jpeg(render(plan.scene_at(segment), plan.format, rng, frame_size)),
                    }
                    for i in range(frames)
                ],
                "speech": _speech(plan, order, theme, words, rng),
                "comments": _comments(plan, order, more, words, rng),
                "viewers": viewers,
                "likes": int(rng.poisson(0.2 * viewers * excitement)),
                "gifts": int(rng.poisson(0.02 * viewers * excitement)),
            }
        )
    return rows


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _join(values: tuple[str, ...], chosen: tuple[int, ...]) -> str:
    return " and ".join(values[i] for i in chosen)


def _speech(plan: LivePlan, order: int, theme: int, words: Lexicon, rng: np.random.Generator) -> str:
    """Topics are said in even recorded segments, audiences in odd ones, a point of interest in every third."""
    frame = _HIGHLIGHT if theme != plan.theme else _THEME
    parts = [_pick(frame, rng).format(words.themes[theme])]
    if order % 2 == 0:
        parts.append(_pick(_TOPIC, rng).format(_join(words.topics, plan.topics)))
    else:
        parts.append(_pick(_AUDIENCE, rng).format(_join(words.audiences, plan.audiences)))
    if order % 3 == 0:
        parts.append(
            _pick(_POINT_SAID, rng).format(words.points_of_interest[plan.points[order // 3 % len(plan.points)]])
        )
    if rng.random() < 0.5:
        parts.insert(int(rng.integers(len(parts))), _pick(_ASIDE, rng))
    return " . ".join(parts)


def _comments(plan: LivePlan, order: int, more: int, words: Lexicon, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Two comments on points of interest (engaged viewers) and one to three and `more` of small talk, in time order."""
    texts = []
    for i in range(2):
        point = plan.points[(2 * order + i) % len(plan.points)]
        texts.append((_pick(_POINT_WRITTEN, rng).format(words.points_of_interest[point]), rng.uniform(0.5, 1.0)))
    texts += [(_pick(_SMALL_TALK, rng), rng.uniform(0.0, 0.4)) for _ in range(int(rng.integers(1, 4)) + more)]
    offsets: NDArray[np.int64] = np.sort(rng.integers(0, SEGMENT_MS, size=len(texts)))
    rng.shuffle(texts)
    return [
        {"user_id": int(rng.integers(1, 2**40)), "offset_ms": int(o), "text": text, "engagement": float(engagement)}
        for o, (text, engagement) in zip(offsets, texts, strict=True)
    ]
