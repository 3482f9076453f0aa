"""The online store: loading, reading and writing users' views, and what a SIGKILL takes of what was acknowledged.

Users have clicked views with exits. Reads are of one user at random; writes are batches of events of as many users,
each acknowledged once it is on disk (embedded) or in the server (redis). Prints a table; the last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis

from models.online.config import StoreConfig
from models.online.lives import LiveUpdate
from models.online.opening import open_store
from models.online.store import EventBatch, OnlineStore
from models.visits import EVENT_KINDS, Columns
from tests.redis_server import MISSING, RedisServer

NOW_MS = 1_760_000_000_000
USERS_PER_BATCH = 2_000
VIEW_MS = 600_000
"""Between two views of a user."""
URL_ENV = "BENCH_STORE_URL"
ENDLESS = """
import random, sys, threading
from tests.bench import store as bench

store, lock = bench.opened(sys.argv[1], sys.argv[2]), threading.Lock()

def write(thread):
    for n in range(10**9):
        user = 10**12 + thread * 10**9 + n
        store.apply(bench.written(range(user, user + 5), bench.NOW_MS), bench.NOW_MS)
        with lock:
            print(user, flush=True)

for thread in range(4):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def opened(backend: str, place: str) -> OnlineStore:
    """A store as it is configured by default, in a folder or at a URL."""
    config = StoreConfig(backend=backend, path=place, url_env=URL_ENV, read_timeout_s=1.0, write_timeout_s=30.0)
    store = open_store(config, {URL_ENV: place})
    assert store is not None
    return store


