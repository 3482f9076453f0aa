"""How fast ranking is: where the time of one request goes, and what it costs over HTTP.

    python -m tests.bench serving

Random weights at the default sizes. The start command is measured against the same application on uvicorn alone, and
SARM against Base on uvicorn, in turns; the load generator shares the machine. Prints a table; the last line is one
JSON object.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from models.catalog import Catalog
from models.composed import ComposedRanker
from serve.args import fusion_weights
from serve.online import Online
from serve.schema import RankRequest
from serve.user_sequence import Asked, UserSequence, answered, request_batch, request_columns, request_rows
from tests.bench import http_load
from tests.bench.http_load import ROOT, Load
from tests.bench.served import AUTHORS, HISTORY, bodies_of, cpu_s, free_port, request_of, served, store
from tests.serve.conftest import NOW_MS, Published, watcher_of

SIZES = (100, 200)
CLIENTS = (1, 4)
ROUNDS = 3
SECONDS = 4.0
WARM_UP_S = 1.0
REPEATS = 100
COMPARED = ("qps", "mean_ms", "cpu_ms")


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


class Base(Published):
    """The same store of the ranker without anchors."""

    def composed(self, catalog: Catalog) -> ComposedRanker:
        return ComposedRanker(self.ranker, catalog.sizes)

    def states(self, model: str, rng: np.random.Generator) -> dict[str, Any]:
        return {}


@contextmanager
def bare(root: Path) -> Iterator[tuple[int, int]]:
    """The application on uvicorn alone, as its port and process id."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.bare_uvicorn", str(root), str(port)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            wait_for(port)
            yield port, process.pid
        finally:
            process.kill()


def wait_for(port: int) -> None:
    """Until something listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def measured(
    name: str, port: int, bodies: tuple[str, ...], clients: int, cpu: Callable[[int], float]
) -> dict[str, Any]:
    """A closed loop against one endpoint; `cpu` tells the CPU seconds that it has taken, without the loop's process."""
    http_load.run(Load(port=port, bodies=bodies, clients=clients, seconds=WARM_UP_S))
    process = http_load.start(Load(port=port, bodies=bodies, clients=clients, seconds=SECONDS))
    before = cpu(process.pid)
    found = http_load.answers(process)
    spent, count = cpu(0) - before, int((found.status == 200).sum())
    return {
        "what": name,
        "clients": clients,
        "errors": len(found.status) - count,
        "qps": found.goodput(0, SECONDS),
        "mean_ms": round(1e3 * float(found.took_s.mean()), 2),
        "p50_ms": found.percentile_ms(50),
        "p99_ms": found.percentile_ms(99),
        "cpu_ms": round(1e3 * spent / count, 3),
    }


def of_process(pid: int) -> Callable[[int], float]:
    """CPU seconds of one process."""
    times = psutil.Process(pid).cpu_times
    return lambda _: float(times().user + times().system)


def over_http(sarm: Published, base: Published) -> list[dict[str, Any]]:
    """SARM and Base on uvicorn, and SARM by the start command, in turns."""
    bodies, rows = bodies_of(sarm), []
    with (
        bare(sarm.root) as (sarm_port, sarm_pid),
        bare(base.root) as (base_port, base_pid),
        served(sarm.root) as port,
    ):

        def of_serving(loop: int) -> float:
            return cpu_s([sarm_pid, base_pid, loop])

        for clients, _ in itertools.product(CLIENTS, range(ROUNDS)):
            rows += [
                measured("uvicorn sarm", sarm_port, bodies, clients, of_process(sarm_pid)),
                measured("uvicorn base", base_port, bodies, clients, of_process(base_pid)),
                measured("serve sarm", port, bodies, clients, of_serving),
            ]
    return rows


def medians(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each endpoint and number of clients: medians over the rounds, and the sum of errors."""
    found = {}
    for row in rows:
        found.setdefault((row["clients"], row["what"]), []).append(row)
    figures = ("qps", "mean_ms", "p50_ms", "p99_ms", "cpu_ms")
    return [
        {"what": what, "clients": clients, "errors": sum(row["errors"] for row in group)}
        | {name: round(statistics.median(row[name] for row in group), 3) for name in figures}
        for (clients, what), group in sorted(found.items())
    ]


def main(argv: Sequence[str] = ()) -> int:
    """Runs both and prints the table and the JSON line; takes no options, returns 0."""
    if argv:
        raise SystemExit(f"tests.bench.serving takes no options, got {' '.join(argv)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        published, base = store(Path(scratch) / "sarm"), store(Path(scratch) / "base", Base)
        profiles = {candidates: profile(published, candidates) for candidates in SIZES}
        rows = medians(over_http(published, base))
    print(f"\none request, ms of CPU time on one thread ({AUTHORS} authors, history {HISTORY}, default sizes)")
    print("part            " + "".join(f"{candidates:>6} candidates" for candidates in SIZES))
    for name in profiles[SIZES[0]]:
        print(f"{name:<16}" + "".join(f"{profiles[candidates][name]:>17.3f}" for candidates in SIZES))
    print(f"\nover HTTP, 100 candidates, one replica, closed loop, medians of rounds of {SECONDS:.0f} s in turns")
    print("what          clients  errors     qps  mean ms   p50 ms   p99 ms  CPU ms a request")
    for row in rows:
        print(
            f"{row['what']:<12}  {row['clients']:>7}  {row['errors']:>6}  {row['qps']:>6}  {row['mean_ms']:>7}"
            f"  {row['p50_ms']:>7}  {row['p99_ms']:>7}  {row['cpu_ms']:>16}"
        )
    by = {(row["clients"], row["what"]): row for row in rows}
    ratios = [
        {
            "clients": clients,
            "serve_to_uvicorn_cpu": _ratio(by, clients, "serve sarm", "uvicorn sarm", "cpu_ms"),
            "sarm_to_base": {name: _ratio(by, clients, "uvicorn sarm", "uvicorn base", name) for name in COMPARED},
        }
        for clients in CLIENTS
    ]
    for ratio in ratios:
        print(json.dumps(ratio))
    result = {
        "bench": "serving",
        "machine": {
            "cores": os.cpu_count(),
            "load_1m": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
        },
        "profile_cpu_ms": {str(candidates): parts for candidates, parts in profiles.items()},
        "http": rows,
        "ratios": ratios,
    }
    print(json.dumps(result))
    return 0


def _ratio(by: dict[tuple[int, str], dict[str, Any]], clients: int, one: str, other: str, name: str) -> float:
    return round(by[clients, one][name] / by[clients, other][name], 3)


if __name__ == "__main__":
    raise SystemExit(main())
