"""Phrases that compose: tuples of attribute values, said in many ways and in two languages.

A theme is (thing, style, mood), a topic (aspect, thing), a point of interest (name, kind). Users like attribute values,
never phrases; so the same content in other words is liked equally.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipelines.world.lexicon import AUDIENCES, CATEGORIES, FORMATS, SCENES, Lexicon, coined_names

Ints = NDArray[np.int64]
LANGUAGES = ("english", "spanish")
WORDINGS = 6
"""An author has so many wordings of a phrase; they stand one behind the other in the book."""


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Every attribute value of the world, as positions in one row of V; what has words stands first."""

    words: tuple[tuple[tuple[str, ...], ...], ...]
    """Of each value with words: its surface words in each language."""
    names: tuple[str, ...]
    """Proper names, one word for all languages; each belongs to category `position % len(CATEGORIES)`."""
    things: Ints
    """Positions of what a category is about, [C, T]; so are its styles, [C, S]."""
    styles: Ints
    moods: Ints
    aspects: Ints
    kinds: Ints
    first_name: int
    first_audience: int
    first_format: int
    first_scene: int

    def __len__(self) -> int:
        """V, the number of attribute values."""
        return self.first_scene + len(SCENES)

    def say(self, value: int, language: int, rng: np.random.Generator) -> str:
        """One of the words for a value, each as likely."""
        if value >= self.first_name:
            return self.names[value - self.first_name]
        options = self.words[value][language]
        return options[int(rng.integers(len(options)))]


@dataclass(frozen=True, kw_only=True)
class PhraseBook(Lexicon):
    """Every phrase that an author of the world uses, with the attribute values that it says."""

    attributes: Attributes
    theme_values: Ints = field(compare=False)
    """Thing, style and mood of each theme, [themes, 3]."""
    topic_values: Ints = field(compare=False)
    """Aspect and thing, [topics, 2]."""
    point_values: Ints = field(compare=False)
    """Name and kind, [points, 2]."""

    def meaning(self, theme: int) -> str:
        """What a theme says, in the same words whoever says it: mood, style and thing."""
        thing, style, mood = self.theme_values[theme].tolist()
        return " ".join(self.attributes.words[value][0][0] for value in (mood, style, thing))


@cache
def _read() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(
        (Path(__file__).parents[1] / "attributes.yaml").read_text(encoding="utf-8")
    )
    if tuple(content["categories"]) != CATEGORIES:
        raise ValueError(f"attributes.yaml: wanted the categories of lexicon.yaml, got {list(content['categories'])}")
    return content


@cache
def attributes(num_points: int, seed: int) -> Attributes:
    """The attribute values with `num_points` proper names; equal arguments give equal words."""
    content = _read()
    words: list[tuple[tuple[str, ...], ...]] = []

    def positions(lines: Sequence[str]) -> list[int]:
        words.extend(tuple(tuple(side.strip().split(", ")) for side in line.split("|")) for line in lines)
        return list(range(len(words) - len(lines), len(words)))

    things = np.array([positions(category["things"]) for category in content["categories"].values()])
    styles = np.array([positions(category["styles"]) for category in content["categories"].values()])
    moods, aspects, kinds = (np.array(positions(content[name])) for name in ("moods", "aspects", "kinds"))
    first_audience = len(words) + num_points
    return Attributes(
        words=tuple(words),
        names=tuple(coined_names(num_points, np.random.default_rng([seed, num_points]))),
        things=things,
        styles=styles,
        moods=moods,
        aspects=aspects,
        kinds=kinds,
        first_name=len(words),
        first_audience=first_audience,
        first_format=first_audience + len(AUDIENCES),
        first_scene=first_audience + len(AUDIENCES) + len(FORMATS),
    )


class Writer:
    """Words phrases for authors and keeps them, to be bound as a book."""

    def __init__(self, values: Attributes) -> None:
        self.attributes = values
        self._said: dict[str, list[tuple[str, int, tuple[int, ...]]]] = {"theme": [], "topic": [], "point": []}

    def write(self, kind: str, slots: dict[str, int], category: int, language: int, rng: np.random.Generator) -> int:
        """WORDINGS wordings of attribute values by slot of the template; returns the first one's index in the book."""
        templates = _read()["templates"][kind][language]
        for _ in range(WORDINGS):
            words = {slot: self.attributes.say(value, language, rng) for slot, value in slots.items()}
            text = templates[int(rng.integers(len(templates)))].format(**words)
            self._said[kind].append((text, category, tuple(slots.values())))
        return len(self._said[kind]) - WORDINGS

    def bound(self) -> PhraseBook:
        """The book of all that was written."""
        (themes, topics, points) = (self._said[kind] for kind in ("theme", "topic", "point"))
        return PhraseBook(
            attributes=self.attributes,
            themes=tuple(text for text, _, _ in themes),
            theme_category=tuple(category for _, category, _ in themes),
            theme_values=np.array([values for _, _, values in themes]),
            topics=tuple(text for text, _, _ in topics),
            topic_category=tuple(category for _, category, _ in topics),
            topic_values=np.array([values for _, _, values in topics]),
            points_of_interest=tuple(text for text, _, _ in points),
            point_category=tuple(category for _, category, _ in points),
            point_values=np.array([values for _, _, values in points]),
        )
