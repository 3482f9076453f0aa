"""One run of Ray Train: its workers, their lines of progress, and what happens when some of them are lost.

Whatever ends an attempt - a worker, its node, Ray Train's own controller - is one failure. The next attempt is a new
start of the same run, on the nodes that are left, and Ray Train hands it the run's last checkpoint.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.runtime.progress import progress_lines
from pipelines.runtime.run_folder import tidy
from pipelines.runtime.scaling import TrainScaling
from pipelines.runtime.watch import Watch, unwatched

if TYPE_CHECKING:
    from ray.train import Result

_SETTINGS = {
    # A worker that hangs is noticed after this long; the default is ten minutes.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What is fitted, by Ray Train's own names."""

    name: str
    """Of the run: with `storage_path` it says which checkpoints are this run's."""
    storage_path: str
    """Folder or URL of its checkpoints, which every node sees."""
    scaling: TrainScaling
    """Its workers."""
    max_failures: int
    """Failures after which it begins again; one more ends it."""


def fit(
    worker: Callable[[dict[str, Any]], None],
    config: Mapping[str, Any],
    training: Training,
    log: logging.Logger,
    watch: Watch = unwatched,
) -> tuple["Result", int]:
    """The result of the attempt that came to its end, and the failures before it.

    Each worker gets `config`, and in its `lines` the `Lines` that land in `log`, and tell `watch` figures. Needs a
    connected Ray. Raises the last attempt's error where there were more failures than allowed.
    """
    from ray.exceptions import RayActorError
    from ray.train import TrainingFailedError

    os.environ.update({name: os.environ.get(name, value) for name, value in _SETTINGS.items()})
    failures = 0
    with progress_lines(log, watch) as lines:
        while True:
            tidy(training.storage_path, training.name)
            try:
                return _trainer(worker, {**config, "lines": lines}, training).fit(), failures
            except (TrainingFailedError, RayActorError) as error:  # the second where the controller itself died
                failures += 1
                if failures > training.max_failures:
                    with suppress(OSError):  # what failed before says more
                        tidy(training.storage_path, training.name)
                    raise
                log.warning(
                    "%s | failure %d of at most %d: %s; goes on from its last checkpoint, or begins again",
                    training.name, failures, training.max_failures, _reason(error),
                )  # fmt: skip


def _trainer(worker: Callable[[dict[str, Any]], None], config: dict[str, Any], training: Training) -> Any:
    from ray._private.worker import get_dashboard_url
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):
        """Without the cleaner of placement groups where Ray has no dashboard, which it asks whether the controller
        lives. It cleans nothing then, but waits for an answer, and each run ended 12 s later."""

        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()
            if get_dashboard_url():
                return callbacks
            return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    scaling = training.scaling
    gpu = {"GPU": 1} if scaling.use_gpu else {}
    return Trainer(
        worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers,
            use_gpu=scaling.use_gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker} | gpu,
        ),
        run_config=RunConfig(
            name=training.name,
            storage_path=training.storage_path,
            # Counted above: Ray Train's controller, which would count, can be lost too, and gives up at once
            # where a node is lost while workers start.
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )


def _reason(error: Exception) -> str:
    """What happened, in a few words of an error that is pages long."""
    text = str(error)
    if death := re.search(r"The actor is dead because [^.]*", text):
        return death[0].replace("The actor is dead", "a worker is gone")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else 'no more is known'}"
