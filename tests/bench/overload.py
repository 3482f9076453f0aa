"""What is still answered, and how soon, when more is asked than can be: closed loops of 1 to 128 clients, an open loop
at twice the capacity, and bodies that are promised and never come.

    python -m tests.bench overload [--rounds 5] [--seconds 60] [--slow 500]

The load generator shares the machine, whose speed changes from minute to minute: so each closed loop is held against
one of 16 clients just before and after it, in rounds of which the median counts, and the open loop against the peak
before and after it. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.http_load import Answers, Load, run
from tests.bench.served import bodies_of, served, store

CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128)
CLOSED_S, AFTER_S, NORMAL_S = 4.0, 10.0, 5.0
PEAK_CLIENTS, PEAK_S = 16, 20.0
_HEAD = b"POST /rank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"


def closed(port: int, bodies: tuple[str, ...], clients: int, seconds: float = CLOSED_S) -> dict[str, Any]:
    """A closed loop."""
    found = run(Load(port=port, bodies=bodies, clients=clients, seconds=seconds))
    return {"clients": clients, "goodput": found.goodput(1.0, seconds)} | latencies(found)


def in_rounds(port: int, bodies: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """For each number of clients its median round, and `against`: its goodput by that of PEAK_CLIENTS just before and
    after, the median of all rounds."""
    runs: dict[int, list[dict[str, Any]]] = {clients: [] for clients in CLIENTS}
    closed(port, bodies, PEAK_CLIENTS)  # not counted: what is first is slow
    for number in range(rounds):
        before = closed(port, bodies, PEAK_CLIENTS)["goodput"]
        for clients in CLIENTS if number % 2 == 0 else reversed(CLIENTS):
            found = closed(port, bodies, clients)
            after = closed(port, bodies, PEAK_CLIENTS)["goodput"]
            runs[clients].append(found | {"against": round(2 * found["goodput"] / (before + after), 2)})
            before = after
    return [_median(found) for found in runs.values()]


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    by_share = sorted(runs, key=lambda run: float(run["against"]))
    shares = [run["against"] for run in by_share]
    return by_share[(len(runs) - 1) // 2] | {"against": float(np.median(shares)), "rounds": shares}


def latencies(found: Answers) -> dict[str, Any]:
    """Of what was answered, and of what was turned away."""
    return {
        "by_status": {int(status): int((found.status == status).sum()) for status in sorted(set(found.status))},
        "p50_ms": found.percentile_ms(50),
        "p99_ms": found.percentile_ms(99),
        "turned_away_p50_ms": found.percentile_ms(50, 503),
        "turned_away_p99_ms": found.percentile_ms(99, 503),
    }


def twice(port: int, bodies: tuple[str, ...], peak: float, seconds: float) -> dict[str, Any]:
    """An open loop at twice the peak, then one at a quarter of it, which is to be as quick as ever `NORMAL_S` later."""
    over = run(Load(port=port, bodies=bodies, rate=2 * peak, seconds=seconds))
    after = run(Load(port=port, bodies=bodies, rate=peak / 4, seconds=AFTER_S)).between(NORMAL_S, AFTER_S)
    return {
        "rate": round(2 * peak),
        "goodput": over.goodput(2.0, seconds),
        **latencies(over),
        "after": latencies(after),
    }


@contextmanager
def slow_bodies(port: int, count: int) -> Iterator[list[float]]:
    """So many connections that promise a body and send one byte, opened anew when they are closed; seconds until each
    was answered."""
    stop, taken = threading.Event(), list[float]()

    def one() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                    connection.sendall(_HEAD)
                    if connection.recv(4096):
                        taken.append(time.perf_counter() - began)
            except OSError:
                pass  # it is what is seen by the others that counts
            stop.wait(1.0)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    try:
        yield taken
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def beside_slow(port: int, bodies: tuple[str, ...], count: int) -> dict[str, Any]:
    """Good requests without and with slow ones beside them, at the same moderate rate."""
    load = Load(port=port, bodies=bodies, rate=50.0, seconds=CLOSED_S)
    alone = run(load)
    with slow_bodies(port, count) as taken:
        beside = run(load)
    return {
        "slow": count,
        "alone": latencies(alone),
        "beside": latencies(beside),
        "slow_answered": len(taken),
        "slow_answered_p99_s": round(float(np.percentile(taken, 99)), 2) if taken else None,
    }


def main(argv: Sequence[str] = ()) -> int:
    """Runs all three, prints the tables and the JSON line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench overload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of all closed loops")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the open loop")
    parser.add_argument("--slow", type=int, default=500, help="connections that send no body")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        published = store(Path(scratch) / "store")
        bodies = bodies_of(published)
        with served(published.root) as port:
            loops = in_rounds(port, bodies, args.rounds)
            peak = max(loop["against"] for loop in loops)
            print("\nclients  goodput  of peak   p50 ms   p99 ms  by status, against 16 clients in each round")
            for loop in loops:
                print(
                    f"{loop['clients']:>7}  {loop['goodput']:>7}  {loop['against'] / peak:>7.2f}  {loop['p50_ms']:>7}"
                    f"  {loop['p99_ms']:>7}  {loop['by_status']} {loop['rounds']}"
                )
            slow = beside_slow(port, bodies, args.slow)
            print(f"\nbeside {slow['slow']} slow bodies: {json.dumps(slow)}")
            before = closed(port, bodies, PEAK_CLIENTS, PEAK_S)["goodput"]
            over = twice(port, bodies, before, args.seconds)
            peak = (before + closed(port, bodies, PEAK_CLIENTS, PEAK_S)["goodput"]) / 2
    share = over["goodput"] / peak
    print(f"\ntwice the peak of {peak:.1f}: goodput {over['goodput']}, {share:.2f} of it; {json.dumps(over)}")
    result = {"load_1m": round(os.getloadavg()[0], 1), "closed": loops, "peak": peak, "twice": over, "slow": slow}
    print(json.dumps({"bench": "overload"} | result))
    return 0
