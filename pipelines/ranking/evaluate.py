"""AUC and GAUC of the published models on a day that they were not trained on, beside the oracle's where there is one.

Reads examples, what the sources read, and every published ranker, the one that is served included; writes
`scores-<ranker>.npz` into the run's folder, and the artifact "evaluation", by which the job publish judges.
Run: python -m pipelines evaluate --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.artifacts.manifest import ArtifactError
from models.config import DayText
from pipelines.ranking import gate, published
from pipelines.ranking.variants import screens_of
from pipelines.ranking.variants.source import State
from pipelines.runtime.run import Run
from pipelines.samples.batches import read_examples, require_labels, require_screens
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns
from pipelines.tables.contract import ContractError, spec
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from models.metrics import GroupAUC

log = logging.getLogger(__name__)
Scores = npt.NDArray[np.float32]

ORACLE = "oracle"
REDRAWS = 50
"""How often `redraws` resamples the day's labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """What is measured."""

    day: DayText | None = None
    """Day of examples to score, YYYY-MM-DD; null = the newest."""
    exposure_bounds: tuple[int, ...] = (1, 60, 100, 1_000, 10_000)
    """Where buckets of authors, by their training impressions, begin and end: new authors, and the groups of Fig. 6."""


def run(config: EvaluateConfig, run: Run) -> dict[str, Any]:
    """Scores the day with every published ranker and measures."""
    storage = run.storage
    artifacts = Artifacts(storage)
    day = day_of(config.day, storage)
    rankers = [published.load(artifacts, name) for name in published.published_rankers(artifacts)]
    for ranker in rankers:
        refuse_trained_day(day, ranker.days, ranker.name)
    tasks = common_tasks(rankers)
    require_labels(storage, [day], tasks)
    screens = screens_of(name for ranker in rankers for name in ranker.sources)
    require_screens(storage, [day], screens)
    columns = read_examples(storage, day, screens)
    scores: dict[str, Scores] = {}
    result: dict[str, Any] = {"day": day, "examples": len(columns["user_id"])}
    for ranker in rankers:
        started = time.perf_counter()
        states = ranker.states(storage, artifacts)
        scores[ranker.name] = score_day(ranker, states, day, columns)
        _write_scores(run, ranker.name, columns, scores[ranker.name])
        took = time.perf_counter() - started
        log.info("%s scored %d examples of %s | %.1f s", ranker.name, len(columns["user_id"]), day, took)
    if has_oracle(storage, day, tasks):
        scores[ORACLE] = oracle_scores(storage, day, columns, tasks)
    result["metrics"] = {name: measure(columns, values, tasks) for name, values in scores.items()}
    result["buckets"] = by_exposure(storage, rankers[0].days, columns, scores, tasks[0], config.exposure_bounds)
    evaluation = gate.Evaluation(
        day=day,
        rankers=tuple(
            gate.Judged(ranker=r.name, run_id=r.manifest.run_id, metrics=result["metrics"][r.name]) for r in rankers
        ),
        served=_served(storage, artifacts, rankers, day, columns),
    )
    evaluation.publish(artifacts)
    result["served"] = evaluation.served and asdict(evaluation.served)
    for name, tasks in result["metrics"].items():
        shown = " | ".join(f"{task} AUC {m['auc']:.4f} GAUC {m['gauc']:.4f}" for task, m in tasks.items())
        log.info("%-6s | %s", name, shown)
    return result


def _served(
    storage: Storage, artifacts: Artifacts, rankers: Sequence[published.PublishedRanker], day: str, columns: Columns
) -> gate.Judged | None:
    """Measures the version that is served, where it is none of `rankers` and can be compared on this day."""
    version = gate.served_version(artifacts)
    if version is None or version in [(ranker.name, ranker.manifest.run_id) for ranker in rankers]:
        return None
    ranker = published.load(artifacts, *version)
    if day in ranker.days or not {*ranker.tasks, *screens_of(ranker.sources)} <= set(columns):
        log.warning("the served %s %s was trained on %s, or reads other columns, and is not compared", *version, day)
        return None
    scores = score_day(ranker, ranker.states(storage, artifacts), day, columns)
    return gate.Judged(ranker=ranker.name, run_id=version[1], metrics=measure(columns, scores, ranker.tasks))


