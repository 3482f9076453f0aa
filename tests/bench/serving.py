"""How fast ranking is: where the time of one request goes, and what the deployments hold over HTTP on one machine.

    python -m tests.bench.serving

Random weights at the default sizes; the load generator shares the machine with the server. Prints a table; the last
line is one JSON object.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.ranker import RankerConfig
from models.sarm.model import SARMConfig
from pipelines.runtime.cluster import ClusterConfig
from pipelines.serving.serve import ServeConfig, serving
from pipelines.settings import Settings
from pipelines.tables.storage import StorageConfig
from serve.args import fusion_weights
from serve.online import Online
from serve.schema import RankRequest
from serve.user_sequence import Asked, UserSequence, answered, request_batch, request_columns, request_rows
from tests.serve.conftest import NOW_MS, Published, watcher_of

AUTHORS, USERS, HISTORY = 20_000, 2_000, 50
SIZES = (100, 200)
CLIENTS = (1, 8)
SECONDS = 4.0
WARM_UP_S = 1.0
REPEATS = 100


def store(folder: Path) -> Published:
    """A published bank at the default sizes of the model."""
    made = Published(
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


def profile(published: Published, candidates: int) -> dict[str, float]:
    """Median milliseconds of CPU time of the parts of one request, in this process and on one thread."""
    watcher = watcher_of(published.root)
    snapshot, sequence = watcher.current, UserSequence(watcher)
    bank, scorer, weights = snapshot.bank, snapshot.scorer, fusion_weights({}, snapshot.tasks)
    body = json.dumps(request_of(published, candidates, seed=1)).encode()
    request = RankRequest.model_validate_json(body)
    (filled,) = Online().fill([request], snapshot.histories, NOW_MS)
    rule = snapshot.histories.rule
    columns = request_columns(filled, rule, NOW_MS)
    batch, which = request_batch(columns, bank.catalog)
    rows = batch.author.numpy()
    asked = Asked(filled, request_rows(snapshot, batch, bank.gather(rows)), which, bank.moment, False)
    probabilities, response = scorer.score([asked.rows])[0].numpy(), sequence.rank(request)
    parts: dict[str, Callable[[], Any]] = {
        "parse": lambda: RankRequest.model_validate_json(body),
        "history": lambda: Online().fill([request], snapshot.histories, NOW_MS),
        "collate": lambda: request_batch(request_columns(filled, rule, NOW_MS), bank.catalog),
        "gather": lambda: request_rows(snapshot, batch, bank.gather(rows)),
        "forward": lambda: scorer.score([asked.rows]),
        "answer": lambda: answered(snapshot, asked, probabilities, weights, NOW_MS),
        "serialise": lambda: response.model_dump_json(),
        "rank_whole": lambda: sequence.rank(request),
        "as_trained": lambda: snapshot.model.score(*asked.rows),
    }
    return {name: median_ms(part) for name, part in parts.items()}


def median_ms(part: Callable[[], Any]) -> float:
    """CPU time, because other work on the machine must not count; median of many, after a few to warm up."""
    taken = []
    for _ in range(REPEATS + 10):
        started = time.thread_time()
        part()
        taken.append(1e3 * (time.thread_time() - started))
    return round(statistics.median(taken[10:]), 3)


Seen = Callable[[int, float, int, bytes], None]
"""(which body, when its answer came by perf_counter, status, answer)"""


def load(
    port: int, bodies: Sequence[bytes], clients: int, seconds: float = SECONDS, seen: Seen = lambda *_: None
) -> dict[str, float]:
    """Closed loop: each client sends its next request when it has the answer to the last. Latencies in ms.

    `seen` gets every answer, in the threads of the clients, and must not take long.
    """
    latencies: list[list[float]] = [[] for _ in range(clients)]
    errors = [0] * clients
    start = time.perf_counter() + WARM_UP_S
    end = start + seconds

    def client(index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        turn = index
        while (sent := time.perf_counter()) < end:
            connection.request("POST", "/rank", bodies[turn % len(bodies)], {"content-type": "application/json"})
            answer = connection.getresponse()
            content, came = answer.read(), time.perf_counter()
            seen(turn % len(bodies), came, answer.status, content)
            turn += clients
            if sent >= start:
                latencies[index].append(1e3 * (came - sent))
                errors[index] += answer.status != 200
        connection.close()

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = np.sort(np.concatenate(latencies))
    return {
        "clients": clients,
        "requests": len(every),
        "errors": sum(errors),
        "qps": round(len(every) / seconds, 1),
        "p50_ms": round(float(np.percentile(every, 50)), 2),
        "p99_ms": round(float(np.percentile(every, 99)), 2),
    }


def over_http(published: Published) -> list[dict[str, float]]:
    """Loads the real deployments on a local Ray."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        storage=StorageConfig(root=str(published.root)),
        cluster=ClusterConfig(num_cpus=4, object_store_gb=0.25),
        serve=ServeConfig(port=port),
    )
    rows = []
    with serving(settings.serve, settings.open()):
        for candidates in SIZES:
            bodies = [json.dumps(request_of(published, candidates, seed)).encode() for seed in range(64)]
            rows += [{"candidates": candidates, **load(port, bodies, clients)} for clients in CLIENTS]
    return rows


def main(argv: Sequence[str] = ()) -> int:
    """Runs both and prints the table and the JSON line; takes no options, returns 0."""
    if argv:
        raise SystemExit(f"tests.bench.serving takes no options, got {' '.join(argv)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        published = store(Path(scratch) / "store")
        profiles = {candidates: profile(published, candidates) for candidates in SIZES}
        http_rows = over_http(published)
    print(f"\none request, ms of CPU time on one thread ({AUTHORS} authors, history {HISTORY}, default sizes)")
    print("part            " + "".join(f"{candidates:>6} candidates" for candidates in SIZES))
    for name in profiles[SIZES[0]]:
        print(f"{name:<16}" + "".join(f"{profiles[candidates][name]:>17.3f}" for candidates in SIZES))
    print(f"\nRay Serve over HTTP, one replica, one thread, closed loop, {SECONDS:.0f} s each, default flags")
    print("candidates  clients  requests  errors     qps   p50 ms   p99 ms")
    for row in http_rows:
        print(
            f"{row['candidates']:>10}  {row['clients']:>7}  {row['requests']:>8}  {row['errors']:>6}  {row['qps']:>6}"
            f"  {row['p50_ms']:>7}  {row['p99_ms']:>7}"
        )
    result = {
        "bench": "serving",
        "machine": {
            "cores": os.cpu_count(),
            "load_1m": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
        },
        "profile_cpu_ms": {str(candidates): parts for candidates, parts in profiles.items()},
        "http": http_rows,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
