"""The laws `platform`: writes what viewers did on a day, from the follow list that the days before left."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines.tables import newest
from pipelines.tables.contract import TASKS_COLUMNS
from pipelines.tables.storage import Storage
from pipelines.world.authors import day_start_ms
from pipelines.world.behaviour import events
from pipelines.world.config import WorldConfig
from pipelines.world.lives import LivePlan
from pipelines.world.platform import follows
from pipelines.world.platform.authors import make_authors, plan_day
from pipelines.world.platform.chances import chances
from pipelines.world.platform.content import make_stage
from pipelines.world.platform.viewers import Viewers, make_viewers
from pipelines.world.platform.visits import Columns, Scene, simulate

FORMAT = "platform 2"
"""In the lineage of the tables: raise the number with every change after which equal seeds give other rows."""


class Platform:
    """One world of these laws, from its configuration and seed alone."""

    def __init__(self, config: WorldConfig, seed: int) -> None:
        self._config, self.seed = config, seed
        self.everyone, self.words = make_authors(config, seed)

    def plan(self, day: int) -> list[LivePlan]:
        """The lives of a day, sorted by author id."""
        return plan_day(self.everyone, day, self._config, self.seed)

    def revealed(self, plans: list[LivePlan]) -> Mapping[str, pa.Table]:
        """Nothing: anchors say all."""
        return {}

    def viewers(self, day: int) -> Viewers:
        """All viewers, with their tastes on a day."""
        return make_viewers(self._config, self.words.attributes, self.seed, day)

    def watch(self, storage: Storage, name: str, day: int, plans: list[LivePlan], made_from: dict[str, str]) -> None:
        """Writes users who join, impressions, events and the oracle's tables."""
        config, viewers = self._config, self.viewers(day)
        joined = viewers.first_day == day
        if day == config.warmup_days:
            joined = viewers.first_day <= day
        storage.write("users", name, [viewers.table(joined)], made_from)
        newest.carry(storage, "users", until=name)
        scene = self._scene(viewers, plans)
        columns = simulate(
            scene,
            self._follows(storage, day, viewers),
            day_start_ms(config.first_day, day),
            day,
            np.random.default_rng([self.seed, 20, day]),
        )
        ids = np.arange(len(columns["ts_ms"]), dtype=np.int64) + (day + 1) * 10**9
        lives = columns["live"]
        impressions = pa.table(
            {
                "impression_id": ids,
                "user_id": viewers.user_id[columns["user"]],
                "author_id": np.array([p.author_id for p in plans], np.int64)[lives],
                "live_id": np.array([p.live_id for p in plans], np.int64)[lives],
                "ts_ms": columns["ts_ms"],
                **{task: columns[task].astype(np.uint8) for task in TASKS_COLUMNS},
                "watch_time_s": columns["watch_time_s"],
            }
        )
        storage.write("impressions", name, [impressions], made_from)
        storage.write("events", name, events(impressions, 1000 * columns["gift_s"]), made_from)
        for table, truth in self._truth(scene, columns).items():
            storage.write(table, name, [pa.table({"impression_id": ids} | truth)], made_from)

    def _scene(self, viewers: Viewers, plans: list[LivePlan]) -> Scene:
        position = {a.author_id: i for i, a in enumerate(self.everyone)}
        author = np.array([position[p.author_id] for p in plans], np.int64)
        live_of = np.full(len(self.everyone), -1, np.int64)
        live_of[author] = np.arange(len(plans))
        stage = make_stage(plans, self.everyone, self.words, self.seed)
        of_day = partial(chances, viewers, stage, self.words, self._config)
        return Scene(viewers=viewers, stage=stage, chances=of_day, config=self._config, author=author, live_of=live_of)

    def _truth(self, scene: Scene, columns: Columns) -> dict[str, Columns]:
        """What no ranker may know of a day's exposures, by the table that tells it."""
        return {"oracle_impressions": {task: columns[f"p_{task}"] for task in TASKS_COLUMNS}}

    def _follows(self, storage: Storage, day: int, viewers: Viewers) -> follows.Follows:
        """The list at the start of the day; that of the first day comes from the tastes of the first day."""
        first = follows.before_first_day(self.viewers(0), self.everyone, self.words, self._config, self.seed)
        return follows.as_of(storage, day, first, viewers, self.everyone, self._config)
