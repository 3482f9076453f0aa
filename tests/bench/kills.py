"""What a SIGKILL at a random step of `train` costs, by what it hits, and whether the same ranker comes out.

A cluster of a head without CPUs and two worker nodes on this machine; both training workers fit on one node. Each run
trains SARM on the tiny platform of the tests, log line by log line, and is compared with a run that nothing hits. Where
the driver is killed, the same command is started once more.
"""

import argparse
import json
import random
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil

from pipelines.settings import Settings
from tests.pipelines.conftest import last_checkpoint, tiny_settings, write_tiny_store
from tests.pipelines.curves import curves
from tests.pipelines.machines import PROGRESS, TRAIN_CONTROLLER, TRAIN_WORKER, Machines, kill, machines

KINDS = ("node", "raylet", "progress", "worker", "controller", "driver")
"""A node's processes at once; its raylet alone; the actor that carries lines; a training worker; Ray Train's own; the
process of the job."""
ORPHANS_AFTER_S = 30.0
_HEAD = "killed      at step  exit  failures  redone  same bits  doubled  orphans     s"
_STEP = re.compile(r"step (\d+)/(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A run that came to its end."""

    exit: int
    seconds: float
    steps: list[int]
    """Numbers of the steps in its log, in the order of its lines."""
    failures: int
    orphans: int
    """Processes of the nodes and workers that were killed, or left alone by a kill, still there after 30 s."""
    files: dict[str, bytes]
    """Weights and banks of its last checkpoint."""
    doubled: int
    """Steps that stand twice in its curves."""

    @property
    def redone(self) -> int:
        """Steps done twice."""
        return sum(max(0, one - two + 1) for one, two in zip(self.steps, self.steps[1:], strict=False))


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 1 where a run failed, differs, or left a process behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench kills", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="kills of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the random steps")
    args = parser.parse_args(argv)
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch, machines(2) as cluster:
        root = Path(scratch)
        write_tiny_store(root / "store")
        whole = run(cluster, root)
        total = max(whole.steps)
        print(f"nothing killed: exit {whole.exit}, {total} steps, {whole.seconds:.0f} s", flush=True)
        print(_HEAD, flush=True)
        rows = []
        for kind in args.kinds:
            for _ in range(args.runs):
                at = draw.randrange(1, total)
                ended = run(cluster, root, kind, at)
                same = bool(ended.files) and ended.files == whole.files
                rows.append({"killed": kind, "step": at, "same_bits": same, **figures(ended)})
                print(
                    f"{kind:<11}{at:>8}{ended.exit:>6}{ended.failures:>10}{ended.redone:>8}{same!s:>11}"
                    f"{ended.doubled:>9}{ended.orphans:>9}{ended.seconds:>6.0f}",
                    flush=True,
                )
    print(json.dumps({"bench": "kills", "steps": total, "seconds": round(whole.seconds, 1), "runs": rows}))
    return int(any(row["exit"] or row["orphans"] or row["doubled"] or not row["same_bits"] for row in rows))


def figures(ended: Ended) -> dict[str, Any]:
    """Of one run."""
    return {
        "exit": ended.exit,
        "failures": ended.failures,
        "steps_redone": ended.redone,
        "doubled": ended.doubled,
        "orphans": ended.orphans,
        "seconds": round(ended.seconds, 1),
    }


def run(cluster: Machines, root: Path, kind: str | None = None, at: int = 0) -> Ended:
    """One training; `kind` dies when the line of step `at` is logged."""
    settings = _settings(root)
    started = time.monotonic()
    steps, hit, hit_at, log, is_over = [], [], 0.0, [], False
    while not is_over:
        with cluster.start("train", settings) as job:
            is_over = True
            for line in job.stderr or ():
                log.append(line)
                if found := _STEP.search(line):
                    steps.append(int(found[1]))
                    if kind is not None and not hit and steps[-1] >= at:
                        hit, hit_at = _hit(cluster, kind, job), time.monotonic()
                        is_over = kind != "driver"
    code = job.returncode
    seconds = time.monotonic() - started
    if code:
        print("".join(log[-40:]), flush=True)
    time.sleep(max(0.0, hit_at + ORPHANS_AFTER_S - time.monotonic()) if hit else 0.0)
    orphans = [f"{process.pid} {process.status()} {process.cmdline()}" for process in hit if _lives(process)]
    print("".join(f"still there: {orphan}\n" for orphan in orphans), end="", flush=True)
    if kind in ("node", "raylet"):
        cluster.add_worker()
    ended = Ended(
        exit=code,
        seconds=seconds,
        steps=steps,
        failures=sum(" | failure " in line for line in log),
        orphans=len(orphans),
        files=_tensors(last_checkpoint(Path(settings.run_dir))),
        doubled=_doubled(Path(settings.run_dir) / "tensorboard"),
    )
    shutil.rmtree(settings.run_dir)
    return ended


def _settings(root: Path) -> Settings:
    """A private copy of the store, and training in many small steps."""
    here = Path(tempfile.mkdtemp(dir=root))
    shutil.copytree(root / "store", here, dirs_exist_ok=True)
    settings = tiny_settings(here)
    train = replace(
        settings.train, base=False, batch_size=16, epochs=4, log_every=1, checkpoints=str(here / "checkpoints")
    )
    return replace(settings, run_dir=str(here), train=train)


def _hit(cluster: Machines, kind: str, job: "Popen[str]") -> list[psutil.Process]:
    """Kills; returns the processes that should be gone soon."""
    workers = cluster.processes(TRAIN_WORKER)
    if kind == "driver":
        gone = [*workers, *cluster.processes(TRAIN_CONTROLLER), *cluster.processes(PROGRESS)]
        job.kill()
        return gone
    if kind == "progress":
        victims = gone = cluster.processes(PROGRESS)
    elif kind == "controller":
        victims = gone = cluster.processes(TRAIN_CONTROLLER)
    elif kind == "worker":
        victims, gone = [random.choice(workers)], workers
    else:
        raylet = cluster.raylet_of(workers[0])
        gone = [raylet, *raylet.children(recursive=True), *workers]
        victims = gone if kind == "node" else [raylet]
    kill(*victims)
    return gone


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _doubled(below: Path) -> int:
    """Of the one run in a folder of event files."""
    (run,) = below.iterdir()
    steps = [step for step, _ in curves(run)["loss/main"]]
    return len(steps) - len(set(steps))


def _tensors(checkpoint: Path | None) -> dict[str, bytes]:
    return {} if checkpoint is None else {file.name: file.read_bytes() for file in checkpoint.glob("*.safetensors")}
