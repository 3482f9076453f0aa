"""What the world job asks of the laws of a world, and the laws `sessions` as an answer."""

from collections.abc import Mapping
from typing import Protocol

import pyarrow as pa

from pipelines.tables.storage import Storage
from pipelines.world import behaviour
from pipelines.world.authors import Author, make_authors, plan_day
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import Lexicon, lexicon
from pipelines.world.live.laws import Live
from pipelines.world.lives import LivePlan
from pipelines.world.platform.laws import Platform


class Laws(Protocol):
    """One world, from its configuration and seed alone."""

    @property
    def words(self) -> Lexicon:
        """Every phrase that may stand in an anchor."""

    @property
    def everyone(self) -> list[Author]:
        """All authors, newcomers included, in order of arrival."""

    def plan(self, day: int) -> list[LivePlan]:
        """The lives of a day, sorted by author id."""

    def revealed(self, plans: list[LivePlan]) -> Mapping[str, pa.Table]:
        """What lives really show beside their anchors, by the table of the oracle that tells it."""

    def watch(self, storage: Storage, name: str, day: int, plans: list[LivePlan], made_from: dict[str, str]) -> None:
        """Writes what users did on a watched day: users, impressions, events and the oracle's probabilities."""


class Sessions:
    """The laws `sessions`: phrases liked one by one; users, tastes and follows that never change."""

    def __init__(self, config: WorldConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self.words = lexicon(config.num_points, config.lexicon_seed)
        self.everyone = make_authors(config, self.words, seed)

    def plan(self, day: int) -> list[LivePlan]:
        """The lives of a day, sorted by author id."""
        return plan_day(self.everyone, day, self._config, self._seed)

    def revealed(self, plans: list[LivePlan]) -> Mapping[str, pa.Table]:
        """Nothing: anchors say all."""
        return {}

    def watch(self, storage: Storage, name: str, day: int, plans: list[LivePlan], made_from: dict[str, str]) -> None:
        """Writes what users did on a watched day."""
        behaviour.write_day(storage, name, day, self.everyone, plans, self.words, self._config, self._seed, made_from)


def open_laws(config: WorldConfig, seed: int) -> Laws:
    """The world of a configuration."""
    if config.live is not None:
        return Live(config, config.live, seed)
    return Platform(config, seed) if config.laws == "platform" else Sessions(config, seed)