def views_of(users: range, views: int) -> EventBatch:
    """Exposure, click and exit of so many views of each user."""
    rng = np.random.default_rng(users.start)
    user = np.repeat(np.arange(users.start, users.stop), views)
    live = rng.integers(0, 1_000_000, len(user))
    exposed = NOW_MS - np.tile(np.arange(views)[::-1] * VIEW_MS, len(users)) - rng.integers(0, VIEW_MS // 2, len(user))
    watched_s = rng.integers(1, 250, len(user))
    parts = [("exposure", exposed, 0), ("click", exposed + 500, 0), ("exit", exposed + watched_s * 1000, watched_s)]
    columns: Columns = {name: np.tile(of, 3) for name, of in (("user_id", user), ("author_id", live // 3))}
    columns |= {"live_id": np.tile(live, 3), "ts_ms": np.concatenate([ts_ms for _, ts_ms, _ in parts])}
    columns["kind"] = np.repeat([EVENT_KINDS.index(kind) for kind, _, _ in parts], len(user)).astype(np.int8)
    columns["value"] = np.concatenate([np.broadcast_to(v, len(user)) for _, _, v in parts]).astype(np.float32)
    return EventBatch(events=columns, mark=("bench", users.stop))


def written(users: Sequence[int], ts_ms: int) -> EventBatch:
    """One click of each user, as events come over HTTP."""
    columns: Columns = {name: np.asarray(users, np.int64) for name in ("user_id", "author_id", "live_id")}
    columns |= {"ts_ms": np.full(len(users), ts_ms, np.int64), "value": np.zeros(len(users), np.float32)}
    columns |= {"live_id": columns["live_id"] % 1_000, "kind": np.zeros(len(users), np.int8)}
    return EventBatch(events=columns, ids=[os.urandom(16) for _ in users])


def load(store: OnlineStore, users: int, views: int) -> dict[str, float]:
    """All users' views, from one process."""
    started, cpu = time.perf_counter(), time.process_time()
    for start in range(0, users, USERS_PER_BATCH):
        store.apply(views_of(range(start, min(start + USERS_PER_BATCH, users)), views), NOW_MS)
    took, events = time.perf_counter() - started, users * views * 3
    return {
        "load_s": round(took, 1),
        "load_events_per_s": round(events / took),
        "load_cpu_us_per_event": round(1e6 * (time.process_time() - cpu) / events, 2),
    }


def read(store: OnlineStore, users: int, views: int, count: int) -> dict[str, float]:
    """Milliseconds of one user's views; each is looked at."""
    rng, took = random.Random(1), []
    for _ in range(count):
        user = rng.randrange(users)
        started = time.perf_counter()
        (found,) = store.views([user])
        took.append(1e3 * (time.perf_counter() - started))
        assert len(found.ts_ms) >= views and found.is_clicked.sum() == views
    return quantiles("read", took)


def write(store: OnlineStore, users: int, threads: int, seconds: float, at_once: int) -> dict[str, float]:
    """Batches of events of random users, by so many threads at once."""
    deadline, first = time.perf_counter() + seconds, time.perf_counter()

    def one(thread: int) -> list[float]:
        rng, took = random.Random(thread), []
        while (started := time.perf_counter()) < deadline:
            store.apply(written(rng.sample(range(users), at_once), NOW_MS + int((started - first) * 1000)), NOW_MS)
            took.append(1e3 * (time.perf_counter() - started))
        return took

    with ThreadPoolExecutor(threads) as pool:
        took = [each for part in pool.map(one, range(threads)) for each in part]
    name = f"write_{threads}x{at_once}"
    return {f"{name}_events_per_s": round(len(took) * at_once / seconds)} | quantiles(name, took)


def on_air(store: OnlineStore, lives: int) -> dict[str, float]:
    """Milliseconds to list so many lives on air."""
    for start in range(0, lives, 1_000):
        some = range(start, min(start + 1_000, lives))
        store.tell([LiveUpdate(live_id=n, author_id=n, start_ms=NOW_MS) for n in some], NOW_MS)
    took = []
    for _ in range(20):
        started = time.perf_counter()
        assert len(store.on_air(NOW_MS, lives)) == lives
        took.append(1e3 * (time.perf_counter() - started))
    return quantiles(f"on_air_{lives}", took)


def killed(backend: str, place: str, kills: int, server: RedisServer | None) -> dict[str, int]:
    """Writers (of redis: the server) are killed at random moments; acknowledged events that are not there after it."""
    rng, acknowledged = random.Random(2), []
    for _ in range(kills):
        command = [sys.executable, "-c", ENDLESS, backend, place]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert writer.stdout is not None
        acknowledged.append(int(writer.stdout.readline()))
        time.sleep(rng.uniform(0.1, 0.6))
        if server is not None:
            server.kill()
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        writer.wait()
        if server is not None:
            server.start()
    store = opened(backend, place)
    wanted = [user + n for user in acknowledged for n in range(5)]
    lost = sum(views.newest_ms is None for views in store.views(wanted))
    store.close()
    return {"kills": kills, "acknowledged_events": len(wanted), "lost_events": lost}


def quantiles(name: str, took_ms: Sequence[float]) -> dict[str, float]:
    return {f"{name}_p50_ms": round(float(np.percentile(took_ms, 50)), 3)} | {
        f"{name}_p99_ms": round(float(np.percentile(took_ms, 99)), 3)
    }


def memory(place: str, server: RedisServer | None) -> dict[str, float]:
    """Of this process its own, without pages of the file that it has mapped; and what the store takes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found = {"process_own_mb": int(status["RssAnon"].split()[0]) // 1024}
    if server is None:
        return found | {"file_mb": round(sum(p.stat().st_blocks * 512 for p in Path(place).iterdir()) / 2**20)}
    assert server.process is not None
    return found | {"server_mb": round(psutil.Process(server.process.pid).memory_info().rss / 2**20)}


@contextmanager
def place_of(backend: str, folder: str) -> Iterator[tuple[str, RedisServer | None]]:
    """Where the store is, and its server."""
    if backend == "embedded":
        yield folder, None
        return
    with RedisServer(Path(folder), "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server.url, server


@contextmanager
def synced(place: str, server: RedisServer | None, how: str) -> Iterator[None]:
    """Another `appendfsync` of a server for a while."""
    if server is None:
        yield
        return
    with redis.Redis.from_url(place) as client:
        client.config_set("appendfsync", how)
        yield
        client.config_set("appendfsync", "always")


def measured(backend: str, args: argparse.Namespace) -> Mapping[str, Any]:
    """All figures of one backend."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, place_of(backend, folder) as (place, server):
        store = opened(backend, place)
        # A load of millions is no place for a sync at each command; what follows it is.
        with synced(place, server, "no"):
            found: dict[str, Any] = load(store, args.users, args.views)
        found |= memory(place, server)
        found |= read(store, args.users, args.views, args.reads)
        for threads, at_once in ((1, 1), (1, 100), (8, 100)):
            found |= write(store, args.users, threads, args.seconds, at_once)
        found |= on_air(store, 2_000)
        store.close()
        return found | killed(backend, place, args.kills, server)


def main(argv: list[str]) -> int:
    """Runs the bench."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench store", description=__doc__)
    parser.add_argument("--backends", nargs="+", default=["embedded", "redis"], choices=["embedded", "redis"])
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--views", type=int, default=50)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each kind of writing")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--folder", help="where the stores are made; the disk that is measured")
    args = parser.parse_args(argv)
    results: dict[str, Mapping[str, Any]] = {}
    for backend in args.backends:
        if backend == "redis" and not RedisServer.is_installed():
            print(f"redis: {MISSING}")
            continue
        results[backend] = measured(backend, args)
    for name in dict.fromkeys(name for found in results.values() for name in found):
        print(f"{name:<34}" + "".join(f"{found.get(name, '-'):>14}" for found in results.values()))
    print(json.dumps({"bench": "store", "users": args.users, "views": args.views, **results}))
    return int(any(found["lost_events"] for found in results.values()))
