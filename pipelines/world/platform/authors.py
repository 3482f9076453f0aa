"""Authors of the laws `platform` and the lives they plan: few are watched by most, and those are on air most."""

import numpy as np
from numpy.typing import NDArray

from pipelines.world.authors import DAY_MS, Author, day_start_ms, today
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import AUDIENCES, CATEGORIES, FORMATS, SCENES
from pipelines.world.lives import LivePlan
from pipelines.world.platform.phrases import WORDINGS, Attributes, PhraseBook, Writer, attributes

_NAMES = ("Mila", "Ousmane", "Lin", "Petra", "Kofi", "Ana", "Bruno", "Yara", "Sven", "Ines", "Tariq", "Noor")
_CITIES = ("Lopar", "Sunwick", "Haldene", "Morava", "Quill Bay", "Tarsus", "Edgewater", "Pinnock")
_SPANISH = 0.25  # share of authors who speak it
_PROGRAMMES = (4, 6)  # fewest and most that an author has
_OWN_CATEGORY = 0.4  # chance that a programme is of the author's own category
_GOES_ON = 0.85  # chance that a live has the programme of the author's last one
_STEADY = 0.92  # chance that audiences, format and scene are the usual ones
_TAIL = 1.15  # standard deviation of the logarithm of popularity
_QUALITY_SHOWS = 0.3  # correlation of popularity and quality
_STARS = 60  # power of the popularity rank: about the top hundredth lives as stars do
_STAR_ON_AIR, _STAR_SEGMENTS = 0.95, 360


def make_authors(config: WorldConfig, seed: int) -> tuple[list[Author], PhraseBook]:
    """All authors, newcomers included, in order of arrival, and the book of the phrases they use."""
    rng = np.random.default_rng([seed, 11])
    newcomers = round(config.new_author_share * config.num_authors)
    arrivals = [0] * config.num_authors + [d for d in range(1, config.num_days) for _ in range(newcomers)]
    ids = rng.permutation(10 * len(arrivals))[: len(arrivals)] + 10_000_000
    fame, rest = rng.standard_normal((2, len(arrivals)))
    popularity = np.exp(_TAIL * fame)
    popularity /= popularity.mean()
    quality = _QUALITY_SHOWS * fame + (1 - _QUALITY_SHOWS**2) ** 0.5 * rest
    writer = Writer(attributes(config.num_points, config.lexicon_seed))
    everyone = [
        _author(int(ids[i]), day, float(popularity[i]), float(quality[i]), config, writer, rng)
        for i, day in enumerate(arrivals)
    ]
    return everyone, writer.bound()


def _author(
    author_id: int,
    day: int,
    popularity: float,
    quality: float,
    config: WorldConfig,
    writer: Writer,
    rng: np.random.Generator,
) -> Author:
    category = int(rng.integers(len(CATEGORIES)))
    draw = rng.random()
    shown: int | None = category
    if draw < config.category_missing:
        shown = None
    elif draw < config.category_missing + config.category_error:
        shown = int((category + rng.integers(1, len(CATEGORIES))) % len(CATEGORIES))
    language = int(rng.random() < _SPANISH)
    usual = (int(rng.integers(1, 3)), int(rng.integers(1, 4)), int(rng.integers(1, 3)))
    themes, topics, points = _programmes(category, language, usual, writer, rng)
    return Author(
        author_id=author_id,
        category=category,
        shown_category=shown,
        profile=f"{_NAMES[rng.integers(len(_NAMES))]} from {_CITIES[rng.integers(len(_CITIES))]}, "
        f"on air since {rng.integers(2016, 2026)}",
        usual=usual,
        themes=themes,
        topics=topics,
        points=points,
        audiences=tuple(int(a) for a in rng.choice(len(AUDIENCES), size=int(rng.integers(1, 4)), replace=False)),
        format=int(rng.integers(len(FORMATS))),
        scene=int(rng.integers(len(SCENES))),
        popularity=popularity,
        quality=quality,
        first_day=day,
    )