def common_tasks(rankers: Sequence[published.PublishedRanker]) -> tuple[str, ...]:
    """The tasks of all rankers, in the order of their scores. Raises ArtifactError where rankers differ in them."""
    tasks = {ranker.name: ranker.tasks for ranker in rankers}
    if len(set(tasks.values())) > 1:
        said = ", ".join(f"{name} has {' '.join(of)}" for name, of in tasks.items())
        raise ArtifactError(
            f"wanted rankers of the same tasks, published are: {said}; train them again with one train.ranker.tasks, "
            "or remove the artifacts of the one that is not wanted"
        )
    return rankers[0].tasks


def score_day(ranker: published.PublishedRanker, states: Mapping[str, State], day: str, columns: Columns) -> Scores:
    """Probabilities [n, K] of a day's examples, with what the sources knew before it."""
    inputs = published.advance(states, before=day)
    for state in states.values():
        state.check(day, columns)
    return published.score(ranker.model, ranker.catalog, columns, ranker.model.tables(inputs))


def measure(columns: Columns, scores: Scores, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """AUC and GAUC (by user) of each task; nan where a task has one class only."""
    from models.metrics import auc, gauc

    return {
        task: {
            "auc": auc(columns[task], scores[:, index]),
            "gauc": gauc(columns[task], scores[:, index], columns["user_id"]),
        }
        for index, task in enumerate(tasks)
    }


def by_user(
    columns: Columns, scores: Scores, tasks: Sequence[str], chance: Scores | None = None
) -> dict[str, dict[str, "GroupAUC"]]:
    """AUC of every user in each task: {task: {"gauc": of the day's labels, "gauc_redrawn": of `redraws` of `chance`}}.

    A task whose scores are nan, as it is not ranked, is left out; so is gauc_redrawn where `chance` is not known. The
    means of what is here are the GAUCs of `measure` and `redrawn_gauc`.
    """
    from models.metrics import auc_by_group

    ranked = [(i, task) for i, task in enumerate(tasks) if not np.isnan(scores[:, i]).any()]
    users = columns["user_id"]
    found = {task: {"gauc": auc_by_group(columns[task], scores[:, index], users)} for index, task in ranked}
    if chance is not None:
        drawn = redraws(chance)
        for index, task in ranked:
            found[task]["gauc_redrawn"] = auc_by_group(drawn[:, :, index], scores[:, index], users)
    return found


def measured(
    columns: Columns, scores: Scores, tasks: Sequence[str], chance: Scores | None = None
) -> dict[str, dict[str, float]]:
    """AUC and GAUC of each task as `measure` has them, and gauc_redrawn where `chance` is known; see `by_user`."""
    from models.metrics import auc

    return {
        task: {"auc": auc(columns[task], scores[:, list(tasks).index(task)])}
        | {metric: float(np.mean(users.mean())) for metric, users in metrics.items()}
        for task, metrics in by_user(columns, scores, tasks, chance).items()
    }


def redraws(chance: Scores) -> npt.NDArray[np.bool_]:
    """Labels [REDRAWS, n, K] drawn from their true probabilities [n, K]; the same ones at every call."""
    rng = np.random.default_rng(0)
    return np.stack([rng.random(chance.shape) < chance for _ in range(REDRAWS)])


def redrawn_gauc(columns: Columns, chance: Scores, scores: Scores, tasks: Sequence[str]) -> dict[str, float]:
    """GAUC of each task as the mean over labels resampled from their true probabilities `chance` [n, K].

    It estimates what `measure` estimates, without the luck of the one draw that became the day's labels. The draws are
    the same at every call, so that models are compared on the same ones.
    """
    from models.metrics import auc_by_group

    drawn, users = redraws(chance), columns["user_id"]
    return {
        task: float(auc_by_group(drawn[:, :, index], scores[:, index], users).mean().mean())
        for index, task in enumerate(tasks)
    }


def day_of(day: str | None, storage: Storage) -> str:
    """The day to score, the newest for None. Raises ContractError where it has no examples."""
    days = storage.days("examples")
    if not days or (day is not None and day not in days):
        raise ContractError(
            f"table examples: wanted day {day or '(the newest)'}, got {', '.join(days) or 'none'}; "
            "run the job examples first"
        )
    return day or days[-1]


def refuse_trained_day(day: str, trained_on: list[str], ranker: str) -> None:
    """Raises ContractError where the ranker was trained on the day that it is to be scored on."""
    if day in trained_on:
        raise ContractError(
            f"evaluate.day: {day} is one of the days that {ranker} was trained on "
            f"({trained_on[0]} to {trained_on[-1]}); choose a later one"
        )


def has_oracle(storage: Storage, day: str, tasks: Sequence[str]) -> bool:
    """Whether the true probabilities of all the tasks are known: those of simulated labels on simulated days."""
    return set(tasks) <= set(spec("oracle_impressions").schema.names) and day in storage.days("oracle_impressions")


def oracle_scores(storage: Storage, day: str, columns: Columns, tasks: Sequence[str]) -> Scores:
    """True probabilities [n, K] of the same impressions, in their order. Raises ContractError where one is missing."""
    truth = storage.with_oracle().read("oracle_impressions", day, ["impression_id", *tasks]).sort_by("impression_id")
    ids = truth["impression_id"].to_numpy()
    at = np.minimum(np.searchsorted(ids, columns["impression_id"]), len(ids) - 1)
    if not (ids[at] == columns["impression_id"]).all():
        raise ContractError(f"table oracle_impressions, day {day}: impressions are missing; run the job world again")
    return np.stack([truth[task].to_numpy()[at] for task in tasks], axis=1)


def scores_file(ranker: str) -> str:
    """Name of the file in the run's folder with a ranker's scores: impression_id [n], scores [n, K]."""
    return f"scores-{ranker}.npz"


def _write_scores(run: Run, name: str, columns: Columns, scores: Scores) -> None:
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / scores_file(name), impression_id=columns["impression_id"], scores=scores)


