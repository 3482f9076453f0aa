"""Whether the endpoint stays as it is for half an hour: memory and descriptors of every process, and what was answered.

    python -m tests.bench soak
    python -m tests.bench soak --seconds 300 --settled 60

Starts the command that users start, finds out what it holds at most, and offers a share of that in open loop. Prints a
table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipelines.serving.offered import Endpoint, Recorded, Step, offer
from tests.bench.served import request_of, store

BODIES = 512
SAMPLE_S = 10.0
START_S = 180.0


@contextmanager
def started(root: Path, folder: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """The start command over a store, as its URL and process, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [f"storage.root={root}", f"run_dir={folder}", f"serve.port={port}", *options]
    command = [sys.executable, "-m", "pipelines", "serve", "--config", "pipelines/configs/serve.yaml"]
    with (folder / "log").open("w") as log:
        arguments = [part for option in given for part in ("--set", option)]
        process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/healthz", process, folder / "log")
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait(url: str, process: subprocess.Popen[Any], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{url} did not come up:\n{log.read_text()[-3000:]}") from None
            time.sleep(0.3)


def processes(parent: psutil.Process) -> dict[str, dict[str, int]]:
    """Resident bytes, own bytes and open descriptors of the command and all that it started, by what they are."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("rss", "own", "descriptors", "processes"), 0))
    for process in [parent, *parent.children(recursive=True)]:
        try:
            memory, name = process.memory_info(), _name(process)
            kind = found[name]
            kind["rss"] += memory.rss
            kind["own"] += memory.rss - memory.shared
            kind["descriptors"] += process.num_fds()
            kind["processes"] += 1
        except psutil.NoSuchProcess:
            continue
    return dict(found)


def _name(process: psutil.Process) -> str:
    command = " ".join(process.cmdline()) or process.name()
    if found := re.match(r"ray::(ServeReplica:\w+:\w+|\w+)", command):
        return found[1]
    return "serve" if "pipelines serve" in command else process.name()


async def soaked(url: str, parent: psutil.Process, rate: float, seconds: float, bodies: list[bytes]) -> Any:
    """What was answered, and samples of the processes."""
    samples: list[tuple[float, dict[str, dict[str, int]]]] = []
    begin = time.perf_counter()

    async def watch() -> None:
        while True:
            samples.append((time.perf_counter() - begin, processes(parent)))
            await asyncio.sleep(SAMPLE_S)

    watching = asyncio.create_task(watch())
    (recorded,) = await offer(Endpoint(url=f"{url}/rank"), [Step(seconds=seconds, rate=rate)], bodies)
    watching.cancel()
    return recorded, samples


def rows_of(samples: list[tuple[float, dict[str, dict[str, int]]]], settled_s: float) -> list[dict[str, Any]]:
    """Of every kind of process: what it had when the run had settled, and at the end (means of a tenth of the rest)."""
    after = [(at, kinds) for at, kinds in samples if at >= settled_s]
    tenth = max(1, len(after) // 10)
    rows = []
    for name in sorted(after[-1][1]):
        first, last = (
            {
                key: float(np.mean([kinds.get(name, {}).get(key, 0) for _, kinds in part]))
                for key in ("rss", "own", "descriptors")
            }
            for part in (after[:tenth], after[-tenth:])
        )
        rows.append(
            {
                "process": name,
                "rss_mb": round(last["rss"] / 2**20, 1),
                "own_mb": round(last["own"] / 2**20, 1),
                "growth_percent": round(100 * (last["rss"] / max(first["rss"], 1) - 1), 2),
                "descriptors": [round(first["descriptors"], 1), round(last["descriptors"], 1)],
            }
        )
    return rows


def total_growth(samples: list[tuple[float, dict[str, dict[str, int]]]], settled_s: float) -> float:
    """Percent by which the resident memory of all processes together grew after the run had settled."""
    sums = [sum(kind["rss"] for kind in kinds.values()) for at, kinds in samples if at >= settled_s]
    tenth = max(1, len(sums) // 10)
    return round(100 * (float(np.mean(sums[-tenth:])) / float(np.mean(sums[:tenth])) - 1), 2)


def main(argv: Sequence[str] = ()) -> int:
    """Runs the soak and prints the table and the JSON line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--settled", type=float, default=300.0, help="seconds after which growth counts")
    parser.add_argument("--share", type=float, default=0.7, help="of what the endpoint holds at most")
    parser.add_argument("--candidates", type=int, default=100)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        published = store(folder / "store")
        bodies = [json.dumps(request_of(published, args.candidates, seed)).encode() for seed in range(BODIES)]
        with started(published.root, folder) as (url, parent):
            steps = [Step(seconds=5, clients=8), Step(seconds=15, clients=16)]
            peak = asyncio.run(offer(Endpoint(url=f"{url}/rank"), steps, bodies))[-1].figures()["ok_per_s"]
            rate = round(args.share * float(peak or 0), 1)
            print(f"peak {peak} requests/s, offered {rate} for {args.seconds:.0f} s", flush=True)
            recorded, samples = asyncio.run(soaked(url, parent, rate, args.seconds, bodies))
    return _tell(recorded, samples, args.settled, peak)


def _tell(recorded: Recorded, samples: Any, settled_s: float, peak: Any) -> int:
    figures, rows = recorded.figures(), rows_of(samples, settled_s)
    print(json.dumps(figures))
    print(f"{'process':<40}{'RSS MiB':>10}{'own MiB':>10}{'growth %':>10}{'descriptors':>16}")
    for row in rows:
        first, last = row["descriptors"]
        print(
            f"{row['process']:<40}{row['rss_mb']:>10}{row['own_mb']:>10}{row['growth_percent']:>10}{first:>8}{last:>8}"
        )
    growth = total_growth(samples, settled_s)
    result = {"bench": "soak", "peak": peak, "load": figures, "growth_percent": growth, "processes": rows}
    print(f"all processes: RSS {growth:+} % after {settled_s:.0f} s")
    print(json.dumps(result))
    return 0
