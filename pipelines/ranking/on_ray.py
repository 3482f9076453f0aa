"""A loop of training as one run of Ray Train: its workers, and the checkpoint that it ends with."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from models.artifacts.manifest import ArtifactError, Manifest
from models.artifacts.roots import open_root
from pipelines.ranking.worker import Worker, joined
from pipelines.runtime.config import to_dict
from pipelines.runtime.freed_memory import keep_freed_memory
from pipelines.runtime.ray_train import Training, fit
from pipelines.runtime.run import Run
from pipelines.runtime.scaling import TrainScaling
from pipelines.runtime.watch import WatchConfig, unwatched, watched
from pipelines.tables.storage import Storage, shared_root

log = logging.getLogger(__name__)


class Config(Protocol):
    """What a job's section says of its workers."""

    @property
    def scaling(self) -> TrainScaling: ...
    @property
    def max_failures(self) -> int: ...
    @property
    def checkpoints(self) -> str | None: ...
    @property
    def watch(self) -> WatchConfig: ...


class Plan(Protocol):
    """What is learnt; it is also what the loop is told."""

    @property
    def seed(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def days(self) -> tuple[str, ...]: ...


def places(config: Config, run: Run, section: str = "train") -> dict[str, str]:
    """What all nodes must see, by key."""
    return {"storage.root": run.storage.url, f"{section}.checkpoints": _checkpoints(config, run)}


@contextmanager
def fitted(
    loop: Callable[..., Any],
    config: Config,
    run: Run,
    plan: Plan,
    name: str,
    made_from: Mapping[str, str],
    *,
    shards_ids: bool = False,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Runs a loop with the arguments of `fit.train` in every worker: the last checkpoint, and how the run went.

    `name` says which checkpoints are this run's, and which figures (see watch.py). Needs a connected Ray. With
    `shards_ids` each worker has a share of big id tables.
    """
    given = {
        "loop": loop,
        "plan": plan,
        "root": shared_root(run.storage.url),
        "threads": config.scaling.cpus_per_worker,
        "shards_ids": shards_ids,
        "made_from": dict(made_from),
        "asked_at": time.time(),
    }
    training = Training(
        name=name, storage_path=_checkpoints(config, run), scaling=config.scaling, max_failures=config.max_failures
    )
    choices = {"seed": plan.seed, "days": f"{plan.days[0]} to {plan.days[-1]}", "workers": config.scaling.num_workers}
    choices |= {key: value for key, value in to_dict(plan).items() if isinstance(value, int | float)}
    with watched(config.watch, run.folder, name, plan.name, choices) as watch:
        result, failures = fit(_worker, given, training, log, watch)
    if result.checkpoint is None:
        raise RuntimeError(f"training {plan.name} left no checkpoint below {training.storage_path}")
    with result.checkpoint.as_directory() as folder:
        yield Path(folder), {"failures": failures, "start_seconds": round(result.metrics.get("start_s", 0.0), 1)}


def forget(config: Config, run: Run, name: str) -> None:
    """Removes the checkpoints of a run that has come to its end and was published."""
    filesystem, path, _ = open_root(_checkpoints(config, run), "train.checkpoints")
    filesystem.delete_dir(f"{path}/{name}")


def _checkpoints(config: Config, run: Run) -> str:
    return shared_root(config.checkpoints or str(run.folder / "ray"))


def _worker(config: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    import ray.train
    import torch
    from ray.train import Checkpoint, CheckpointUploadMode
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    keep_freed_memory()
    context = ray.train.get_context()
    storage = Storage.open(config["root"])
    worker = Worker(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=get_device(),
        shards_ids=config["shards_ids"],
    )
    start_s = time.time() - config["asked_at"]
    lines, is_first, name = config["lines"], worker.rank == 0, config["plan"].name
    log_line = lines.put if is_first else _silent
    log_line(f"{name} | {worker.world_size} worker(s) ready after {start_s:.1f} s")

    def report(metrics: Mapping[str, Any], folder: Path | None) -> None:
        # Training goes on while a folder is uploaded, and waits for the last one, whose folder ends with this worker.
        ray.train.report(
            {**metrics, "start_s": start_s},
            checkpoint=None if folder is None else Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if metrics["is_last"] else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    with (
        joined(worker, lambda line: log_line(f"{name} | {line}")) as worker,
        tempfile.TemporaryDirectory() as work,
        _resume(log_line) as resume,
    ):
        config["loop"](
            config["plan"],
            storage,
            config["made_from"],
            work=Path(work),
            worker=worker,
            report=report,
            log_line=log_line,
            watch=lines.watch if is_first else unwatched,
            resume=resume,
        )


@contextmanager
def _resume(log_line: Callable[[str], None]) -> Iterator[Path | None]:
    """The folder of the newest checkpoint that is whole, None at the start of a run."""
    import ray.train

    newest = ray.train.get_checkpoint()
    kept = [reported.checkpoint for reported in ray.train.get_all_reported_checkpoints()] if newest else []
    with ExitStack() as stack:
        for checkpoint in [newest, *(other for other in reversed(kept) if other != newest)] if newest else []:
            folder = Path(stack.enter_context(checkpoint.as_directory()))
            try:
                Manifest.verify(folder)
            except (ArtifactError, OSError) as error:
                log_line(f"warning: a checkpoint is damaged, and training goes on from the one before it: {error}")
            else:
                yield folder
                return
        yield None


def _silent(line: str) -> None:
    """Other workers than the first say nothing."""
