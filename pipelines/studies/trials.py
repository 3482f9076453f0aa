"""The trials of a study: what each depends on, the file that it leaves, and running those whose file is missing."""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.ranking import evaluate
from pipelines.ranking.train import make_plan
from pipelines.studies.config import Variant
from pipelines.studies.side_by_side import side_by_side
from pipelines.studies.trial import run_trial
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One variant with one seed."""

    settings: "Settings"
    """Those of the study, with the variant's model."""
    kind: str
    """One of KINDS."""
    key: str
    """Digest of all that its numbers depend on: code, settings and data."""


def plan_trial(settings: "Settings", variant: Variant, code: str) -> Trial:
    """The trial of a variant over the store of `settings`; `code` is the digest of the code that trials run.

    Raises ContractError where days to train on or to score are missing.
    """
    settings = replace(settings, train=replace(settings.train, model=merged(settings.train.model, variant.model)))
    storage = Storage.open(settings.storage.root)
    plan, made_from = make_plan(settings.train, settings.open(), storage, Artifacts(storage), variant.kind)
    day = evaluate.day_of(settings.evaluate.day, storage)
    evaluate.refuse_trained_day(day, list(plan.days), variant.kind)
    scored = [day, _scored_from(storage, day, plan.days[-1], made_from), list(settings.evaluate.exposure_bounds)]
    return Trial(settings=settings, kind=variant.kind, key=digest([code, made_from, scored]))


def _scored_from(storage: Storage, day: str, last_trained: str, made_from: Mapping[str, str]) -> list[list[str]]:
    """Fingerprints of what scoring `day` reads beside what training did.

    The day's examples, their true probabilities where the platform is simulated, and, of each table that the variant
    reads day by day, the days since training stopped to read it.
    """
    daily = {name.partition("/")[0] for name in made_from if "/" in name} - {"examples"}
    read = [("examples", day)]
    read += [("oracle_impressions", day)] if day in storage.days("oracle_impressions") else []
    read += [(table, d) for table in sorted(daily) for d in storage.days(table) if last_trained <= d < day]
    return [[table, d, storage.fingerprint(table, d)] for table, d in read]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def run_missing(
    trials: Mapping[tuple[str, int], Trial], folder: Path, parallel: int | None
) -> dict[tuple[str, int], Path]:
    """Runs every trial that has no file in `folder`, `parallel` at a time; returns all files.

    Trials go by (variant, seed). A file is named after the trial's key, so variants of one or several studies share
    the trials that they have in common, and an interrupted study resumes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{trial.kind}-{name[1]}-{trial.key}.json" for name, trial in trials.items()}
    missing = {file: (trials[name].settings, trials[name].kind) for name, file in files.items() if not file.is_file()}
    titles = {file: f"{variant} seed {seed}" for (variant, seed), file in files.items()}
    log.info("study | %d trials, %d still to run", len(trials), len(missing))
    started = time.perf_counter()
    # Each trial in a process of its own, so that its peak of memory is its own too.
    finished = side_by_side(run_trial, missing, parallel, max_calls=1)
    for number, (file, record) in enumerate(finished, 1):
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(record, indent=1))
        os.replace(unfinished, file)
        took = time.perf_counter() - started
        log.info(
            "study | trial %d/%d | %s | click GAUC %.4f | %.0f s | eta %.0f s",
            number, len(missing), titles[file], record["metrics"]["click"]["gauc"], took,
            took / number * (len(missing) - number),
        )  # fmt: skip
    return files