def _programmes(
    category: int, language: int, usual: tuple[int, int, int], writer: Writer, rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Themes, topics and points of an author's programmes, one programme behind the other, of different content."""
    per_programme = {"theme": 1, "topic": usual[0], "point": usual[1]}
    found: dict[str, dict[tuple[int, ...], int]] = {kind: {} for kind in per_programme}
    for number in range(1, int(rng.integers(_PROGRAMMES[0], _PROGRAMMES[1] + 1)) + 1):
        of = category if rng.random() < _OWN_CATEGORY else int(rng.integers(len(CATEGORIES)))
        for kind, count in per_programme.items():
            while len(found[kind]) < number * count:
                slots = _slots(kind, of, writer.attributes, rng)
                content = tuple(slots.values())
                if content not in found[kind]:
                    found[kind][content] = writer.write(kind, slots, of, language, rng)
    themes, topics, points = (tuple(of.values()) for of in found.values())
    return themes, topics, points


def _slots(kind: str, category: int, values: Attributes, rng: np.random.Generator) -> dict[str, int]:
    """Attribute values of one phrase. Early names of a category are more frequent (Zipf)."""
    if kind == "theme":
        options = {"thing": values.things[category], "style": values.styles[category], "mood": values.moods}
    elif kind == "topic":
        options = {"aspect": values.aspects, "thing": values.things[category]}
    else:
        ranks = np.arange(category, len(values.names), len(CATEGORIES))
        weight = 1 / np.arange(1, len(ranks) + 1)
        name = values.first_name + int(rng.choice(ranks, p=weight / weight.sum()))
        return {"name": name, "kind": int(rng.choice(values.kinds))}
    return {slot: int(of[rng.integers(len(of))]) for slot, of in options.items()}


def plan_day(authors: list[Author], day: int, config: WorldConfig, seed: int) -> list[LivePlan]:
    """The lives of one day, one per author on air, sorted by author id."""
    rng = np.random.default_rng([seed, 12, day])
    start_of_day = day_start_ms(config.first_day, day)
    stardom = _stardom(authors)
    on_air, programme = _programme_of(authors, stardom, day, config, seed)
    plans = [
        _plan(authors[i], int(programme[i]), float(stardom[i]), day, start_of_day, rng) for i in np.flatnonzero(on_air)
    ]
    return sorted(plans, key=lambda p: p.author_id)


def _programme_of(
    authors: list[Author], stardom: NDArray[np.float64], day: int, config: WorldConfig, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Who is on air on a day, and with which programme, [A]: from live to live it goes on, or another one follows."""
    chance = config.on_air_share + np.maximum(_STAR_ON_AIR - config.on_air_share, 0) * stardom
    first_day, count = np.array([(a.first_day, len(a.themes)) for a in authors]).T
    programme = np.zeros(len(authors), np.int64)
    on_air = np.zeros(len(authors), bool)
    for past in range(day + 1):
        rng = np.random.default_rng([seed, 21, past])
        likely, ends, another = rng.random(len(authors)), rng.random(len(authors)), rng.integers(1, count)
        on_air = (first_day <= past) & ((likely < chance) | ((first_day == past) & (past > 0)))
        programme = np.where(on_air & (ends >= _GOES_ON), (programme + another) % count, programme)
    return on_air, programme


def _stardom(authors: list[Author]) -> NDArray[np.float64]:
    """0 for most, near 1 for the most popular hundredth, [A]."""
    rank = np.argsort(np.argsort([a.popularity for a in authors])) / max(len(authors) - 1, 1)
    stardom: NDArray[np.float64] = rank**_STARS
    return stardom


def _plan(
    author: Author, programme: int, star: float, day: int, start_of_day: int, rng: np.random.Generator
) -> LivePlan:
    num_segments = int(rng.integers(60, 361) + _STAR_SEGMENTS * star)  # half an hour to three hours, stars up to six
    latest = DAY_MS - num_segments * 30_000
    start = int(np.clip(rng.normal(0.75, 0.18), 0, 1) * latest)
    main, (topics, points, _) = author.themes[programme], author.usual
    others = [t for t in author.themes if t != main]
    highlights = []
    if others:
        for _ in range(int(rng.integers(0, 4))):
            first = int(rng.integers(num_segments))
            other = others[int(rng.integers(len(others)))]
            highlights.append((first, first + int(rng.integers(2, 13)), worded(other, rng)))
    return LivePlan(
        author_id=author.author_id,
        live_id=author.author_id * 1000 + day,
        start_ts_ms=start_of_day + start,
        num_segments=num_segments,
        theme=worded(main, rng),
        highlights=tuple(highlights),
        topics=tuple(worded(t, rng) for t in author.topics[programme * topics :][:topics]),
        points=tuple(worded(p, rng) for p in author.points[programme * points :][:points]),
        audiences=today(author.audiences, author.usual[2], rng),
        format=author.format if rng.random() < _STEADY else int(rng.integers(len(FORMATS))),
        scene=author.scene if rng.random() < _STEADY else int(rng.integers(len(SCENES))),
        popularity=min(author.popularity / 10, 1.0),
    )


def worded(phrase: int, rng: np.random.Generator) -> int:
    """The phrase in one of the author's wordings: hosts say the same in other words on another day."""
    return phrase + int(rng.integers(WORDINGS))
