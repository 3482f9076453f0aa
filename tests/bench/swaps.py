"""What a swap of the bank costs those who ask: a new model and bank every few seconds, under load.

    python -m tests.bench swaps [--seconds 180] [--every 10] [--rate 60]

Random weights and vectors; the load generator shares the machine with the endpoint. The versions lie ready, and CURRENT
moves from one to the next, none of which this node has verified. Every answer is compared with that of a ranker in this
process, of the version that the answer names. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.artifacts.store import ArtifactStore
from serve.loading import load_snapshot
from serve.schema import RankRequest
from serve.user_sequence import UserSequence
from tests.bench.deltas import RandomBank
from tests.bench.served import request_of, served, store
from tests.serve.conftest import Published

BODIES, CANDIDATES, CLIENTS = 16, 100, 4
NEAR_S = 3.0


class Answer(NamedTuple):
    """One request."""

    at_s: float
    took_s: float
    body: int
    status: int
    content: bytes


def asked(port: int, bodies: Sequence[bytes], rate: float, seconds: float) -> list[Answer]:
    """Requests at a fixed rate from a few threads; latency counts from when a request was due."""
    answers: list[Answer] = []
    started = time.perf_counter()

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for turn in range(number, int(rate * seconds), CLIENTS):
            due = turn / rate
            time.sleep(max(0.0, started + due - time.perf_counter()))
            body = turn % len(bodies)
            connection.request("POST", "/rank", bodies[body], {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            answers.append(Answer(due, time.perf_counter() - started - due, body, answer.status, content))
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(answers)


def publishing(published: Published, every_s: float, stop: threading.Event) -> list[float]:
    """Moves CURRENT to one version after another; when, by perf_counter."""
    times: list[float] = []
    while not stop.wait(every_s):
        times.append(time.perf_counter())
        published.point(f"swap-{len(times)}")
    return times


def mixed(published: Published, answers: Sequence[Answer], requests: Sequence[dict[str, Any]]) -> int:
    """Answers whose scores are not those of the version that they name."""
    artifacts = ArtifactStore.open(str(published.root))
    by_version: dict[str, list[Answer]] = {}
    for answer in answers:
        by_version.setdefault(json.loads(answer.content)["bank_version"], []).append(answer)
    wrong = 0
    for version, own in by_version.items():
        snapshot = load_snapshot(artifacts, version)
        ranking = UserSequence(_Held(snapshot))  # type: ignore[arg-type]
        wanted = [_scores(ranking.rank(RankRequest.model_validate(request)).model_dump()) for request in requests]
        wrong += sum(not _alike(_scores(json.loads(answer.content)), wanted[answer.body]) for answer in own)
    return wrong


class _Held:
    """Stands for a watcher that has loaded one snapshot."""

    def __init__(self, snapshot: Any) -> None:
        self.current = snapshot


def _scores(answer: dict[str, Any]) -> dict[int, float]:
    return {row["author_id"]: row["score"] for row in answer["candidates"]}


def _alike(got: dict[int, float], wanted: dict[int, float]) -> bool:
    return got.keys() == wanted.keys() and all(abs(got[key] - wanted[key]) < 1e-4 for key in wanted)


def main(argv: Sequence[str] = ()) -> int:
    """Runs the load and the swaps, prints the table and the JSON line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench swaps", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=60.0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        published = store(Path(scratch) / "store", RandomBank)
        for number in range(1, int(args.seconds / args.every) + 1):
            published.publish(f"swap-{number}", seed=number, point=False)
        requests = [request_of(published, CANDIDATES, seed) for seed in range(BODIES)]
        bodies = [json.dumps(request).encode() for request in requests]
        with served(published.root) as port:
            asked(port, bodies, args.rate, 5.0)
            quiet = asked(port, bodies, args.rate, args.seconds / 6)
            stop, times = threading.Event(), []
            publisher = threading.Thread(target=lambda: times.extend(publishing(published, args.every, stop)))
            publisher.start()
            began = time.perf_counter()
            answers = asked(port, bodies, args.rate, args.seconds)
            stop.set()
            publisher.join()
        result = figures(quiet, answers, [at - began for at in times], args)
        result["mixed"] = mixed(published, [a for a in answers if a.status == 200], requests)
    for name, value in result.items():
        print(f"{name:<44}{value}")
    print(json.dumps({"bench": "swaps", **result}))
    return 0


def figures(quiet: Sequence[Answer], answers: Sequence[Answer], swaps: Sequence[float], args: Any) -> dict[str, Any]:
    """Latencies in ms without swaps, near one, and between them."""
    at, took = np.array([a.at_s for a in answers]), 1e3 * np.array([a.took_s for a in answers])
    versions = [json.loads(a.content)["bank_version"] if a.status == 200 else "" for a in answers]
    # A swap is where the version of answers changes; its publication is a little before.
    changes = [a.at_s for before, a, v in zip(versions, answers[1:], versions[1:], strict=False) if v and v != before]
    near = np.zeros(len(at), bool)
    for change in changes:
        near |= np.abs(at - change) <= NEAR_S
    alone = 1e3 * np.array([a.took_s for a in quiet])
    lag = [min((c - s for c in changes if c >= s), default=float("nan")) for s in swaps]
    p99 = float(np.percentile(took[near], 99))
    return {
        "swaps published": len(swaps),
        "versions answered": len(set(versions)),
        "requests": len(answers),
        "not 200": sum(a.status != 200 for a in answers),
        "p50 ms without swaps": round(float(np.percentile(alone, 50)), 2),
        "p99 ms without swaps": round(float(np.percentile(alone, 99)), 2),
        "p50 ms within 3 s of a swap": round(float(np.percentile(took[near], 50)), 2),
        "p99 ms within 3 s of a swap": round(p99, 2),
        "p99 ms between swaps": round(float(np.percentile(took[~near], 99)), 2),
        "p99 ms over all, from the first swap": round(float(np.percentile(took[at >= args.every], 99)), 2),
        "p99 near, against without swaps": round(float(np.percentile(took[near], 99) / np.percentile(alone, 99)), 2),
        "p99 near, against between swaps": round(
            float(np.percentile(took[near], 99) / np.percentile(took[~near], 99)), 2
        ),
        "visible after s, p50": round(float(np.nanpercentile(lag, 50)), 2),
        "visible after s, max": round(float(np.nanmax(lag)), 2),
        "rate": args.rate,
    }
