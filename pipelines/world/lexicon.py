"""The words of the simulated platform: categories, themes, topics, audiences, formats, scenes, and coined names.

The lexicon has a seed of its own, apart from the world's, so that worlds with different authors and users share one
language and a model distilled on one world can read another.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml

_WORDS = yaml.safe_load((Path(__file__).parent / "lexicon.yaml").read_text(encoding="utf-8"))
FORMATS: tuple[str, ...] = tuple(_WORDS["formats"])
SCENES: tuple[str, ...] = tuple(_WORDS["scenes"])
AUDIENCES: tuple[str, ...] = tuple(_WORDS["audiences"])
CATEGORIES: tuple[str, ...] = tuple(_WORDS["categories"])

_ONSETS = (
    "Zel",
    "Kro",
    "Vai",
    "Mor",
    "Tun",
    "Bex",
    "Ska",
    "Ply",
    "Dro",
    "Fen",
    "Gri",
    "Hux",
    "Jav",
    "Lur",
    "Nyx",
    "Qua",
)
_MIDDLES = ("va", "ni", "ro", "ki", "lu", "ta", "mo", "xi", "be", "do")
_ENDS = ("nto", "rix", "zal", "mek", "dor", "lune", "pia", "goth", "sun", "wyn")


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Every phrase that may stand in an anchor, with the category it belongs to."""

    themes: tuple[str, ...]
    theme_category: tuple[int, ...]
    topics: tuple[str, ...]
    topic_category: tuple[int, ...]
    points_of_interest: tuple[str, ...]
    point_category: tuple[int, ...]
    audiences: tuple[str, ...] = AUDIENCES
    formats: tuple[str, ...] = FORMATS
    scenes: tuple[str, ...] = SCENES

    def values(self) -> tuple[tuple[str, ...], ...]:
        """Phrases of the six fields in canonical order."""
        return (self.points_of_interest, self.themes, self.topics, self.audiences, self.formats, self.scenes)


def coined_names(count: int, rng: np.random.Generator) -> list[str]:
    """Names that a general BPE splits: acronyms like PUBG, and coined words like Zelvanto."""
    names: dict[str, None] = {}
    letters = np.array(list("BCDFGHKLMNPQRSTVWXZAEIOU"))
    while len(names) < count:
        if rng.random() < 0.4:
            name = "".join(rng.choice(letters, size=4))
        else:
            name = str(rng.choice(_ONSETS)) + str(rng.choice(_MIDDLES)) + str(rng.choice(_ENDS))
        names[name] = None
    return list(names)


@cache
def lexicon(num_points: int = 300, seed: int = 7) -> Lexicon:
    """The lexicon with `num_points` points of interest; equal arguments give equal words."""
    rng = np.random.default_rng([seed, num_points])
    categories = list(_WORDS["categories"].values())
    themes = [(t, c) for c, words in enumerate(categories) for t in words["themes"]]
    topics = [(t, c) for c, words in enumerate(categories) for t in words["topics"]]
    points = [(n, i % len(CATEGORIES)) for i, n in enumerate(coined_names(num_points, rng))]
    return Lexicon(
        themes=tuple(t for t, _ in themes),
        theme_category=tuple(c for _, c in themes),
        topics=tuple(t for t, _ in topics),
        topic_category=tuple(c for _, c in topics),
        points_of_interest=tuple(f"{n} {categories[c]['point']}" for n, c in points),
        point_category=tuple(c for _, c in points),
    )
