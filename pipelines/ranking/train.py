"""Trains a ranker and, in the same order with the same budget, Base, the ranker without sources, by Ray Train.

Reads examples, authors, users and what the sources read; publishes each ranker under the names of its sources.
Run: python -m pipelines train --config pipelines/configs/demo.yaml
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.ranking.checkpoint import published_files, read_progress
from pipelines.ranking.fit import train
from pipelines.ranking.on_ray import fitted, places
from pipelines.ranking.plan import TrainConfig, TrainingPlan, make_plan
from pipelines.runtime.cluster import connected
from pipelines.runtime.run import Run
from pipelines.runtime.shared import require_shared
from pipelines.runtime.watch import require
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.fingerprint import digest

log = logging.getLogger(__name__)


def run(config: TrainConfig, run: Run) -> dict[str, Any]:
    """Trains every ranker whose published artifact is not current, and publishes it."""
    storage = run.storage
    artifacts = Artifacts(storage)
    require(config.watch)
    metrics: dict[str, Any] = {"rankers": {}}
    jobs = []
    for sources in config.rankers:
        plan, made_from = make_plan(config, run, artifacts, sources)
        run_id = f"{plan.days[-1]}-{digest(made_from)}"
        current = artifacts.current(plan.name)
        if current == run_id:
            log.info("%s %s is current", plan.name, run_id)
            metrics["rankers"][plan.name] = {"run_id": run_id, "how": "current"}
        else:
            jobs.append((plan, made_from, run_id))
    if not jobs:
        return metrics
    with connected(run.cluster):
        require_shared(places(config, run), config.scaling)
        for plan, made_from, run_id in jobs:
            started = time.perf_counter()
            with artifacts.lease(plan.name):
                trained = _fit(config, run, plan, run_id, artifacts, made_from)
            metrics["rankers"][plan.name] = {"run_id": run_id, "how": "trained", **trained}
            metrics["rankers"][plan.name]["seconds"] = round(time.perf_counter() - started, 1)
    return metrics


def _fit(
    config: TrainConfig, run: Run, plan: TrainingPlan, run_id: str, artifacts: Artifacts, made_from: Mapping[str, str]
) -> dict[str, Any]:
    """One run of Ray Train, and the publication of its last checkpoint."""
    with fitted(train, config, run, plan, f"{plan.name}-{run_id}", made_from, shards_ids=config.shards_ids) as (
        checkpoint,
        ended,
    ):
        return publish_checkpoint(checkpoint, plan, run_id, artifacts, made_from) | ended


def publish_ranker(
    checkpoint: Path, name: str, run_id: str, artifacts: Artifacts, made_from: Mapping[str, str]
) -> None:
    """Publishes the files of a checkpoint that make up a ranker."""
    with tempfile.TemporaryDirectory() as folder:
        for file in published_files(checkpoint):
            shutil.copy(file, folder)
        artifacts.publish(name, Path(folder), run_id, made_from)


def publish_checkpoint(
    checkpoint: Path, plan: TrainingPlan, run_id: str, artifacts: Artifacts, made_from: Mapping[str, str]
) -> dict[str, Any]:
    """Publishes what makes up the ranker of a checkpoint; its optimizer and banks stay behind."""
    progress = read_progress(checkpoint)
    if plan.next_key(progress) is not None:
        raise RuntimeError(f"the checkpoint of {run_id} ends after {progress.done}, before {plan.next_key(progress)}")
    publish_ranker(checkpoint, plan.name, run_id, artifacts, made_from)
    return {
        "days": list(plan.days),
        "epochs": (progress.epochs_end or 0) // len(plan.keys),
        "scores": progress.scores,
        "steps": progress.step,
        "examples": progress.examples,
        "encoded_authors": progress.encoded,
        "loop_seconds": round(progress.seconds, 1),
        "cpu_seconds": round(progress.cpu_seconds, 1),
        "waited_seconds": round(progress.waited_s, 1),
        "examples_per_s": round(progress.examples / progress.seconds, 1),
        "main_loss": progress.curve[-1]["main_loss"],
        "curve": progress.curve,
    }
