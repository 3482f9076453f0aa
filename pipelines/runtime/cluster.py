"""How a job reaches Ray: the cluster it was submitted to, or a private local one that ends with the job."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Where Ray runs."""

    address: str | None = None
    """Address of a running cluster; None = RAY_ADDRESS where set (as in a submitted job), else a local one."""
    num_cpus: int = 8
    """Logical CPUs of a local cluster. Stages each want one, so fewer than 8 can deadlock a Ray Data pipeline."""
    object_store_gb: float = 1.0
    """Object store of a local cluster, GiB."""
    job_cpus: int = 1
    """CPUs that a job reserves which runs as one task on a shared cluster, and its compute threads."""
    job_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the nodes on which such jobs may run; none = any node."""


def is_shared(config: ClusterConfig) -> bool:
    """True where jobs join a running cluster: by its address, by RAY_ADDRESS, or as a submitted job."""
    return bool(config.address or os.environ.get("RAY_ADDRESS"))


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """Ray for the duration of a job. Token authentication is on unless RAY_AUTH_MODE says otherwise."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    if is_shared(config):
        ray.init(address=config.address or os.environ["RAY_ADDRESS"], log_to_driver=False)
    else:
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if str(ROOT) not in inherited:  # workers import this project wherever the job was started from
            os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, inherited)])
        ray.init(
            address="local",
            num_cpus=config.num_cpus,
            object_store_memory=int(config.object_store_gb * 2**30),
            include_dashboard=False,
            log_to_driver=False,
        )
    try:
        yield
    finally:
        ray.shutdown()
