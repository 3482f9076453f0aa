"""What `report.json` holds of the live part: see report_content.py."""

from typing import TypedDict


class LiveWorld(TypedDict):
    """Job world, of the live part; the shares of acts of the next segment that are told by whoever knows the law, and
    by repeating the one on screen."""

    authors: int
    lives: int
    segments: int
    impressions: int
    next_act_best_accuracy: float
    next_act_repeat_accuracy: float


class Purity(TypedDict):
    """How pure codes are by a label of the truth, where so many levels are read; `chance`: of shuffled labels."""

    label: str
    labels: int
    levels: int
    purity: float
    chance: float


class LiveTowers(TypedDict):
    """Jobs towers and recall; gate and seconds are null where the towers were current already."""

    gate: float | None
    seconds: float | None
    clicks: int
    candidates: dict[str, float]
    """Mean number, by what is searched: on_air, overall."""
    hit_rate: dict[str, dict[str, float | None]]
    """By what is searched, then by K."""


class ShownSegment(TypedDict):
    """A segment with its true act and its codes."""

    segment: int
    act: int
    theme: str
    scene: str
    intensity: int
    codes: list[int]


class ShownLive(TypedDict):
    """One live, segment by segment."""

    author_id: int
    live_id: int
    segments: list[ShownSegment]


class LivePart(TypedDict):
    """The live part of the demo: a small world of its own."""

    world: LiveWorld
    embedded: int
    segments_per_s: float | None
    purity: list[Purity]
    towers: dict[str, LiveTowers]
    """By what items are made of: id, gated."""
    shown: ShownLive


class FoundLive(TypedDict):
    """A live at two moments, and in three answers: at the first, at the second, at the second after a click."""

    author_id: int
    live_id: int
    screens: list[str]
    """What it really showed."""
    places: list[int | None]
    scores: list[float | None]


class Retrieved(TypedDict):
    """Answers of POST /retrieve for one user of the live part."""

    user_id: int
    history: int
    later_s: float
    on_air: list[int]
    clicked: int
    lives: list[FoundLive]
