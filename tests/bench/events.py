"""How soon an event counts in the next answer: over HTTP, with two replicas that share an embedded store.

Each turn tells of a new user's click by POST /events and, once that is acknowledged, asks POST /rank without a history.
The answer is compared with that of a ranker in this process which is given the click. Prints a table; the last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from models import TASKS
from pipelines.runtime.cluster import ClusterConfig
from pipelines.serving.serve import ServeConfig, serving
from pipelines.settings import Settings
from pipelines.tables.storage import StorageConfig
from serve.schema import RankRequest
from serve.user_sequence import UserSequence
from tests.serve.conftest import AUTHOR_IDS, Published, watcher_of

FIRST_USER = 1_000_000
CANDIDATES = AUTHOR_IDS[:20].tolist()


def turn(client: httpx.Client, user: int, offline: UserSequence) -> tuple[float, bool, float]:
    """Seconds from sending the events to the answer, whether they counted, and the largest difference of a score."""
    ts_ms, author = time.time_ns() // 1_000_000, int(AUTHOR_IDS[user % len(AUTHOR_IDS)])
    event = {"user_id": user, "author_id": author, "live_id": user, "ts_ms": ts_ms - 5_000}
    events = [event | {"event_id": f"{user} {kind}", "kind": kind} for kind in ("exposure", "click")]
    asked: dict[str, Any] = {"user_id": user, "candidates": CANDIDATES, "context": {"ts_ms": ts_ms}}
    started = time.perf_counter()
    told = client.post("/events", json={"events": events}).raise_for_status().json()
    answer = client.post("/rank", json=asked).raise_for_status().json()
    took = time.perf_counter() - started
    click = {"author_id": author, "ts_ms": ts_ms - 5_000, "watch_time_s": 1e6}
    wanted = offline.rank(RankRequest.model_validate(asked | {"history": [click]}))
    by_author = {row.author_id: row for row in wanted.candidates}
    differences = [
        abs(row[task] - getattr(by_author[row["author_id"]], task)) for row in answer["candidates"] for task in TASKS
    ]
    return took, told["accepted"] == 2 and answer["history_used"] == 1, max(differences)


def main(argv: list[str]) -> int:
    """Runs the bench."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench events", description=__doc__)
    parser.add_argument("--turns", type=int, default=500)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        published = Published(Path(folder) / "root")
        published.publish("a")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        store = {"backend": "embedded", "path": f"{folder}/online", "map_gib": 1}
        settings = Settings(
            storage=StorageConfig(root=str(published.root)),
            cluster=ClusterConfig(object_store_gb=0.3),
            serve=ServeConfig(port=port, app={"num_cpus": 0.5, "replicas": 2, "store": store}),
        )
        offline = UserSequence(watcher_of(published.root))
        with serving(settings.serve, settings.open()) as url, httpx.Client(base_url=url, timeout=60) as client:
            turns = [turn(client, FIRST_USER + number, offline) for number in range(args.turns)]
    took, counted, differences = zip(*turns, strict=True)
    figures = {
        "turns": args.turns,
        "counted": sum(counted),
        "event_to_answer_p50_ms": round(1e3 * float(np.percentile(took, 50)), 1),
        "event_to_answer_p99_ms": round(1e3 * float(np.percentile(took, 99)), 1),
        "event_to_answer_max_ms": round(1e3 * max(took), 1),
        "largest_difference": float(f"{max(differences):.1e}"),
    }
    for name, figure in figures.items():
        print(f"{name:<28}{figure:>12}")
    print(json.dumps({"bench": "events", **figures}))
    return int(figures["counted"] < args.turns or figures["largest_difference"] > 1e-5)
