"""SIGKILLs at random moments of `anchors`, `train` and `publish`: what is lost, what is done twice, what stays behind.

A cluster of a head without CPUs and two worker nodes on this machine, the real engine on the shipped student. A job
that a kill ends is started once more with the same command. Before that, what was published earlier must be whole.
"""

import argparse
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from pipelines.ranking import publish, published
from pipelines.settings import Settings
from pipelines.tables import rejections
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage
from pipelines.world import world
from tests.pipelines.conftest import tiny_settings, train_here, write_tiny_store
from tests.pipelines.jobs import run_job
from tests.pipelines.machines import TRAIN_WORKER, Machines, kill, machines

ENGINE, ENGINE_WORKER, TASK = "VLLM::", "ray::MapWorker", "ray::pipelines."
KILLED: Mapping[str, Mapping[str, str]] = {
    "anchors": {"driver": "", "engine": ENGINE, "worker": ENGINE_WORKER, "node": ENGINE_WORKER},
    "train": {"driver": "", "worker": TRAIN_WORKER, "node": TRAIN_WORKER},
    "publish": {"driver": "", "worker": TASK, "node": TASK},
}
"""By job and kind, the title of the process that is killed, or on whose node all processes are."""
_ORPHANS_AFTER_S, _PATIENCE_S = 30.0, 90.0
_ANCHORS, _TO_DO, _STEP = (re.compile(p) for p in (r"anchors \| (\d+)/", r"\| (\d+) of \d+ to do", r"step (\d+)/"))
_LINE = re.compile(r"^.*(?:INFO|\| step \d+/).*\n", re.M)
_HEAD = f"{'job':<9}{'killed':<8}{'at s':>6}{'runs':>6}  {'keys':<10}{'whole':<7}{'same':<6}{'orphans':>7}  done twice"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What came of one kill."""

    at_s: float
    """Seconds after the start of the job; None of it was killed where this is 0."""
    codes: list[int]
    logs: list[str]
    orphans: int
    is_whole: bool
    """Right after the kill, and at the end: what was published earlier can be read back."""


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 1 where anything was lost, doubled, damaged or left running."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="in all, spread evenly over jobs and kinds")
    parser.add_argument("--jobs", nargs="+", choices=KILLED, default=list(KILLED), help="which jobs")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    args = parser.parse_args(argv)
    draw, rows = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as scratch, machines(2, {"RAY_health_check_period_ms": "1000"}) as cluster:
        bases = _prepare(Path(scratch))
        seconds, wanted = {}, {}
        for job, base in ((job, bases[job]) for job in args.jobs):
            settings, started = _copy(base), time.monotonic()
            ended = run(cluster, job, settings, None, 0)
            seconds[job], wanted[job] = time.monotonic() - started - _ORPHANS_AFTER_S, _published(job, settings)
            print(f"{job}: nothing killed, exit {ended.codes[0]}, {seconds[job]:.0f} s", flush=True)
        print(_HEAD, flush=True)
        combinations = [(job, kind) for job in args.jobs for kind in KILLED[job]]
        for number in range(args.kills):
            job, kind = combinations[number % len(combinations)]
            settings = _copy(bases[job])
            ended = run(cluster, job, settings, kind, draw.uniform(0.0, 0.9 * seconds[job]))
            row = _row(job, kind, ended, settings, wanted[job])
            rows.append(row)
            print(
                f"{job:<9}{kind:<8}{row['at_s']:>6}{row['runs']:>6}  {row['keys']:<10}{row['whole']!s:<7}"
                f"{row['same']!s:<6}{row['orphans']:>7}  {row['done_twice']}",
                flush=True,
            )
            if not _is_right(row) or (row["runs"] > 1 and kind != "driver"):
                print(_LINE.sub("", ended.logs[0])[-3000:], flush=True)
            shutil.rmtree(settings.run_dir)
    print(json.dumps({"bench": "faults", "seconds": {k: round(v, 1) for k, v in seconds.items()}, "kills": rows}))
    return int(not all(map(_is_right, rows)))


def run(cluster: Machines, job: str, settings: Settings, kind: str | None, after_s: float) -> Ended:
    """The job, killed once, and once more where that ended it."""
    codes, logs, at_s, whole = [], [], 0.0, True
    for attempt in (1, 2):
        started, log = time.monotonic(), Path(settings.run_dir) / f"log{attempt}"
        with log.open("w") as sink, cluster.start(job, settings, stderr=sink) as process:
            if attempt == 1 and kind is not None:
                _sleep(after_s, process)
                at_s = _kill(cluster, process, KILLED[job][kind], kind, started)
                whole = _is_whole(job, settings)
        codes.append(process.returncode)
        logs.append(log.read_text())
        if not process.returncode:
            break
    time.sleep(_ORPHANS_AFTER_S)
    left = [process for title in (ENGINE, ENGINE_WORKER, TRAIN_WORKER, TASK) for process in cluster.processes(title)]
    if kind == "node" and at_s:
        cluster.add_worker()
    whole = whole and _is_whole(job, settings)
    return Ended(at_s=round(at_s, 1), codes=codes, logs=logs, orphans=len(left), is_whole=whole)


def _prepare(root: Path) -> dict[str, Settings]:
    """By job, a store in which it has work to do, and in which something was published before."""
    anchors = _at(root / "anchors")
    few = replace(anchors.world, num_days=2, num_authors=400, impressions=False)
    run_job(world, replace(anchors, world=few))
    train = _at(root / "train")
    write_tiny_store(root / "train")
    train_here(train)
    run_job(publish, train)
    shutil.copytree(root / "train", root / "publish")
    train_here(_more(_at(root / "publish")), 2)
    return {"anchors": anchors, "train": _more(train), "publish": _more(_at(root / "publish"))}


def _at(root: Path) -> Settings:
    return replace(tiny_settings(root), run_dir=str(root))


def _more(settings: Settings) -> Settings:
    """Another training than the one that was published, in many small steps."""
    checkpoints = str(Path(settings.run_dir) / "checkpoints")
    train = replace(settings.train, base=False, batch_size=16, epochs=4, log_every=1, checkpoints=checkpoints)
    return replace(settings, train=train)


def _copy(base: Settings) -> Settings:
    """The same over a private copy of the store."""
    here = Path(tempfile.mkdtemp(dir=Path(base.run_dir).parent))
    shutil.copytree(base.run_dir, here, dirs_exist_ok=True)
    moved = replace(_at(here), world=base.world)
    return _more(moved) if base.train.checkpoints else moved


def _sleep(seconds: float, job: psutil.Popen) -> None:
    """Shorter where the job ends before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and job.poll() is None:
        time.sleep(0.05)


