"""Milliseconds of a training step without Ray: one worker, and two that tell each other of steps by either channel.

Two workers take turns of some steps by shared memory and by torch.distributed, which end with the same bits, so that
other work on the machine meets both alike. Makes the world of `--config` first, unless `--root` names a store.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from pipelines.ranking import loop
from pipelines.ranking.fit import train as fit
from pipelines.ranking.plan import make_plan
from pipelines.ranking.worker import Exchange, Worker, joined
from pipelines.runtime.cluster import connected
from pipelines.runtime.freed_memory import keep_freed_memory
from pipelines.samples import examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings, read_settings
from pipelines.tables.artifacts import Artifacts
from pipelines.world import world
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/table1.yaml"
TURN, WARM = 16, 32
"""Steps of a turn, and steps at the start that do not count."""
FIGURES = ("step_ms", "exchange_ms", "step_cpu_ms", "exchange_cpu_ms")


class Timed:
    """An `Exchange` that takes turns between channels, and notes what each step took."""

    steps: dict[str, list[tuple[float, ...]]] = defaultdict(list)

    def __init__(self, module: nn.Module, worker: Worker) -> None:
        ways = {"memory": worker, "distributed": replace(worker, memory=None)} if worker.memory else {"alone": worker}
        self._ways = [(name, Exchange(module, of)) for name, of in ways.items()]
        self._done, self._last = 0, _clocks()

    def __call__(self) -> None:
        """One step."""
        name, exchange = self._ways[self._done // TURN % len(self._ways)]
        began = _clocks()
        exchange()
        ended = _clocks()
        if self._done >= WARM:
            whole, own = ended - self._last, ended - began
            self.steps[name].append((whole[0], own[0], whole[1], own[1]))
        self._done, self._last = self._done + 1, ended

    def newest(self, days: Tensor) -> Tensor:
        """As `Exchange.newest`."""
        return self._ways[0][1].newest(days)


def _clocks() -> np.ndarray[Any, np.dtype[np.float64]]:
    return 1e3 * np.array([time.perf_counter(), time.thread_time()])


def _work(rank: int, workers: int, settings: Settings, folder: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=workers)
    loop.Exchange = Timed  # type: ignore[assignment, misc]
    run = settings.open()
    plan, made_from = make_plan(settings.train, run, Artifacts(run.storage), settings.train.sources)
    with joined(Worker(rank=rank, world_size=workers), lambda _: None) as worker:
        fit(
            plan, run.storage, made_from,
            work=Path(folder), worker=worker, report=lambda *_: None, log_line=lambda _: None,
        )  # fmt: skip
    if rank == 0:
        Path(f"{folder}/steps.json").write_text(json.dumps(Timed.steps))
    dist.destroy_process_group()


def measured(settings: Settings, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over all steps, by channel."""
    steps: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(rounds):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(_work, args=(workers, settings, folder), nprocs=workers)  # type: ignore[attr-defined, no-untyped-call]
                for name, of in json.loads(Path(f"{folder}/steps.json").read_text()).items():
                    steps[name] += of
    return {
        name: {figure: round(float(value), 2) for figure, value in zip(FIGURES, np.median(of, axis=0), strict=True)}
        for name, of in steps.items()
    }


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench exchange", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--root", help="a store that stands already; artifacts are added to it")
    parser.add_argument("--batch-size", type=int, default=1024, help="of all workers together")
    parser.add_argument("--rounds", type=int, default=2, help="epochs of one worker, and of two")
    parser.add_argument("--sources", nargs="+", default=["base", "sarm"], choices=["base", "sarm"])
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        settings = read_settings(args.config, args.set)
        root = args.root or f"{scratch}/store"
        settings = replace(settings, run_dir=f"{scratch}/run", storage=replace(settings.storage, root=root))
        if args.root is None:
            with connected(settings.cluster):
                for job in (world, vocabulary, examples):
                    run_job(job, settings)
        for name in args.sources:
            sources = () if name == "base" else (name,)
            chosen = replace(settings.train, sources=sources, base=False, batch_size=args.batch_size, epochs=1)
            found[name] = measured(replace(settings, train=chosen), args.rounds)
    print(f"{'ranker':<8}{'channel':<14}{'step ms':>9}{'exchange':>10}{'step CPU':>10}{'exchange':>10}{'of alone':>10}")
    for name, ways in found.items():
        for way, of in ways.items():
            of["of_alone"] = round(ways["alone"]["step_ms"] / of["step_ms"], 3)
            print(
                f"{name:<8}{way:<14}{of['step_ms']:>9.2f}{of['exchange_ms']:>10.2f}{of['step_cpu_ms']:>10.2f}"
                f"{of['exchange_cpu_ms']:>10.2f}{of['of_alone']:>10.2f}"
            )
    load = os.getloadavg()
    print(json.dumps({"bench": "exchange", "batch_size": args.batch_size, "load": load, "rankers": found}))
    return 0
