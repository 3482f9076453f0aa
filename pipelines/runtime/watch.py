"""Where the figures of a training go beside its log: event files of TensorBoard, MLflow, gauges of Ray.

The driver writes them, as the first worker tells them: it has one disk, whatever the nodes share. Training never
depends on that: where one of them takes no more, the log says so once, and training goes on.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pipelines.runtime.cluster import is_connected
from pipelines.runtime.config import ConfigError
from pipelines.runtime.verdict import JobError

log = logging.getLogger(__name__)
Watch = Callable[[int, Mapping[str, float]], None]
"""Told what a run shows, as it comes: a step, and figures by name, such as loss/click.

Without figures it is told that an attempt begins after this step: what was told of later steps counts no more."""
FOLDER = "tensorboard"
"""Below run_dir."""
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Of MLflow's client, which would try for minutes, while the log stands still."""


def unwatched(step: int, figures: Mapping[str, float]) -> None:
    """A Watch that keeps nothing."""


class NotWatchedError(JobError):
    """What is to take the figures of a training does not answer at its start."""

    retry = True


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchConfig:
    """Where the figures of a training go, beside its log and the gauges of Ray."""

    tensorboard: bool = True
    """Event files below `tensorboard` in run_dir, a folder for each run."""
    mlflow: str | None = None
    """Tracking URI of MLflow, such as http://host:5000 or sqlite:///mlflow.db; null = none. Needs the extra mlflow."""
    experiment: str = "live-anchors"
    """Of MLflow; made where it is missing."""


def require(config: WatchConfig) -> None:
    """Raises ConfigError where MLflow is asked for and is not installed."""
    if config.mlflow is not None and find_spec("mlflow") is None:
        raise ConfigError(
            f"train.watch.mlflow {config.mlflow}: wanted the package mlflow, got none; install the extra mlflow, or "
            "set it to null"
        )


@contextmanager
def watched(config: WatchConfig, folder: Path, run: str, ranker: str, choices: Mapping[str, Any]) -> Iterator[Watch]:
    """What is told the figures of a run, and writes them for as long as it goes on.

    A run of the same name goes on where an earlier one in `folder`, or at MLflow, has ended. `choices` are what the run
    was told, which MLflow shows beside it. Gauges are set where Ray is connected. Raises NotWatchedError where MLflow
    does not answer.
    """
    watcher = _Watcher([_Gauges(ranker)] if is_connected() else [])
    if config.mlflow is not None:
        watcher.takers.append(_MLflow(config.mlflow, config.experiment, run, choices))
    if config.tensorboard:
        watcher.takers.append(_EventFile(folder / FOLDER / run))
    is_done = False
    try:
        yield watcher
        is_done = True
    finally:
        watcher.close(is_done)


class _Taker(Protocol):
    """One place that figures go to."""

    name: str

    def go_on(self, step: int) -> None:
        """What was told of later steps than this counts no more."""

    def take(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step."""

    def close(self, is_done: bool) -> None:
        """No more will come: the run has come to its end, or has failed."""


class _Watcher:
    """Tells all takers; who fails once is told no more."""

    def __init__(self, takers: list[_Taker]) -> None:
        self.takers = takers

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        for taker in list(self.takers):
            try:
                if figures:
                    taker.take(step, {name: float(value) for name, value in figures.items()})
                else:
                    taker.go_on(step)
            except Exception as error:  # of whatever library it is: training goes on
                self.takers.remove(taker)
                log.warning("figures go to %s no more, and training goes on without: %s", taker.name, error)
                with suppress(Exception):
                    taker.close(is_done=False)

    def close(self, is_done: bool) -> None:
        """Ends what is left."""
        for taker in self.takers:
            try:
                taker.close(is_done)
            except Exception as error:
                log.warning("the last figures did not reach %s: %s", taker.name, error)


class _EventFile:
    """A file for TensorBoard, which takes the files of a folder, in the order of their names, for one run."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.record_writer import RecordWriter

        self.name = f"TensorBoard in {folder}"
        folder.mkdir(parents=True, exist_ok=True)
        # Not a SummaryWriter: its thread ends unheard on a full disk, and then keeps waiting who has more to write.
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._write(file_version="brain.Event:2")

    def go_on(self, step: int) -> None:
        from tensorboardX.proto.event_pb2 import SessionLog

        # A reader drops what it has read of this step and later ones.
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def take(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(step=step, summary=Summary(value=values))

    def _write(self, **event: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
        self._records.flush()

    def close(self, is_done: bool) -> None:
        self._records.close()


class _MLflow:
    """A run of MLflow, found again by its name."""

    def __init__(self, uri: str, experiment: str, run: str, choices: Mapping[str, Any]) -> None:
        os.environ.update({name: os.environ.get(name, value) for name, value in _PATIENCE.items()})
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        self.name = f"MLflow at {uri}"
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._id = self._found(experiment, run)
            params = [Param(name, str(value)) for name, value in choices.items()]
            self._client.log_batch(self._id, params=params)
            before = self._client.get_run(self._id).data.metrics
            histories = {name: self._client.get_metric_history(self._id, name) for name in before}
        except MlflowException as error:
            raise NotWatchedError(
                f"train.watch.mlflow {uri}: wanted MLflow to answer, got: {error}; start it, or set it to null"
            ) from error
        self._newest = {name: max(metric.step for metric in history) for name, history in histories.items()}

    def _found(self, experiment: str, run: str) -> str:
        known = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if known is None else known.experiment_id
        runs = self._client.search_runs([number], f"attributes.run_name = '{run}'", max_results=1)
        found = runs[0] if runs else self._client.create_run(number, run_name=run)
        self._client.update_run(found.info.run_id, status="RUNNING")
        return str(found.info.run_id)

    def go_on(self, step: int) -> None:
        """MLflow forgets nothing. A step that is done again shows the same, so what it was told first stays."""

    def take(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        new = {name: value for name, value in figures.items() if step > self._newest.get(name, -1)}
        self._client.log_batch(self._id, metrics=[Metric(name, value, now_ms, step) for name, value in new.items()])
        self._newest |= dict.fromkeys(new, step)

    def close(self, is_done: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if is_done else "FAILED")


class _Gauges:
    """Gauges of Ray, which each node exports for Prometheus: ray_ranker_loss_click for loss/click."""

    name = "the gauges of Ray"

    def __init__(self, ranker: str) -> None:
        self._tags = {"ranker": ranker}
        self._gauges: dict[str, Any] = {}

    def go_on(self, step: int) -> None:
        """A gauge has no past."""

    def take(self, step: int, figures: Mapping[str, float]) -> None:
        from ray.util.metrics import Gauge

        for name, value in {"step": float(step), **figures}.items():
            if name not in self._gauges:
                word = re.sub(r"\W", "_", f"ranker_{name}")
                self._gauges[name] = Gauge(word, description=f"{name} of a training", tag_keys=tuple(self._tags))
            self._gauges[name].set(value, tags=self._tags)

    def close(self, is_done: bool) -> None:
        """They go with the driver."""
