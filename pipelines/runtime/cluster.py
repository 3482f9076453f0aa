"""How a job reaches Ray: the cluster it was submitted to, or a private local one that ends with the job."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.runtime import worker_logs
from pipelines.runtime.config import ConfigError
from pipelines.runtime.places import is_submitted
from pipelines.runtime.verdict import judged

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
_LONGEST_SOCKET = 107
"""Bytes that a path of AF_UNIX may have."""
_SOCKET_OF_A_SESSION = "/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
_NOT_SHIPPED = ("/.ci", "/runs", "/tests", "/docs")
"""Of the checkout, what no worker needs, beside what .gitignore names. "/.*" would leave out the checkout itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Where Ray runs."""

    address: str | None = None
    """Address of a running cluster; None = RAY_ADDRESS where set (as in a submitted job), else a local one."""
    num_cpus: int = 8
    """Logical CPUs of a local cluster: how much may run at once there, whatever the machine has."""
    object_store_gb: float = 1.0
    """Object store of a local cluster, GiB."""
    job_cpus: int = 1
    """CPUs that a job reserves which runs as one task on a shared cluster, and its compute threads."""
    job_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the nodes on which such jobs may run; none = any node."""


def is_shared(config: ClusterConfig) -> bool:
    """True where jobs join a running cluster: by its address, by RAY_ADDRESS, or as a submitted job."""
    return bool(config.address or os.environ.get("RAY_ADDRESS"))


def is_connected() -> bool:
    """Whether this process is connected to Ray; imports none, see `set_environment`."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def set_environment() -> None:
    """What Ray reads once, when a process first imports it: to be called before that."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Else what runs on after a job's Ray has gone, such as a thread that waits for a line, starts a second one.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """Ray for the duration of a job. Token authentication is on unless RAY_AUTH_MODE says otherwise.

    A job that fails logs what its workers wrote last. Raises ConfigError where a local Ray cannot be started.
    """
    set_environment()
    import ray

    if ray.is_initialized():
        yield
        return
    arguments = _arguments(config)
    with worker_logs.kept():
        ray.init(**arguments, log_to_driver=True)
        worker_logs.quiet()
        try:
            yield
        except Exception as error:
            if not judged(error).explained and (said := worker_logs.last_words()):
                log.error("%s", said)
            raise
        finally:
            ray.shutdown()


def actor_beside(kind: type) -> Any:
    """An actor of a class, on the node of this process and without CPUs of its own: another node that is lost takes
    nothing with it. It is started again where it dies, and calls are made again."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(kind).remote()


def _arguments(config: ClusterConfig) -> dict[str, Any]:
    """What `ray.init` is told."""
    if is_shared(config):
        address = config.address or os.environ["RAY_ADDRESS"]
        return {"address": address, "runtime_env": None if is_submitted() else shipped_code(ROOT)}
    _check_sockets(Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"))
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in inherited:  # workers import this project wherever the job was started from
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, inherited)])
    return {
        "address": "local",
        "num_cpus": config.num_cpus,
        "object_store_memory": int(config.object_store_gb * 2**30),
        "include_dashboard": False,
    }


def shipped_code(root: Path) -> dict[str, Any] | None:
    """The runtime environment with which workers elsewhere run this checkout; None where `root` is an installation,
    which the nodes have, too."""
    if not (root / "pyproject.toml").is_file():
        return None
    return {"working_dir": str(root), "excludes": list(_NOT_SHIPPED)}


def _check_sockets(temporary: Path) -> None:
    """Ray names its sockets by their whole path, of which the kernel takes few bytes."""
    longest = _LONGEST_SOCKET - len(_SOCKET_OF_A_SESSION)
    if len(os.fsencode(temporary)) > longest:
        raise ConfigError(
            f"RAY_TMPDIR {temporary}: wanted a folder of at most {longest} bytes, as Ray's sockets lie below it, got "
            f"{len(os.fsencode(temporary))}; export RAY_TMPDIR=/tmp"
        )
    if temporary.exists() and not (temporary.is_dir() and os.access(temporary, os.W_OK | os.X_OK)):
        raise ConfigError(f"RAY_TMPDIR {temporary}: wanted a folder that this user can write; export RAY_TMPDIR=/tmp")
