"""What a reference row is: a score of the same examples by other means, and the record that it leaves."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.catalog import Catalog
from pipelines.ranking import evaluate
from pipelines.ranking.plan import TrainConfig, train_days
from pipelines.samples.batches import build_catalog, read_examples
from pipelines.tables.columns import Columns
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings

Scores = dict[str, npt.NDArray[np.float32]]
"""By task, one score per example of the day, of any scale; a task that is not ranked is left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What a reference row may read."""

    settings: "Settings"
    """Those of the study, with the seed and its store."""
    train: TrainConfig
    """That of the variant which the others are compared with."""
    storage: Storage
    days: tuple[str, ...]
    """Days to learn from, oldest first."""
    day: str
    """The day to score."""
    columns: Columns
    """Its examples."""
    catalog: Catalog
    """Everyone known by the newest day, as rankers know them."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is ranked, in order."""
        return tuple(self.train.ranker.tasks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """What a reference row says of the day."""

    scores: Scores
    chosen: dict[str, Any] = field(default_factory=dict)
    """What was chosen by validation, for the record."""


Rank = Callable[[Material], Ranked]


def material(settings: "Settings", train: TrainConfig) -> Material:
    """What a reference row reads, of the store of `settings`. Raises ContractError where days are missing."""
    storage = settings.open().storage
    day = evaluate.day_of(settings.evaluate.day, storage)
    return Material(
        settings=settings,
        train=train,
        storage=storage,
        days=tuple(train_days(train, storage)),
        day=day,
        columns=read_examples(storage, day),
        catalog=build_catalog(storage, storage.days("examples")[-1])[0],
    )


def record(given: Material, rank: Rank) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The file of a reference row, in the form of a trial's, and its scores [n, K]; nan for tasks it does not rank."""
    started, cpu_started = time.perf_counter(), time.process_time()
    ranked = rank(given)
    cost = {"cpu_s": time.process_time() - cpu_started, "wall_s": time.perf_counter() - started}
    oracle = None
    if evaluate.has_oracle(given.storage, given.day, given.tasks):
        oracle = evaluate.oracle_scores(given.storage, given.day, given.columns, given.tasks)
    missing = np.full(len(given.columns["user_id"]), np.nan, np.float32)
    scores = np.stack([ranked.scores.get(task, missing) for task in given.tasks], axis=1)
    said: dict[str, Any] = {
        "day": given.day,
        "seconds": cost["wall_s"],
        "cost": cost,
        "chosen": ranked.chosen,
        "metrics": evaluate.measured(given.columns, scores, given.tasks, oracle),
    }
    return said, {"scores": scores.astype(np.float32)}


def run_reference(
    settings: "Settings", train: TrainConfig, module: str, name: str
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """`record` of the row `name` in the ROWS of a module beside this one. Runs inside a Ray task."""
    return record(material(settings, train), importlib.import_module(module).ROWS[name])
