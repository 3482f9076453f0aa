"""A loop of training as one run of Ray Train: its workers, and the checkpoint that it ends with."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.ranking.plan import TrainConfig, TrainingPlan
from pipelines.ranking.worker import Worker
from pipelines.runtime.ray_train import Training, fit
from pipelines.runtime.run import Run
from pipelines.tables.storage import Storage, shared_root

log = logging.getLogger(__name__)


def places(config: TrainConfig, run: Run) -> dict[str, str]:
    """What all nodes must see, by key."""
    return {"storage.root": run.storage.url, "train.checkpoints": _checkpoints(config, run)}


@contextmanager
def fitted(
    loop: Callable[..., Any],
    config: TrainConfig,
    run: Run,
    plan: TrainingPlan,
    name: str,
    made_from: Mapping[str, str],
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs a loop with the arguments of `fit.train` in every worker: the last checkpoint, and how the run went.

    `name` says which checkpoints are this run's. Needs a connected Ray.
    """
    given = {
        "loop": loop,
        "plan": plan,
        "root": shared_root(run.storage.url),
        "threads": config.scaling.cpus_per_worker,
        "made_from": dict(made_from),
        "asked_at": time.time(),
    }
    training = Training(
        name=name, storage_path=_checkpoints(config, run), scaling=config.scaling, max_failures=config.max_failures
    )
    result, failures = fit(_worker, given, training, log)
    if result.checkpoint is None:
        raise RuntimeError(f"training {plan.name} left no checkpoint below {training.storage_path}")
    with result.checkpoint.as_directory() as folder:
        yield Path(folder), {"failures": failures, "start_seconds": round(result.metrics["start_s"], 1)}


def _checkpoints(config: TrainConfig, run: Run) -> str:
    return shared_root(config.checkpoints or str(run.folder / "ray"))


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

    with tempfile.TemporaryDirectory() as work, _resume() as resume:
        config["loop"](
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
