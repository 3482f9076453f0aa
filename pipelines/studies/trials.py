"""The trials of a study: what each depends on, the file that it leaves, and running those whose file is missing."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.ranking import evaluate
from pipelines.ranking.plan import make_plan
from pipelines.ranking.variants import SOURCES
from pipelines.studies.config import Variant
from pipelines.studies.side_by_side import side_by_side
from pipelines.studies.trial import run_trial
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
_ARRAYS = ".npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One variant with one seed."""

    settings: "Settings"
    """Those of the study, with the seed and its store."""
    variant: Variant
    """What is trained."""
    key: str
    """Digest of all that its numbers depend on: code, configuration and data."""


def plan_trial(settings: "Settings", variant: Variant, code: str) -> Trial:
    """The trial of a variant over the store of `settings`; `code` is the digest of the code that trials run.

    Raises ContractError where days to train on or to score are missing.
    """
    run = settings.open()
    plan, made_from = make_plan(variant.train, run, Artifacts(run.storage), variant.train.sources)
    day = evaluate.day_of(settings.evaluate.day, run.storage)
    evaluate.refuse_trained_day(day, list(plan.days), variant.ranker)
    scored = [day, _scored_from(run.storage, day, variant), list(settings.evaluate.exposure_bounds)]
    return Trial(settings=settings, variant=variant, key=digest([code, made_from, scored]))


def _scored_from(storage: Storage, day: str, variant: Variant) -> dict[str, str]:
    """Fingerprints of what scoring `day` reads, of which training read less: sources move on until that day begins."""
    tables = ["examples", *(["oracle_impressions"] if day in storage.days("oracle_impressions") else [])]
    read = {f"{table}/{day}": storage.fingerprint(table, day) for table in tables}
    for name in variant.train.sources:
        read |= SOURCES[name].depends_on(storage, before=day)
    return read


def run_missing(
    trials: Mapping[tuple[str, int], Trial], folder: Path, parallel: int | None
) -> dict[tuple[str, int], Path]:
    """Runs every trial that has no file in `folder`, `parallel` at a time; returns all files.

    Trials go by (variant, seed). A file is named after the trial's key, so variants of one or several studies share
    the trials that they have in common, and an interrupted study resumes. The scores stand beside it.
    """
    files = {name: folder / f"{trial.variant.ranker}-{name[1]}-{trial.key}.json" for name, trial in trials.items()}
    arguments = {files[name]: (trial.settings, trial.variant) for name, trial in trials.items()}
    titles = {file: f"{variant} seed {seed}" for (variant, seed), file in files.items()}
    run_files(run_trial, arguments, titles, parallel)
    return files


def run_files(
    work: Callable[..., Any],
    arguments: Mapping[Path, tuple[Any, ...]],
    titles: Mapping[Path, str],
    parallel: int | None,
    says: Callable[[Mapping[str, Any]], str] | None = None,
) -> None:
    """Runs `work` for every file that is missing; it returns the record that the file holds, and arrays.

    Those go beside it, see `scores_of`, and are there once the file is. `says` is what the log says of a record.
    """
    missing = {file: given for file, given in arguments.items() if not file.is_file()}
    log.info("study | %d trials, %d still to run", len(titles), len(missing))
    started = time.perf_counter()
    # Each in a process of its own, so that its peak of memory is its own too.
    finished = side_by_side(work, missing, parallel, max_calls=1)
    for number, (file, (record, arrays)) in enumerate(finished, 1):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".tmp")
        with unfinished.open("wb") as stream:
            np.savez(stream, **arrays)
        os.replace(unfinished, file.with_suffix(_ARRAYS))
        unfinished.write_text(json.dumps(record, indent=1))
        os.replace(unfinished, file)
        took = time.perf_counter() - started
        log.info(
            "study | trial %d/%d | %s | %s | %.0f s | eta %.0f s",
            number, len(missing), titles[file], (says or _gauc)(record), took,
            took / number * (len(missing) - number),
        )  # fmt: skip


def _gauc(record: Mapping[str, Any]) -> str:
    """Of the first task."""
    task, metrics = next(iter(record["metrics"].items()))
    return f"{task} GAUC {metrics['gauc']:.4f}"


def scores_of(file: Path) -> npt.NDArray[np.float32]:
    """The scores [n, K] of a finished trial, in the order of `read_examples`; nan for tasks that it does not rank."""
    with np.load(file.with_suffix(_ARRAYS)) as arrays:
        scores: npt.NDArray[np.float32] = arrays["scores"]
    return scores
