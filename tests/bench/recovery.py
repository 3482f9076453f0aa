"""What a SIGKILL of each part of serving costs those who ask, and how soon it is back.

    python -m tests.bench recovery [--rate 60] [--seconds 25] [--parts ranker,proxy] [--replicas 2]

An open loop of requests; the part is killed after 5 s. Once as it is, and once with a client that asks a second time
`--retry-after-s` later. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.bench.http_load import Answers, Load, answers, start
from tests.bench.served import PARTS, bodies_of, process_of, served, store

KILL_S = 5.0


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


def main(argv: Sequence[str] = ()) -> int:
    """Kills, prints the table and the JSON line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench recovery", description=__doc__)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--retry-after-s", type=float, default=1.0)
    parser.add_argument("--replicas", type=int, default=1, help="of the ranker")
    parser.add_argument("--plain", action="store_true", help="without HAProxy")
    args = parser.parse_args(argv)
    parts = [part for part in args.parts.split(",") if not (args.plain and part in ("proxy", "haproxy"))]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        published = store(Path(scratch) / "store")
        with served(published.root, high_throughput=not args.plain, app={"replicas": args.replicas}) as port:
            for part in parts:
                for retry_after_s in (None, args.retry_after_s):
                    load = Load(
                        port=port,
                        bodies=bodies_of(published),
                        seconds=args.seconds,
                        rate=args.rate,
                        retry_after_s=retry_after_s,
                        timeout_s=15.0,
                    )
                    rows.append(killed(part, load))
                    print(json.dumps(rows[-1]), flush=True)
    print("\npart         retry  requests  not 200  from s    to s  retried  slowest s  process back s")
    for row in rows:
        print(
            f"{row['part']:<12} {row['retry']!s:<5}  {row['requests']:>8}  {row['not_200']:>7}"
            f"  {row['first_bad_s']!s:>6}  {row['last_bad_s']!s:>6}  {row['retried']:>7}  {row['slowest_s']:>9}"
            f"  {row['back_s']!s:>14}"
        )
    print(json.dumps({"bench": "recovery", "rate": args.rate, "kills": rows}))
    return 0
