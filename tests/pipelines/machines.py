"""A Ray cluster of several nodes on this machine, jobs that join it, and the killing of what belongs to it."""

import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any
from unittest import mock

import psutil

from pipelines.runtime import config
from pipelines.runtime.cluster import ROOT
from pipelines.settings import Settings

MARK = "TEST_CLUSTER"
"""Every process of a cluster, and of a job in it, inherits this variable, and so is told from those of others."""
TRAIN_WORKER, TRAIN_CONTROLLER, PROGRESS = "ray::RayTrainWorker", "ray::TrainController", "ray::_Mailbox"
_SIZE: dict[str, Any] = {"object_store_memory": 80 * 2**20}


class Machines:
    """A head without CPUs, on which jobs run, and worker nodes of two CPUs each."""

    def __init__(self, num_workers: int, environment: Mapping[str, str] | None = None) -> None:
        from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
        from ray.cluster_utils import Cluster

        self._mark = uuid.uuid4().hex
        # Ray read the mode in this process when it was first imported, so that is what the nodes get.
        mode = os.environ.get("RAY_AUTH_MODE", "disabled")
        self.environment = {MARK: self._mark, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": mode} | dict(environment or {})
        ensure_token_if_auth_enabled(create_token_if_missing=True)
        with mock.patch.dict(os.environ, self.environment):
            self._cluster = Cluster(
                initialize_head=True, head_node_args=_SIZE | {"num_cpus": 0, "include_dashboard": False}
            )
        for _ in range(num_workers):
            self.add_worker()

    def add_worker(self) -> None:
        """One more worker node."""
        with mock.patch.dict(os.environ, self.environment):
            self._cluster.add_node(num_cpus=2, **_SIZE)

    def start(self, job: str, settings: Settings, **options: Any) -> "Popen[str]":
        """The job in a process of its own; its log is the process's `stderr`."""
        file = Path(settings.run_dir) / "job.yaml"
        config.dump(settings, file)
        there = os.environ | self.environment | {"RAY_ADDRESS": self._cluster.address}
        command = [sys.executable, "-m", "pipelines", job, "--config", str(file)]
        return Popen(command, text=True, env=there, **{"stdout": DEVNULL, "stderr": PIPE} | options)

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Living processes of the cluster and its jobs with these words in their command line, but for this one."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and is_titled(p, title) and self._is_ours(p)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self._mark
        except psutil.Error:  # ended, or another user's
            return False

    def raylet_of(self, process: psutil.Process) -> psutil.Process:
        """The raylet of the node that a process runs on."""
        return next(parent for parent in process.parents() if parent.name().startswith("raylet"))

    def close(self) -> None:
        """Ends all nodes."""
        self._cluster.shutdown()


@contextmanager
def machines(num_workers: int, environment: Mapping[str, str] | None = None) -> Iterator[Machines]:
    """Machines for as long as they are needed; `environment` is added to that of all their processes."""
    cluster = Machines(num_workers, environment)
    try:
        yield cluster
    finally:
        cluster.close()


def is_titled(process: psutil.Process, title: str) -> bool:
    """True for a living process with these words in its command line, where Ray says what it is."""
    try:
        return title in " ".join(process.cmdline())
    except psutil.Error:
        return False


def kill(*processes: psutil.Process) -> None:
    """SIGKILL, at once, for those that still live; returns when they are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=20)  # also reaps: a raylet that is a zombie seems alive to its workers
