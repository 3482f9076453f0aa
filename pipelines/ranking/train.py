"""Trains a ranker and, in the same order with the same budget, Base, the ranker without sources, by Ray Train.

Reads examples, authors, users and what the sources read; publishes each ranker under the names of its sources.
Run: python -m pipelines train --config pipelines/configs/demo.yaml
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.ranking.checkpoint import published_files, read_progress
from pipelines.ranking.fit import train
from pipelines.ranking.plan import TrainConfig, TrainingPlan, make_plan
from pipelines.ranking.worker import Worker
from pipelines.runtime.cluster import connected
from pipelines.runtime.ray_train import Training, fit
from pipelines.runtime.run import Run
from pipelines.runtime.shared import require_shared
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage, shared_root

log = logging.getLogger(__name__)


def run(config: TrainConfig, run: Run) -> dict[str, Any]:
    """Trains every ranker whose published artifact is not current, and publishes it."""
    storage = run.storage
    artifacts = Artifacts(storage)
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
        places = {"storage.root": run.storage.url, "train.checkpoints": _checkpoints(config, run)}
        require_shared(places, config.scaling)
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
    given = {
        "plan": plan,
        "root": shared_root(run.storage.url),
        "threads": config.scaling.cpus_per_worker,
        "made_from": dict(made_from),
        "asked_at": time.time(),
    }
    training = Training(
        name=f"{plan.name}-{run_id}",
        storage_path=_checkpoints(config, run),
        scaling=config.scaling,
        max_failures=config.max_failures,
    )
    result, failures = fit(_worker, given, training, log)
    if result.checkpoint is None:
        raise RuntimeError(f"training {plan.name} left no checkpoint below {training.storage_path}")
    with result.checkpoint.as_directory() as folder:
        published = publish_checkpoint(Path(folder), plan, run_id, artifacts, made_from)
    return published | {"failures": failures, "start_seconds": round(result.metrics["start_s"], 1)}


def _checkpoints(config: TrainConfig, run: Run) -> str:
    return shared_root(config.checkpoints or str(run.folder / "ray"))


def publish_checkpoint(
    checkpoint: Path, plan: TrainingPlan, run_id: str, artifacts: Artifacts, made_from: Mapping[str, str]
) -> dict[str, Any]:
    """Publishes what makes up the ranker of a checkpoint; its optimizer and banks stay behind."""
    progress = read_progress(checkpoint)
    if plan.next_key(progress) is not None:
        raise RuntimeError(f"the checkpoint of {run_id} ends after {progress.done}, before {plan.next_key(progress)}")
    with tempfile.TemporaryDirectory() as folder:
        for file in published_files(checkpoint):
            shutil.copy(file, folder)
        artifacts.publish(plan.name, Path(folder), run_id, made_from)
    return {
        "days": list(plan.days),
        "epochs": (progress.epochs_end or 0) // len(plan.keys),
        "scores": progress.scores,
        "steps": progress.step,
        "examples": progress.examples,
        "encoded_authors": progress.encoded,
        "loop_seconds": round(progress.seconds, 1),
        "waited_seconds": round(progress.waited_s, 1),
        "examples_per_s": round(progress.examples / progress.seconds, 1),
        "main_loss": progress.curve[-1]["main_loss"],
        "curve": progress.curve,
    }


def _worker(config: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    import ray.train
    import torch
    from ray.train import Checkpoint
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    storage = Storage.open(config["root"])
    worker = Worker(rank=context.get_world_rank(), world_size=context.get_world_size(), device=get_device())
    start_s = time.time() - config["asked_at"]
    if worker.rank == 0:
        config["lines"].put(f"{config['plan'].name} | {worker.world_size} worker(s) ready after {start_s:.1f} s")

    def report(metrics: Mapping[str, Any], folder: Path | None) -> None:
        checkpoint = None if folder is None else Checkpoint.from_directory(str(folder))
        ray.train.report({**metrics, "start_s": start_s}, checkpoint=checkpoint)
        if folder is not None:  # Ray Train has its own copy by now
            shutil.rmtree(folder)

    with tempfile.TemporaryDirectory() as work, _resume() as resume:
        train(
            config["plan"],
            storage,
            config["made_from"],
            work=Path(work),
            worker=worker,
            report=report,
            log_line=config["lines"].put if worker.rank == 0 else _silent,
            resume=resume,
        )


@contextmanager
def _resume() -> Iterator[Path | None]:
    """The folder of the checkpoint to go on from, None at the start of a run."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
    else:
        with checkpoint.as_directory() as folder:
            yield Path(folder)


def _silent(line: str) -> None:
    """Other workers than the first say nothing."""