def by_exposure(
    storage: Storage,
    days: list[str],
    columns: Columns,
    scores: Mapping[str, Scores],
    first_task: str,
    bounds: tuple[int, ...],
) -> list[dict[str, Any]]:
    """AUC and GAUC of a task by how often the author was shown on the training days: from (included) to (excluded).

    `scores` are by model, with the task `first_task` in their first column.
    """
    from models.metrics import auc, gauc

    shown = np.concatenate([storage.read("examples", d, ["author_id"])["author_id"].to_numpy() for d in days])
    authors, counts = np.unique(shown, return_counts=True)
    at = np.minimum(np.searchsorted(authors, columns["author_id"]), len(authors) - 1)
    count = np.where(authors[at] == columns["author_id"], counts[at], 0)
    table = []
    for low, high in zip((0, *bounds), (*bounds, None), strict=True):
        in_bucket = (count >= low) & (count < (high or np.inf))
        if not in_bucket.any():
            continue
        label, user = columns[first_task][in_bucket], columns["user_id"][in_bucket]
        row: dict[str, Any] = {
            "from": low,
            "to": high,
            "impressions": int(in_bucket.sum()),
            "authors": len(np.unique(columns["author_id"][in_bucket])),
        }
        for name, values in scores.items():
            row[name] = {"auc": auc(label, values[in_bucket, 0]), "gauc": gauc(label, values[in_bucket, 0], user)}
        table.append(row)
    return table