def _kill(cluster: Machines, job: psutil.Popen, title: str, kind: str, started: float) -> float:
    """Kills, as soon as there is something to kill. Returns the seconds since `started`; 0 for a job that ended."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until and job.poll() is None:
        if not title:
            job.kill()
            return time.monotonic() - started
        if found := cluster.processes(title):
            victims = found[:1]
            if kind == "node":
                raylet = cluster.raylet_of(found[0])
                victims = [raylet, *raylet.children(recursive=True)]
            at_s = time.monotonic() - started
            kill(*victims)
            return at_s
        time.sleep(0.05)
    return 0.0


def _is_whole(job: str, settings: Settings) -> bool:
    """Every day of a table and every CURRENT version that is there can be read, and agrees with its checksums."""
    storage = Storage.open(settings.storage.root)
    if job == "anchors":
        return all(storage.read("anchors", day).num_rows for day in storage.days("segments"))
    artifacts = Artifacts(storage)
    return all(bool(artifacts.verified(kind)) for kind in artifacts.kinds())


def _published(job: str, settings: Settings) -> dict[str, Any]:
    """What the job makes, to be compared: rows of anchors by day, or bytes of a version's tensors."""
    storage = Storage.open(settings.storage.root)
    if job == "anchors":
        days = storage.days("segments")
        return {day: storage.read("anchors", day).sort_by("author_id").to_pylist() for day in days}
    artifacts = Artifacts(storage)
    kind = "bank" if job == "publish" else next(filter(published.is_ranker, artifacts.kinds()))
    folder = artifacts.fetch(kind)
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".safetensors", ".npy")}


def _row(job: str, kind: str, ended: Ended, settings: Settings, wanted: dict[str, Any]) -> dict[str, Any]:
    keys = "-"
    if job == "anchors":
        storage, lost, double = Storage.open(settings.storage.root), 0, 0
        for day in storage.days("segments"):
            there = set(storage.read("segments", day, ["author_id"])["author_id"].to_pylist())
            out = storage.read("anchors", day)["author_id"].to_pylist()
            out += [int(key) for key in rejections.of_stage(storage, day, "anchors")["key"].to_pylist()]
            lost, double = lost + len(there ^ set(out)), double + len(out) - len(set(out))
        keys = "ok" if not lost and not double else f"-{lost} +{double}"
    return {
        "job": job,
        "killed": kind,
        "at_s": ended.at_s,
        "runs": len(ended.codes),
        "exit": ended.codes[-1],
        "keys": keys,
        "whole": ended.is_whole,
        "same": _published(job, settings) == wanted,
        "orphans": ended.orphans,
        "done_twice": _done_twice(job, ended),
    }


def _done_twice(job: str, ended: Ended) -> str:
    first, second = ended.logs[0], ended.logs[-1]
    if job == "train":
        steps = [int(found) for log in ended.logs for found in _STEP.findall(log)]
        return f"{sum(max(0, one - two + 1) for one, two in zip(steps, steps[1:], strict=False))} steps"
    if job == "publish":
        return "all"
    if len(ended.logs) == 1:
        return "rows in flight"
    answered, to_do = [0, *map(int, _ANCHORS.findall(first))][-1], [*map(int, _TO_DO.findall(first + second)), 0, 0]
    return f"{answered - (to_do[0] - to_do[1])} of {answered} answers" if to_do[1] else f"nothing of {answered} answers"


def _is_right(row: Mapping[str, Any]) -> bool:
    return not row["exit"] and row["keys"] in ("ok", "-") and row["whole"] and row["same"] and not row["orphans"]
