"""The live world: the laws `platform`, with lives whose screen moves and labels that depend on it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.tables.contract import spec
from pipelines.world.authors import day_start_ms
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import CATEGORIES
from pipelines.world.live.chances import LiveChances
from pipelines.world.live.config import LiveConfig
from pipelines.world.live.plans import EVENING, make_programme, with_course
from pipelines.world.live.screen import make_screen
from pipelines.world.lives import LivePlan
from pipelines.world.platform.content import make_stage
from pipelines.world.platform.laws import Platform
from pipelines.world.platform.phrases import PhraseBook
from pipelines.world.platform.viewers import Viewers
from pipelines.world.platform.visits import Columns, Scene

FORMAT = "live 1"
"""In the lineage of the tables: raise the number with every change after which equal seeds give other rows."""

QUESTIONS = {
    "What is on screen?": "{category}, {theme}, {scene}",
    "Which theme is on?": "{theme}",
    "Where does it take place?": "{scene}",
}
"""What a teacher is asked about a segment (LARM 2.1), and what it answers of the segment's truth."""
_KEY = ("author_id", "live_id", "segment")


class Live(Platform):
    """One world of these laws, from its configuration and seed alone."""

    def __init__(self, config: WorldConfig, live: LiveConfig, seed: int) -> None:
        super().__init__(config, seed)
        self._live = live
        self._programmes = {a.author_id: make_programme(a, live, seed) for a in self.everyone}

    def plan(self, day: int) -> list[LivePlan]:
        """The lives of a day, sorted by author id."""
        start = day_start_ms(self._config.first_day, day)
        return [
            with_course(plan, self._programmes[plan.author_id], self._live, day, start, self.seed)
            for plan in super().plan(day)
        ]

    def revealed(self, plans: list[LivePlan]) -> Mapping[str, pa.Table]:
        """The acts on screen, and what a teacher answers about them where the world is one."""
        truth = segment_truth(plans, self.words)
        answers = {"segment_answers": segment_answers(truth)} if self._config.teacher else {}
        return {"oracle_segments": truth} | answers

    def chances(self, viewers: Viewers, plans: list[LivePlan]) -> LiveChances:
        """Probabilities of a day's exposures."""
        return LiveChances(
            viewers=viewers,
            stage=make_stage(plans, self.everyone, self.words, self.seed),
            screen=make_screen(plans, self.words),
            book=self.words,
            author_taste=self._config.author_taste,
            watched=self._config.content_matters,
        )

    def _scene(self, viewers: Viewers, plans: list[LivePlan]) -> Scene:
        return replace(super()._scene(viewers, plans), chances=self.chances(viewers, plans), arrivals=in_the_evening)

    def _truth(self, scene: Scene, columns: Columns) -> dict[str, Columns]:
        assert isinstance(scene.chances, LiveChances)
        exposure = (columns[name] for name in ("user", "live", "ts_ms", "followed"))
        return super()._truth(scene, columns) | {"oracle_live": scene.chances.expected(*exposure)}


def in_the_evening(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """When visits are planned, as shares of a day, [count]: while about as many are on air as ever."""
    first, last = EVENING
    ramp = (last - first) / 8
    moments: NDArray[np.float64] = rng.uniform(first + ramp, last - ramp, size=count)
    return moments


def segment_truth(plans: list[LivePlan], words: PhraseBook) -> pa.Table:
    """What each segment of lives really shows."""
    courses = [(plan, plan.course) for plan in plans if plan.course is not None]
    acts = [act for _, course in courses for act in map(course.act_at, range(len(course.acts)))]
    counts = [len(course.acts) for _, course in courses]
    return pa.table(
        {
            "author_id": np.repeat(np.array([plan.author_id for plan, _ in courses], np.int64), counts),
            "live_id": np.repeat(np.array([plan.live_id for plan, _ in courses], np.int64), counts),
            "segment": np.concatenate([np.zeros(0, np.int32), *(np.arange(n, dtype=np.int32) for n in counts)]),
            "act": pa.array([k for _, course in courses for k in course.acts], pa.int32()),
            "theme": pa.array([words.meaning(act.theme) for act in acts], pa.string()),
            "category": pa.array([CATEGORIES[words.theme_category[act.theme]] for act in acts], pa.string()),
            "scene": pa.array([words.scenes[act.scene] for act in acts], pa.string()),
            "intensity": pa.array([act.intensity for act in acts], pa.int32()),
        }
    )


def segment_answers(truth: pa.Table) -> pa.Table:
    """What the world answers as a teacher, of each segment of its truth."""
    rows = [
        {**{name: row[name] for name in _KEY}, "question": question, "answer": answer.format(**row)}
        for row in truth.to_pylist()
        for question, answer in QUESTIONS.items()
    ]
    return pa.Table.from_pylist(rows, schema=spec("segment_answers").schema)
