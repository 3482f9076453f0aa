"""What a SIGKILL of each part of serving costs those who ask, and how soon it is back.

    python -m tests.bench recovery [--rate 60] [--seconds 25] [--parts ranker,proxy] [--replicas 2]

An open loop of requests; the part is killed after 5 s. Once as it is, and once with a client that asks a second time
`--retry-after-s` later. Redis is started again 3 s after it was killed, as what watches it would do, and is back when
answers are no longer `degraded`; all others come back by themselves. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pipelines.serving.fast_path import environment
from tests.bench.http_load import Answers, Load, answers, start
from tests.bench.served import PARTS, bodies_of, free_port, process_of, served, store
from tests.redis_server import RedisServer

KILL_S, REDIS_AWAY_S = 5.0, 3.0
REDIS_URL = "BENCH_REDIS_URL"


def killed(part: str, load: Load) -> dict[str, Any]:
    """One kill under load."""
    process = start(load)
    time.sleep(KILL_S)
    victim = process_of(part)
    assert victim is not None, f"no process of {part} runs"
    os.kill(victim.pid, signal.SIGKILL)
    back_s = _until_back(part, victim, load.seconds - KILL_S)
    return {"part": part, "retry": load.retry_after_s is not None, "back_s": back_s} | seen(answers(process))


def _until_back(part: str, victim: psutil.Process, within_s: float) -> float | None:
    started = time.perf_counter()
    while (waited := time.perf_counter() - started) < within_s:
        found = process_of(part)
        if found is not None and found.pid != victim.pid and found.create_time() > victim.create_time():
            return round(waited, 1)
        time.sleep(0.1)
    return None


def killed_redis(server: RedisServer, load: Load) -> dict[str, Any]:
    """The same for the server of the online store."""
    process = start(load)
    assert not _is_degraded(load), "the store answers before the kill"
    time.sleep(KILL_S)
    server.kill()
    killed_s = time.perf_counter()
    time.sleep(REDIS_AWAY_S)
    assert _is_degraded(load), "nobody can have read the store"
    server.start()
    while _is_degraded(load):
        time.sleep(0.1)
    back_s = round(time.perf_counter() - killed_s, 1)
    return {"part": "redis", "retry": load.retry_after_s is not None, "back_s": back_s} | seen(answers(process))


def _is_degraded(load: Load) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=30)
    connection.request("POST", "/rank", load.bodies[0], {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return bool(answer["degraded"])


def seen(found: Answers) -> dict[str, Any]:
    """How many were not answered with 200, and from when to when, counted from the kill."""
    bad = found.at_s[found.status != 200]
    status, count = zip(*((int(s), int((found.status == s).sum())) for s in sorted(set(found.status))), strict=True)
    return {
        "requests": len(found.status),
        "not_200": len(bad),
        "by_status": dict(zip(status, count, strict=True)),
        "first_bad_s": round(float(bad.min()) - KILL_S, 1) if len(bad) else None,
        "last_bad_s": round(float(bad.max()) - KILL_S, 1) if len(bad) else None,
        "retried": found.retried,
        "said": found.said,
        "slowest_s": round(float(found.took_s.max()), 1),
    }


def _told(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), flush=True)
    return row


def main(argv: Sequence[str] = ()) -> int:
    """Kills, prints the table and the JSON line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench recovery", description=__doc__)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--parts", default=",".join([*PARTS, "redis"]))
    parser.add_argument("--retry-after-s", type=float, default=1.0)
    parser.add_argument("--replicas", type=int, default=1, help="of the ranker")
    parser.add_argument("--plain", action="store_true", help="without HAProxy")
    args = parser.parse_args(argv)
    parts = [part for part in args.parts.split(",") if not (args.plain and part in ("proxy", "haproxy"))]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        published = store(Path(scratch) / "store")
        port, bodies = free_port(), bodies_of(published)
        once = Load(port=port, bodies=bodies, seconds=args.seconds, rate=args.rate, timeout_s=15.0)
        loads = (once, replace(once, retry_after_s=args.retry_after_s))
        config = {"high_throughput": not args.plain, "port": port}
        app: dict[str, Any] = {"replicas": args.replicas}
        if others := [part for part in parts if part != "redis"]:
            with served(published.root, app=app, **config):
                rows += [_told(killed(part, load)) for part in others for load in loads]
        if "redis" in parts:
            with RedisServer(Path(scratch)) as server, environment({REDIS_URL: server.url}):
                of_redis = {"backend": "redis", "url_env": REDIS_URL}
                with served(published.root, app=app | {"store": of_redis}, **config):
                    rows += [_told(killed_redis(server, load)) for load in loads]
    print("\npart         retry  requests  not 200  from s    to s  retried  slowest s  process back s")
    for row in rows:
        print(
            f"{row['part']:<12} {row['retry']!s:<5}  {row['requests']:>8}  {row['not_200']:>7}"
            f"  {row['first_bad_s']!s:>6}  {row['last_bad_s']!s:>6}  {row['retried']:>7}  {row['slowest_s']:>9}"
            f"  {row['back_s']!s:>14}"
        )
    print(json.dumps({"bench": "recovery", "rate": args.rate, "kills": rows}))
    return 0
