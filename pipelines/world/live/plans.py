"""Authors' programmes, and the lives of a day made of them."""

from dataclasses import replace

import numpy as np

from pipelines.tables.contract import SEGMENT_MS
from pipelines.world.authors import DAY_MS, Author
from pipelines.world.lexicon import SCENES
from pipelines.world.live.config import LiveConfig
from pipelines.world.live.programme import Act, Course, Programme
from pipelines.world.lives import LivePlan
from pipelines.world.platform.authors import worded

EVENING = (0.72, 0.88)
"""When lives are on air, as shares of a day: short as they are, they gather, so that many are on air at once."""
_FEWEST_ACTS = 3
_LENGTHS, _LENGTH_CHANCES = (1, 2, 3, 4), (0.25, 0.3, 0.3, 0.15)
"""Segments of an act; a mean of 2.35."""


def make_programme(author: Author, config: LiveConfig, seed: int) -> Programme:
    """The author's own, for good. Its themes are some of the author's, each in a scene of its own."""
    rng = np.random.default_rng([seed, 30, author.author_id])
    count = int(rng.integers(_FEWEST_ACTS, len(author.themes) + 1))
    scenes = [author.scene, *(s for s in rng.permutation(len(SCENES)).tolist() if s != author.scene)]
    acts = [
        Act(
            theme=theme,
            scene=scene,
            intensity=int(rng.integers(-1, 2)),
            segments=int(rng.choice(_LENGTHS, p=_LENGTH_CHANCES)),
        )
        for theme, scene in zip(author.themes[:count], scenes[:count], strict=True)
    ]
    return Programme(acts=tuple(acts), law=tuple(_after(act, count, config.next_act, rng) for act in range(count)))


def _after(act: int, count: int, next_act: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Chances of the acts after one: the next of the cycle, else a jump to one of the others."""
    chances = np.zeros(count)
    chances[(act + 1) % count] = next_act
    others = [k for k in range(count) if k not in (act, (act + 1) % count)]
    chances[others] = (1 - next_act) * rng.dirichlet(np.ones(len(others)))
    return tuple(float(chance) for chance in chances)


def with_course(
    plan: LivePlan, programme: Programme, config: LiveConfig, day: int, day_start: int, seed: int
) -> LivePlan:
    """The live of an author, shorter, in the evening, and with acts. Topics, points and audiences stay as they are."""
    rng = np.random.default_rng([seed, 31, day, plan.author_id])
    num_segments = int(rng.integers(config.max_segments // 2, config.max_segments + 1))
    first, last = (round(DAY_MS * share) for share in EVENING)
    start = day_start + int(rng.integers(first, last - num_segments * SEGMENT_MS))
    course = Course(
        programme=programme,
        acts=programme.run(num_segments, rng),
        themes=tuple(worded(act.theme, rng) for act in programme.acts),
    )
    return replace(
        plan,
        num_segments=num_segments,
        start_ts_ms=start,
        theme=course.themes[course.main],
        scene=programme.acts[course.main].scene,
        highlights=(),
        course=course,
    )
