"""What a ranker could reach that knows every user's true taste for content, but no taste for single authors.

Of a simulated day alone. The oracle's own click probability, which knows all, is in the table oracle_impressions.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.tables.contract import ContractError
from pipelines.tables.days import day_number
from pipelines.tables.storage import Storage
from pipelines.world import behaviour, tastes
from pipelines.world.config import WorldConfig
from pipelines.world.laws import Laws, Sessions, open_laws
from pipelines.world.live.laws import Live
from pipelines.world.lives import LivePlan
from pipelines.world.platform.chances import LOGITS
from pipelines.world.platform.content import content_liking, liking_of, make_stage
from pipelines.world.platform.laws import Platform
from pipelines.world.tastes import Stage

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Columns = Mapping[str, NDArray[Any]]
IN_FORCE, TODAY = "content in force", "content of today"


def ceilings(
    config: WorldConfig, seed: int, storage: Storage, day: str, columns: Columns
) -> dict[str, NDArray[np.float32]]:
    """Scores [n] of the impressions `columns["impression_id"]` of a day, in logits of the click.

    "content in force": the true taste for what the author showed on the newest day strictly before, as the anchors in
    force say it at best; 0 where there is none. "content of today": for what is on air at the moment. Both have what
    every author and user is like on average, as ids tell it, and neither has the taste of a user for a single author.
    Users, authors and moments are read from the table impressions; all else follows from config and seed.
    Raises ContractError where an impression is not of that day, or not of this world.
    """
    seen = _impressions(storage, day, columns)
    laws = open_laws(config, seed)
    number = day_number(day) - day_number(str(config.first_day))
    newest: dict[int, LivePlan] = {}
    for past in range(number):
        newest |= {plan.author_id: plan for plan in laws.plan(past)}
    before, today = [newest[author] for author in sorted(newest)], laws.plan(number)
    views = _views(laws, config, seed, number)
    now, past_stage = views.stage(today), views.stage(before)
    user = _positions(views.user_id, seen["user_id"], "user", day)
    live = _positions(now.author_id, seen["author_id"], "author", day)
    rest = views.rest(now, user, live)
    past_live, has = _found(past_stage.author_id, seen["author_id"])
    force = np.zeros(len(user), np.float32)
    force[has] = views.main(past_stage, user[has], past_live[has])
    return {IN_FORCE: force + rest, TODAY: views.moment(now, user, live, seen["ts_ms"]) + rest}


def _impressions(storage: Storage, day: str, columns: Columns) -> dict[str, Ints]:
    """User, author and moment of the impressions asked for, in their order."""
    table = storage.read("impressions", day, ["impression_id", "user_id", "author_id", "ts_ms"])
    at = _positions(table["impression_id"].to_numpy(), columns["impression_id"], "impression", day)
    return {name: table[name].to_numpy()[at] for name in ("user_id", "author_id", "ts_ms")}


def _found(ids: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Position of each wanted id, and whether it is there at all."""
    if not len(ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    order = np.argsort(ids)
    at = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return at, ids[at] == wanted


def _positions(ids: Ints, wanted: Ints, kind: str, day: str) -> Ints:
    at, has = _found(ids, wanted)
    if not has.all():
        raise ContractError(
            f"{kind} {wanted[~has][0]} is not in the world's {day}; wanted impressions of that day, made from the same "
            "configuration and seed"
        )
    return at


class _Views(Protocol):
    """How the laws of a world rate content, in logits of the click."""

    user_id: Ints

    def stage(self, plans: list[LivePlan]) -> Stage:
        """Arrays of lives."""

    def main(self, stage: Stage, user: Ints, live: Ints) -> Floats:
        """Taste for what lives are mainly about."""

    def moment(self, stage: Stage, user: Ints, live: Ints, ts_ms: Ints) -> Floats:
        """Taste for what is on air at a moment."""

    def rest(self, stage: Stage, user: Ints, live: Ints) -> Floats:
        """What users and authors are like on average."""


def _views(laws: Laws, config: WorldConfig, seed: int, day: int) -> _Views:
    if isinstance(laws, Sessions):
        return _Sessions(config, seed, laws)
    return _Live(laws, day) if isinstance(laws, Live) else _Platform(Platform(config, seed), day)


class _Sessions:
    def __init__(self, config: WorldConfig, seed: int, laws: Sessions) -> None:
        self._laws, self._seed = laws, seed
        self._users = tastes.make_users(config, laws.words, seed)
        self.user_id = self._users.user_id

    def stage(self, plans: list[LivePlan]) -> Stage:
        return tastes.make_stage(plans, self._laws.everyone, self._laws.words, self._seed)

    def main(self, stage: Stage, user: Ints, live: Ints) -> Floats:
        liking: Floats = np.einsum("nv,nv->n", self._users.taste[user], stage.phrases[live])
        return np.float32(behaviour.CONTENT) * liking

    def moment(self, stage: Stage, user: Ints, live: Ints, ts_ms: Ints) -> Floats:
        return np.float32(behaviour.CONTENT) * tastes.content_liking(self._users, stage, user, live, ts_ms)

    def rest(self, stage: Stage, user: Ints, live: Ints) -> Floats:
        return np.float32(behaviour.QUALITY) * stage.quality[live]


class _Platform:
    def __init__(self, laws: Platform, day: int) -> None:
        self._laws, self._viewers = laws, laws.viewers(day)
        self.user_id = self._viewers.user_id

    def stage(self, plans: list[LivePlan]) -> Stage:
        return make_stage(plans, self._laws.everyone, self._laws.words, self._laws.seed)

    def main(self, stage: Stage, user: Ints, live: Ints) -> Floats:
        liking = liking_of(self._viewers, stage.phrases[live], stage.theme[live], self._laws.words, user)
        return np.float32(LOGITS["click"][1]) * liking

    def moment(self, stage: Stage, user: Ints, live: Ints, ts_ms: Ints) -> Floats:
        liking = content_liking(self._viewers, stage, self._laws.words, user, live, ts_ms)
        return np.float32(LOGITS["click"][1]) * liking

    def rest(self, stage: Stage, user: Ints, live: Ints) -> Floats:
        readiness: Floats = self._viewers.readiness["click"][user]
        return readiness + np.float32(LOGITS["click"][3]) * stage.quality[live]


class _Live(_Platform):
    def __init__(self, laws: Live, day: int) -> None:
        super().__init__(laws, day)
        self._live = laws

    def main(self, stage: Stage, user: Ints, live: Ints) -> Floats:
        return self._live.chances(self._viewers, stage.plans).content(user, live)

    def moment(self, stage: Stage, user: Ints, live: Ints, ts_ms: Ints) -> Floats:
        return self._live.chances(self._viewers, stage.plans).content(user, live, ts_ms)
