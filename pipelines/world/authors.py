"""Authors of the simulated platform and the lives they plan for a day."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from pipelines.tables.days import day_number
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import AUDIENCES, CATEGORIES, FORMATS, SCENES, Lexicon
from pipelines.world.lives import LivePlan

_NAMES = ("Mila", "Ousmane", "Lin", "Petra", "Kofi", "Ana", "Bruno", "Yara", "Sven", "Ines", "Tariq", "Noor")
_CITIES = ("Lopar", "Sunwick", "Haldene", "Morava", "Quill Bay", "Tarsus", "Edgewater", "Pinnock")
DAY_MS = 86_400_000
_STEADY = 0.92  # chance that a habit holds on a day


@dataclass(frozen=True, kw_only=True)
class Author:
    """An author's habits; phrases are indices into the lexicon."""

    author_id: int
    category: int
    shown_category: int | None
    """What the platform's table says: may be wrong, None = missing."""
    profile: str
    themes: tuple[int, ...]
    """The main one first; of the laws `platform`, one a programme."""
    topics: tuple[int, ...]
    """The usual ones first, `usual` of them; so are points and audiences. `platform`: so many a programme."""
    points: tuple[int, ...]
    audiences: tuple[int, ...]
    usual: tuple[int, int, int]
    """How many topics, points and audiences a day of theirs has."""
    format: int
    scene: int
    popularity: float
    """Long-tailed; mean 1 over authors."""
    quality: float
    """How well the author holds viewers, standard normal."""
    first_day: int
    """Day index of the first possible live."""


def make_authors(config: WorldConfig, words: Lexicon, seed: int) -> list[Author]:
    """All authors of the world, newcomers included, in order of arrival."""
    rng = np.random.default_rng([seed, 1])
    newcomers = round(config.new_author_share * config.num_authors)
    arrivals = [0] * config.num_authors + [d for d in range(1, config.num_days) for _ in range(newcomers)]
    ids = rng.permutation(10 * len(arrivals))[: len(arrivals)] + 10_000_000
    popularity = rng.lognormal(0.0, 0.85, size=len(arrivals))
    popularity /= popularity.mean()
    return [_author(int(ids[i]), day, float(popularity[i]), config, words, rng) for i, day in enumerate(arrivals)]


def _author(
    author_id: int, day: int, popularity: float, config: WorldConfig, words: Lexicon, rng: np.random.Generator
) -> Author:
    category = int(rng.integers(len(CATEGORIES)))
    draw = rng.random()
    shown: int | None = category
    if draw < config.category_missing:
        shown = None
    elif draw < config.category_missing + config.category_error:
        shown = int((category + rng.integers(1, len(CATEGORIES))) % len(CATEGORIES))
    return Author(
        author_id=author_id,
        category=category,
        shown_category=shown,
        profile=f"{_NAMES[rng.integers(len(_NAMES))]} from {_CITIES[rng.integers(len(_CITIES))]}, "
        f"on air since {rng.integers(2016, 2026)}",
        usual=(int(rng.integers(1, 3)), int(rng.integers(1, 4)), int(rng.integers(1, 3))),
        themes=_some(words.theme_category, category, int(rng.integers(1, 5)), rng),
        topics=_some(words.topic_category, category, int(rng.integers(2, 5)), rng),
        points=_some(words.point_category, category, int(rng.integers(2, 6)), rng, tail=1.0),
        audiences=tuple(int(a) for a in rng.choice(len(AUDIENCES), size=int(rng.integers(1, 4)), replace=False)),
        format=int(rng.integers(len(FORMATS))),
        scene=int(rng.integers(len(SCENES))),
        popularity=popularity,
        quality=float(rng.normal()),
        first_day=day,
    )


def _some(
    categories: tuple[int, ...], category: int, count: int, rng: np.random.Generator, tail: float = 0.0
) -> tuple[int, ...]:
    """`count` phrases, nine in ten from the author's own category; `tail` makes early ones more frequent (Zipf)."""
    own = np.array([c == category for c in categories], np.float64)
    weight = own / own.sum() * 0.9 + 0.1 / len(categories)
    ranks: NDArray[np.float64] = np.cumsum(own) * own + 1.0
    weight *= ranks**-tail
    return tuple(int(v) for v in rng.choice(len(categories), size=count, replace=False, p=weight / weight.sum()))


def plan_day(authors: list[Author], day: int, config: WorldConfig, seed: int) -> list[LivePlan]:
    """The lives of one day, one per author on air, sorted by author id."""
    rng = np.random.default_rng([seed, 2, day])
    start_of_day = day_start_ms(config.first_day, day)
    present = [a for a in authors if a.first_day <= day]
    on_air = [a for a in present if rng.random() < config.on_air_share or a.first_day == day > 0]
    plans = [_plan(a, day, start_of_day, rng) for a in on_air]
    return sorted(plans, key=lambda p: p.author_id)


def _plan(author: Author, day: int, start_of_day: int, rng: np.random.Generator) -> LivePlan:
    num_segments = int(rng.integers(60, 361))  # half an hour to three hours
    latest = DAY_MS - num_segments * 30_000
    # Lives gather in the evening, as on real platforms.
    start = int(np.clip(rng.normal(0.75, 0.18), 0, 1) * latest)
    theme = author.themes[0] if rng.random() < _STEADY else author.themes[int(rng.integers(len(author.themes)))]
    others = [t for t in author.themes if t != theme]
    highlights = []
    if others:
        for _ in range(int(rng.integers(0, 4))):
            first = int(rng.integers(num_segments))
            highlights.append((first, first + int(rng.integers(2, 13)), others[int(rng.integers(len(others)))]))
    return LivePlan(
        author_id=author.author_id,
        live_id=author.author_id * 1000 + day,
        start_ts_ms=start_of_day + start,
        num_segments=num_segments,
        theme=theme,
        highlights=tuple(highlights),
        topics=today(author.topics, author.usual[0], rng),
        points=today(author.points, author.usual[1], rng),
        audiences=today(author.audiences, author.usual[2], rng),
        format=author.format if rng.random() < _STEADY else int(rng.integers(len(FORMATS))),
        scene=author.scene if rng.random() < _STEADY else int(rng.integers(len(SCENES))),
        popularity=min(author.popularity / 10, 1.0),
    )


def today(habits: tuple[int, ...], usual: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The usual ones on most days, else as many of all habits at random."""
    chosen = habits if rng.random() < _STEADY else rng.permutation(habits)
    return tuple(int(v) for v in chosen[:usual])


def day_name(first_day: date, day: int) -> str:
    """ISO date of a day index."""
    return (first_day + timedelta(days=day)).isoformat()


def day_start_ms(first_day: date, day: int) -> int:
    """Epoch milliseconds of a day's midnight, UTC."""
    return (day_number(first_day.isoformat()) + day) * DAY_MS


def true_anchor(plan: LivePlan, words: Lexicon) -> dict[str, list[str]]:
    """What an all-seeing annotator would write for the day."""
    return {
        "point_of_interest": [words.points_of_interest[i] for i in plan.points],
        "theme": [words.themes[plan.theme]],
        "topic": [words.topics[i] for i in plan.topics],
        "target_audience": [words.audiences[i] for i in plan.audiences],
        "format": [words.formats[plan.format]],
        "scene": [words.scenes[plan.scene]],
    }
