"""The start command's deployments on a free port of this machine, and what their processes take."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from models.ranker import RankerConfig
from models.sarm.model import SARMConfig
from pipelines.runtime.cluster import ClusterConfig
from pipelines.serving.serve import ServeConfig, serving
from pipelines.settings import Settings
from pipelines.tables.storage import StorageConfig
from tests.serve.conftest import NOW_MS, Published

AUTHORS, USERS, HISTORY = 20_000, 2_000, 50


def store(folder: Path, kind: type[Published] = Published) -> Published:
    """A published bank at the default sizes of the model."""
    made = kind(
        folder,
        config=SARMConfig(),
        ranker=RankerConfig(),
        author_ids=np.arange(AUTHORS) * 3 + 1,
        user_ids=np.arange(USERS),
        length=HISTORY,
    )
    made.publish("bench")
    return made


def request_of(published: Published, candidates: int, seed: int) -> dict[str, Any]:
    """Candidates at random, for a user whose published history is nearly full."""
    rng = np.random.default_rng(seed)
    user = int(rng.integers(0, USERS // (HISTORY + 1))) * (HISTORY + 1)
    chosen = rng.choice(published.author_ids, candidates, replace=False)
    return {"user_id": user, "candidates": chosen.tolist(), "context": {"ts_ms": NOW_MS}}


def bodies_of(published: Published, candidates: int = 100) -> tuple[str, ...]:
    """Different requests."""
    return tuple(json.dumps(request_of(published, candidates, seed)) for seed in range(64))


def free_port() -> int:
    """Of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def served(root: Path, **config: Any) -> Iterator[int]:
    """The deployments over a root, as their port."""
    settings = Settings(
        storage=StorageConfig(root=str(root)),
        cluster=ClusterConfig(num_cpus=4, object_store_gb=0.25),
        serve=ServeConfig(**{"port": free_port()} | config),
    )
    with serving(settings.serve, settings.open()):
        yield settings.serve.port


PARTS = {
    "ranker": "ServeReplica:ranking:UserSequence",
    "cache": "ServeReplica:ranking:AuthorCache",
    "controller": "ServeController",
    "proxy": "HAProxyManager",
    "fallback": "ProxyActor",
    "haproxy": "/haproxy.cfg",
}
"""What each process is called -> a part of its command line."""


def process_of(part: str) -> psutil.Process | None:
    """The youngest process of this one's that is this part; None where there is none."""
    found = [each for each in psutil.Process().children(recursive=True) if PARTS[part] in _command(each)]
    return max(found, key=lambda each: each.create_time(), default=None)


def cpu_s(leave_out: Collection[int] = ()) -> float:
    """Seconds of CPU that all processes below this one have taken, but for those left out and all below them."""
    left = set(leave_out)
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if process.pid in left or process.ppid() in left:
                left.add(process.pid)
            else:
                times = process.cpu_times()
                spent += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return spent


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
