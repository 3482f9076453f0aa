"""Refuses a folder that only some nodes of a cluster see: what one node writes there, another must read.

A mount that all nodes share looks like any other folder, so each node is asked: this process writes a file of its own
into the folder, and a small task on every node looks for it.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.runtime.config import ConfigError
from pipelines.runtime.scaling import TrainScaling

log = logging.getLogger(__name__)
_LOCAL = "file://"
_PATIENCE_S = 5.0
"""A network file system may show a new file this much later on another node."""
_ANSWER_S = 60.0


def require_shared(places: Mapping[str, str], scaling: TrainScaling) -> None:
    """Raises ConfigError for the first place that a node which can hold a worker does not see.

    Args: `places` are folders, files or URLs, by the key that gives each. A URL of an object store is seen by all; a
    folder is made where it is missing. Needs a connected Ray; on one node there is nothing to ask.
    """
    nodes = _nodes(scaling)
    for key, place in places.items():
        if nodes and (place.startswith(_LOCAL) or "://" not in place):
            path = Path(place.removeprefix(_LOCAL))
            with _something_in(path) as file:
                _require_seen(key, path, file, nodes)


def _nodes(scaling: TrainScaling) -> list[Mapping[str, Any]]:
    """Nodes other than this one that can hold a worker."""
    import ray

    wanted = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1} if scaling.use_gpu else {})
    here = ray.get_runtime_context().get_node_id()
    return [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here
        if all(node["Resources"].get(name, 0) >= amount for name, amount in wanted.items())
    ]


@contextmanager
def _something_in(path: Path) -> Iterator[Path]:
    """The file itself, or a new one for as long as nodes look for it."""
    if path.is_file():
        yield path
        return
    path.mkdir(parents=True, exist_ok=True)
    token = path / f".seen-by-all-{uuid.uuid4().hex}"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def _require_seen(key: str, path: Path, file: Path, nodes: list[Mapping[str, Any]]) -> None:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(_sees)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[look.options(scheduling_strategy=there).remote(str(file))] = node["NodeManagerAddress"]
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_S)
    for answer in answered:
        try:
            sees = ray.get(answer)
        except RayError:  # the node was lost meanwhile
            silent.append(answer)
            continue
        if not sees:
            raise ConfigError(
                f"{key} {path}: wanted storage that every node sees, got what node {asked[answer]} does not see; "
                f"give a mount that all {len(nodes) + 1} nodes share, or a URL where the key takes one"
            )
    for answer in silent:
        log.warning("%s %s: node %s did not say whether it sees it", key, path, asked[answer])


def _sees(path: str) -> bool:
    """Runs on a node."""
    until = time.monotonic() + _PATIENCE_S
    while not os.path.exists(path):
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
