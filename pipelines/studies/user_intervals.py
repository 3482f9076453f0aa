"""Differences to the reference, and to the full model, within a seed: with their interval over the day's users.

On simulated worlds each world has its own users, and its own interval. Seeds that share one store share its users, and
their mean difference has one interval. Neither says how another world, or another initialisation, would turn out.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.metrics import GroupAUC
from pipelines.ranking import evaluate
from pipelines.samples.batches import read_examples
from pipelines.studies.bootstrap import RESAMPLES, over_users
from pipelines.studies.table import TITLES
from pipelines.studies.trials import scores_of
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.studies.config import StudyConfig

ByUser = dict[str, dict[str, GroupAUC]]


def build(
    config: "StudyConfig", per_seed: "Mapping[int, Settings]", files: Mapping[tuple[str, int], Path]
) -> list[dict[str, Any]]:
    """The section "users" of `table.json`: {variant, against, task, metric, seeds, delta, ci_low, ci_high}, in points.

    `files` are those of trials and reference rows by (name, seed). A task that a row does not rank is left out.
    """
    rows = []
    tasks = config.tasks
    names = list(dict.fromkeys(name for name, _ in files))
    for seeds in _sharing(per_seed):
        found = {
            name: _pooled([_by_user(per_seed[seed], files[name, seed], tasks) for seed in seeds]) for name in names
        }
        for against in dict.fromkeys((config.reference, config.full or config.reference)):
            for name in (name for name in names if name != against):
                said = {"variant": name, "against": against, "seeds": list(seeds)}
                rows += [said | difference for difference in _differences(found[name], found[against])]
    return rows


def _differences(model: ByUser, other: ByUser) -> Iterator[dict[str, Any]]:
    """Of every task that the model ranks, by every metric."""
    for task, metrics in model.items():
        for metric, users in metrics.items():
            yield {"task": task, "metric": metric} | over_users(users, other[task][metric])


def _sharing(per_seed: "Mapping[int, Settings]") -> list[tuple[int, ...]]:
    """The seeds of each store."""
    by_root: dict[str, list[int]] = {}
    for seed, settings in per_seed.items():
        by_root.setdefault(settings.storage.root, []).append(seed)
    return [tuple(seeds) for seeds in by_root.values()]


def _by_user(settings: "Settings", file: Path, tasks: Sequence[str]) -> ByUser:
    storage = Storage.open(settings.storage.root)
    day = evaluate.day_of(settings.evaluate.day, storage)
    columns = read_examples(storage, day)
    chance = None
    if evaluate.has_oracle(storage, day, tasks):
        chance = evaluate.oracle_scores(storage, day, columns, tasks)
    return evaluate.by_user(columns, scores_of(file), tasks, chance)


def _pooled(of_seeds: Sequence[ByUser]) -> ByUser:
    """AUCs of all seeds as drawings [R, U] of the same users."""
    first = of_seeds[0]
    return {
        task: {
            metric: users._replace(aucs=np.concatenate([np.atleast_2d(of[task][metric].aucs) for of in of_seeds]))
            for metric, users in metrics.items()
        }
        for task, metrics in first.items()
    }


def markdown(table: Mapping[str, Any]) -> str:
    """GAUC of the first task: a row per variant, a column per world, or one for all seeds of a store; "" without.

    A table against the reference, and one against the full model where the study has one.
    """
    rows = table.get("users", ())
    if not rows:
        return ""
    against = dict.fromkeys(row["against"] for row in rows)
    parts = [_against(table, [row for row in rows if row["against"] == name], name) for name in against]
    note = (
        f"Differences within a seed; 95 % interval over {RESAMPLES:,} resamples of the users of the scored day. It "
        "holds the trained models and the world fixed."
    )
    return "\n\n".join([*parts, note])


def _against(table: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], other: str) -> str:
    task = rows[0]["task"]
    rows = [row for row in rows if row["task"] == task]
    metric = max((row["metric"] for row in rows), key=list(TITLES).index)
    groups = list(dict.fromkeys(tuple(row["seeds"]) for row in rows))
    titles = [f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of seeds {seeds[0]} to {seeds[-1]}" for seeds in groups]
    labels = {row["variant"]: row["label"] for row in table["rows"]}
    title = f"{task} {TITLES[metric]}, over users: difference to {labels[other]}"
    lines = [f"| {title} | " + " | ".join(titles) + " |", "|" + "---|" * (1 + len(groups))]
    for name in dict.fromkeys(row["variant"] for row in rows):
        of = {tuple(row["seeds"]): row for row in rows if (row["variant"], row["metric"]) == (name, metric)}
        lines.append(f"| {labels[name]} | " + " | ".join(_cell(of[group]) for group in groups) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    if row["delta"] is None:
        return "n/a"
    return f"{row['delta']:+.2f} ({row['ci_low']:+.2f} to {row['ci_high']:+.2f})"
