"""Memory and speed of the job `train` by the size of the log: a simulated one of millions of impressions and ids.

Users and authors are drawn as a platform shows them, few often and most seldom (Zipf); some impressions in a row are of
one user with one history. Labels depend on the author, and on what groups of users like in groups of authors. The job
runs in a process of its own. Memory is the sum of PSS over it and all that it starts, so shared pages count once.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray

from models import TASKS
from pipelines.ranking.plan import TrainConfig
from pipelines.runtime import config
from pipelines.runtime.cluster import ROOT, ClusterConfig
from pipelines.runtime.scaling import TrainScaling
from pipelines.settings import Settings
from pipelines.tables import newest
from pipelines.tables.contract import PROFILE
from pipelines.tables.storage import Storage, StorageConfig
from tests.bench.ids import Ids
from tests.pipelines.machines import TRAIN_WORKER, is_titled, kill

FIRST_DAY, DAY_MS = date(2026, 1, 1), 86_400_000
HISTORY, GROUPS, CATEGORIES = 20, 16, 32
CHUNK = 262_144
BIASES = dict(zip(TASKS, (-1.5, -3.5, -2.0, -4.0), strict=True))
KINDS = ("driver", "workers", "ray", "object store")
"""The job itself; Ray Train's workers; all other processes of Ray; the shared memory of all of them."""
_DATE = re.compile(r"^(\S+ \S+,\d+) ")
_STEP = re.compile(r"\| step (\d+)/")
_CHECKPOINT = re.compile(r"\| checkpoint \S+ \| ([\d.]+) GiB \| settled ([\d.]+) s, saved ([\d.]+) s, kept ([\d.]+) s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """Sizes of the log, and how it is drawn."""

    impressions: int
    """Of the days to train on, together."""
    authors: int
    users: int
    days: int
    request: int
    """Impressions in a row of one user, with one history."""
    skew: float
    """Zipf's exponent of authors."""
    user_skew: float
    """Zipf's exponent of users, who differ less."""

    def name_of(self, day: int) -> str:
        """Days count from 0; the last one, `days`, is the test day."""
        return (FIRST_DAY + timedelta(days=day)).isoformat()

    def write(self, root: str) -> None:
        """All tables that `train` reads."""
        storage = Storage.open(root)
        storage.write("users", self.name_of(0), map(_users, _chunks(self.users)))
        storage.write("authors", self.name_of(0), map(_authors, _chunks(self.authors)))
        for day in range(self.days + 1):
            rows = self.impressions // self.days if day < self.days else 4096
            storage.write("examples", self.name_of(day), self._examples(day, rows))
        for table in ("users", "authors"):
            newest.carry(storage, table, until=self.name_of(self.days))

    def _examples(self, day: int, rows: int) -> Iterator[pa.Table]:
        """A day in the order of time."""
        midnight = (FIRST_DAY - date(1970, 1, 1)).days * DAY_MS + day * DAY_MS
        for chunk in _chunks(rows):
            rng = np.random.default_rng([day, chunk.start])
            requests = -(-len(chunk) // self.request)
            of = np.arange(len(chunk)) // self.request
            span = DAY_MS * len(chunk) // rows
            times = midnight + DAY_MS * chunk.start // rows + np.sort(rng.integers(0, span, requests))
            user = Ids(users=self.users, authors=self.authors, skew=self.user_skew).draw(self.users, (requests,), rng)
            ids = Ids(users=self.users, authors=self.authors, skew=self.skew)
            author = ids.draw(self.authors, (len(chunk),), rng).numpy()
            history = {
                "history_author_ids": ids.draw(self.authors, (requests, HISTORY), rng).numpy()[of],
                "history_age_s": -np.sort(-rng.exponential(1e5, (requests, HISTORY))).astype(np.float32)[of],
                "history_watch_s": rng.exponential(60, (requests, HISTORY)).round(1).astype(np.float32)[of],
            }
            columns = {
                "impression_id": day * 10**12 + np.arange(chunk.start, chunk.stop),
                "user_id": user.numpy()[of],
                "author_id": author,
                "live_id": author,
                "ts_ms": times[of],
                **_labels(user.numpy()[of], author, rng),
            }
            lists = {name: _lists(values) for name, values in history.items()}
            yield pa.table({**columns, **lists, "anchor_day": pa.nulls(len(chunk), pa.date32())})


def _chunks(rows: int) -> Iterator[range]:
    for start in range(0, rows, CHUNK):
        yield range(start, min(rows, start + CHUNK))


def _hashed(ids: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """Numbers from 0 to 2^16 that look random."""
    mixed = (ids.astype(np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    of: NDArray[np.int64] = (mixed >> np.uint64(48)).astype(np.int64)
    return of


def _users(chunk: range) -> pa.Table:
    """Their profiles tell their groups."""
    ids = np.arange(chunk.start, chunk.stop) + 1
    group = _hashed(ids, 1) % GROUPS
    codes = (group % 4, group // 4, (group + _hashed(ids, 3)) % 6, _hashed(ids, 4) % 3)
    return pa.table({"user_id": ids} | {name: code.astype(np.int16) for name, code in zip(PROFILE, codes, strict=True)})


def _authors(chunk: range) -> pa.Table:
    ids = np.arange(chunk.start, chunk.stop) + 1
    empty = pa.ListArray.from_arrays(np.zeros(len(ids) + 1, dtype=np.int32), pa.array([], pa.string()))
    return pa.table(
        {
            "author_id": ids,
            "profile": [f"who streams as number {number}, most evenings" for number in ids.tolist()],
            "category": [f"category {code}" for code in (_hashed(ids, 2) % CATEGORIES).tolist()],
            "tags": empty,
            "first_live_day": pa.array([FIRST_DAY] * len(ids), pa.date32()),
        }
    )


def _labels(
    user: NDArray[np.int64], author: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, NDArray[np.uint8]]:
    taste = np.random.default_rng(7).normal(0, 0.8, (GROUPS, CATEGORIES))
    liked = taste[_hashed(user, 1) % GROUPS, _hashed(author, 2) % CATEGORIES]
    logit = liked + 0.7 * (_hashed(author, 5) / 2**15 - 1)
    return {
        task: (rng.random(len(user)) < 1 / (1 + np.exp(-logit - bias))).astype(np.uint8)
        for task, bias in BIASES.items()
    }


def _lists(values: NDArray[Any]) -> pa.ListArray:
    ends = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(ends, values.ravel())


@dataclass(kw_only=True)
class Memory:
    """PSS of a process and all that it has started, looked at each half second; GiB."""

    peak: float = 0.0
    """In all."""
    at_peak: dict[str, float] = field(default_factory=dict)
    """By kind, at that moment."""
    peaks: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    """By kind, each at its own moment."""
    course: list[tuple[float, float, float]] = field(default_factory=list)
    """The time, memory in all, and the CPU seconds of the workers that there are then."""

    def look(self, job: psutil.Process) -> None:
        """One look at the job and its processes: Ray starts all of its own below the one that it is started from."""
        now, cpu_s = dict.fromkeys(KINDS, 0.0), 0.0
        for process in (job, *children(job)):
            kind = "driver" if process == job else "workers" if is_titled(process, TRAIN_WORKER) else "ray"
            private, shared = _pss(process.pid)
            now["object store"] += shared
            now[kind] += private
            cpu_s += _cpu_s(process) if kind == "workers" else 0.0
        total = sum(now.values())
        self.course.append((time.time(), total, cpu_s))
        self.peaks = {kind: max(of, now[kind]) for kind, of in self.peaks.items()}
        if total > self.peak:
            self.peak, self.at_peak = total, now


def children(process: psutil.Process) -> list[psutil.Process]:
    """All below it; none of one that has ended."""
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _cpu_s(process: psutil.Process) -> float:
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.Error:
        return 0.0


def _pss(pid: int) -> tuple[float, float]:
    """GiB of its own and mapped from files, and of shared memory; zeros for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0.0, 0.0
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    shared = kib.get("Pss_Shmem", 0)
    return (kib.get("Pss", 0) - shared) / 2**20, shared / 2**20


@contextmanager
def watched(job: psutil.Process) -> Iterator[Memory]:
    """Looks from a thread until the block ends."""
    memory, done = Memory(), threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            memory.look(job)

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench scale", description=__doc__)
    parser.add_argument("--full", action="store_true", help="10 M impressions, 1 M authors, 5 M users")
    parser.add_argument("--impressions", type=int)
    parser.add_argument("--authors", type=int)
    parser.add_argument("--users", type=int)
    parser.add_argument("--days", type=int, default=4, help="of training; a small test day follows")
    parser.add_argument("--request", type=int, default=4, help="impressions in a row of one user and one history")
    parser.add_argument("--skew", type=float, default=1.0, help="Zipf's exponent of authors")
    parser.add_argument("--user-skew", type=float, default=0.5, help="Zipf's exponent of users")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=1024, help="of all workers together")
    parser.add_argument(
        "--log-every", type=int, default=4, help="steps of a point of the curve; tenths are made of these"
    )
    parser.add_argument("--kill", action="store_true", help="a worker dies after the first checkpoint")
    parser.add_argument("--root", help="folder to keep store, checkpoints and logs in; a store there is used again")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    usual = (10_000_000, 1_000_000, 5_000_000) if args.full else (300_000, 30_000, 150_000)
    given = (args.impressions, args.authors, args.users)
    impressions, authors, users = (mine or its for mine, its in zip(given, usual, strict=True))
    platform = Platform(
        impressions=impressions, authors=authors, users=users, days=args.days, request=args.request, skew=args.skew,
        user_skew=args.user_skew,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(args.root or scratch).absolute()
        store = root / "store"
        started = time.perf_counter()
        if not store.exists():
            platform.write(str(store))
        written_s = time.perf_counter() - started
        size = sum(file.stat().st_size for file in (store / "tables").rglob("*") if file.is_file()) / 2**30
        print(f"store: {impressions} impressions, {authors} authors, {users} users: {written_s:.0f} s, {size:.2f} GiB")
        runs = [_run(root, number, args) for number in args.workers]
    print(table(runs))
    sizes = {"impressions": impressions, "authors": authors, "users": users, "batch_size": args.batch_size}
    print(
        json.dumps({"bench": "scale", **sizes, "write_s": round(written_s), "store_gib": round(size, 2), "runs": runs})
    )
    return int(any(run["exit"] for run in runs))


def _run(root: Path, workers: int, args: argparse.Namespace) -> dict[str, Any]:
    """The job train in a process of its own, over what artifacts an earlier one left."""
    folder = Path(tempfile.mkdtemp(prefix=f"workers-{workers}-", dir=root))
    settings = Settings(
        seed=int(time.time()),  # else what an earlier run has published is current, and nothing is trained
        run_dir=str(folder),
        storage=StorageConfig(root=str(root / "store")),
        cluster=ClusterConfig(num_cpus=workers),
        train=TrainConfig(
            sources=(), epochs=1, batch_size=args.batch_size, log_every=args.log_every,
            scaling=TrainScaling(num_workers=workers),
            checkpoints=str(folder / "checkpoints"),
        ),
    )  # fmt: skip
    config.dump(settings, folder / "job.yaml")
    overrides = [part for given in args.set for part in ("--set", given)]
    command = [sys.executable, "-m", "pipelines", "train", "--config", str(folder / "job.yaml"), *overrides]
    with (folder / "log").open("w") as log:
        started = time.perf_counter()
        job = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        process = psutil.Process(job.pid)
        with watched(process) as memory:
            if args.kill:
                _kill_worker(process, folder / "log")
            code = job.wait()
        seconds = time.perf_counter() - started
    lines = (folder / "log").read_text().splitlines()
    found: dict[str, Any] = {
        "workers": workers,
        "exit": code,
        "seconds": round(seconds),
        "peak_gib": round(memory.peak, 2),
        "at_peak": {kind: round(of, 2) for kind, of in memory.at_peak.items()},
        "peaks": {kind: round(of, 2) for kind, of in memory.peaks.items()},
    }
    (folder / "memory.json").write_text(json.dumps(memory.course))
    if code:
        print("\n".join(lines[-40:]))
        return found
    trained = json.loads((folder / "train.json").read_text())["rankers"]["base"]
    found |= {key: trained[key] for key in ("steps", "examples_per_s", "start_seconds", "failures")}
    found["waiting"] = round(trained["waited_seconds"] / (trained["loop_seconds"] + trained["waited_seconds"]), 4)
    checkpoints = _checkpoints(lines)
    found |= _pace(trained["curve"], args.batch_size, {at: sum(of["s"]) for at, of in checkpoints.items()})
    found["tenths_of_cpu"] = [] if args.kill else _by_cpu(memory.course, lines, trained["steps"], args.batch_size)
    found["checkpoints"] = list(checkpoints.values())
    print(json.dumps(found), flush=True)
    return found


def _kill_worker(job: psutil.Process, log: Path) -> None:
    """After the first checkpoint, when Ray Train has heard of it."""
    while job.status() != psutil.STATUS_ZOMBIE and not _CHECKPOINT.search(log.read_text()):
        time.sleep(0.5)
    time.sleep(10.0)
    kill(*[child for child in children(job) if is_titled(child, TRAIN_WORKER)][:1])


def _checkpoints(lines: list[str]) -> dict[int, dict[str, Any]]:
    """By step, the size of a checkpoint and the seconds to settle, save and keep it."""
    found, step = {}, 0
    for line in lines:
        if match := _STEP.search(line):
            step = int(match[1])
        if match := _CHECKPOINT.search(line):
            gib, *seconds = map(float, match.groups())
            found[step] = {"gib": gib, "s": seconds}
    return found


def _pace(curve: list[dict[str, float]], batch_size: int, saving: dict[int, float]) -> dict[str, Any]:
    """Examples a second in each tenth of the run, with and without the seconds of its checkpoints; and the losses."""
    steps = np.diff([0, *(of["step"] for of in curve)])
    seconds = steps * batch_size / np.array([of["examples_per_s"] for of in curve])
    # A checkpoint falls between the line of its step and the next one.
    learning = seconds - [0, *(saving.get(int(of["step"]), 0) for of in curve[:-1])]
    tenth = np.minimum(9, 10 * (np.cumsum(steps) - steps) // steps.sum())
    examples, whole, own = (np.bincount(tenth, of, 10) for of in (steps * batch_size, seconds, learning))
    losses = np.bincount(tenth, steps * [of["main_loss"] for of in curve], 10) * batch_size / examples
    return {
        "tenths": np.round(examples / own).tolist(),
        "tenths_with_checkpoints": np.round(examples / whole).tolist(),
        "last_to_first": round(float(examples[9] / own[9] / (examples[0] / own[0])), 3),
        "losses": np.round(losses[[0, 9]], 4).tolist(),
    }


def _by_cpu(course: list[tuple[float, float, float]], lines: list[str], steps: int, batch_size: int) -> list[float]:
    """Examples for a CPU second of all workers in each tenth of the run, of which other work on the machine takes none.

    To half a second, as lines and looks come.
    """
    logged = [(_DATE.match(line), _STEP.search(line)) for line in lines]
    ends = [(int(at[1]), datetime.fromisoformat(when[1]).timestamp()) for when, at in logged if when and at]
    times = np.interp(steps * np.arange(11) / 10, [step for step, _ in ends], [when for _, when in ends])
    cpu_s = np.interp(times, [when for when, _, _ in course], [spent for _, _, spent in course])
    rates: list[float] = np.round(steps * batch_size / 10 / np.maximum(np.diff(cpu_s), 1e-9)).tolist()
    return rates


def table(runs: list[dict[str, Any]]) -> str:
    """Memory, then speed, a line for each run."""
    done = [run for run in runs if not run["exit"]]
    lines = ["", f"{'workers':<9}{'peak GiB':>9}" + "".join(f"{kind:>14}" for kind in KINDS) + "  (at the peak)"]
    for run in done:
        parts = "".join(f"{run['at_peak'][kind]:>14.2f}" for kind in KINDS)
        lines.append(f"{run['workers']:<9}{run['peak_gib']:>9.2f}{parts}")
    lines += ["", f"{'workers':<9}{'examples/s':>11}{'waiting':>9}{'last/first':>12}  examples/s of each tenth"]
    for run in done:
        tenths = "".join(f"{rate:>7.0f}" for rate in run["tenths"])
        waiting = f"{100 * run['waiting']:.1f} %"
        lines.append(
            f"{run['workers']:<9}{run['examples_per_s']:>11.0f}{waiting:>9}{run['last_to_first']:>12.3f}{tenths}"
        )
    lines += ["", f"{'workers':<9}examples for a CPU second of the workers, in each tenth"]
    lines += [f"{run['workers']:<9}" + "".join(f"{rate:>7.0f}" for rate in run["tenths_of_cpu"]) for run in done]
    lines += ["", f"{'workers':<9}{'seconds':>8}{'losses':>16}  checkpoints: GiB, and seconds to settle, save, keep"]
    for run in done:
        saved = "; ".join(f"{of['gib']:.2f}, {' '.join(map(str, of['s']))}" for of in run["checkpoints"])
        first, last = run["losses"]
        lines.append(f"{run['workers']:<9}{run['seconds']:>8}{f'{first:.4f} {last:.4f}':>16}  {saved}")
    return "\n".join(lines)
