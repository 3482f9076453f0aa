"""Milliseconds of a training step without Ray: one worker, and two that tell each other of steps in either way.

Two workers take turns of some steps by shared memory and by torch.distributed, which end with the same bits, so that
other work on the machine meets both alike. Makes the world of `--config` first, unless `--root` names a store.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from numpy.typing import NDArray
from torch import Tensor

from models.group import Group, Rows
from models.optimizer import RankerOptimizer
from pipelines.ranking.fit import train as fit
from pipelines.ranking.plan import make_plan
from pipelines.ranking.worker import Worker, joined
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
FIGURES = ("step_ms", "swap_ms", "step_cpu_ms", "swap_cpu_ms")


class Turns:
    """A group that takes turns between ways to swap, and notes what each step took."""

    def __init__(self, ways: Mapping[str, Group]) -> None:
        self.rank, self.world_size = (getattr(next(iter(ways.values())), name) for name in ("rank", "world_size"))
        self.steps: dict[str, list[list[float]]] = {name: [] for name in ways}
        self._ways, self._names, self._done = ways, list(ways), 0
        self._swaps, self._last = np.zeros(2), _clocks()

    @property
    def _name(self) -> str:
        return self._names[self._done // TURN % len(self._names)]

    def swap(self, dense: Sequence[Tensor], ragged: Sequence[Rows]) -> tuple[Tensor, list[Rows]]:
        """As `Group.swap`."""
        began = _clocks()
        found = self._ways[self._name].swap(dense, ragged)
        self._swaps += _clocks() - began
        return found

    def end_step(self) -> None:
        """Notes the step."""
        now = _clocks()
        if self._done >= WARM:
            self.steps[self._name].append(np.stack([now - self._last, self._swaps]).T.flatten().tolist())
        self._done, self._swaps, self._last = self._done + 1, np.zeros(2), now


def _clocks() -> NDArray[np.float64]:
    """Milliseconds, of the clock and of the CPU."""
    return 1e3 * np.array([time.perf_counter(), time.thread_time()])


def _work(rank: int, workers: int, settings: Settings, folder: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=workers)
    run = settings.open()
    plan, made_from = make_plan(settings.train, run, Artifacts(run.storage), settings.train.sources)
    with joined(Worker(rank=rank, world_size=workers), lambda _: None) as worker:
        others = {} if worker.memory is None else {"distributed": replace(worker, memory=None).group}
        turns = Turns({"alone" if worker.memory is None else "memory": worker.group, **others})
        step = RankerOptimizer.step

        def noted(optimizer: RankerOptimizer) -> None:
            step(optimizer)
            turns.end_step()

        RankerOptimizer.step = noted  # type: ignore[assignment, method-assign]
        fit(
            plan, run.storage, made_from,
            work=Path(folder), worker=replace(worker, memory=turns), report=lambda *_: None, log_line=lambda _: None,
        )  # fmt: skip
    if rank == 0:
        Path(f"{folder}/steps.json").write_text(json.dumps(turns.steps))
    dist.barrier()
    dist.destroy_process_group()


def measured(settings: Settings, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over all windows of steps, by how workers swap."""
    steps: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(rounds):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(_work, args=(workers, settings, folder), nprocs=workers)  # type: ignore[attr-defined, no-untyped-call]
                for name, of in json.loads(Path(f"{folder}/steps.json").read_text()).items():
                    steps[name] += of
    return {name: _typical(np.array(of), settings.train.encode_window) for name, of in steps.items()}


def _typical(steps: NDArray[np.float64], window: int) -> dict[str, float]:
    """Of windows, because the last step of each does more than the others."""
    windows = steps[: len(steps) // window * window].reshape(-1, window, len(FIGURES)).mean(axis=1)
    return {figure: round(float(value), 2) for figure, value in zip(FIGURES, np.median(windows, axis=0), strict=True)}


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
    head = ("step ms", "of swaps", "CPU ms", "of swaps", "speed", "by CPU")
    print(f"{'ranker':<8}{'way':<14}{''.join(f'{column:>10}' for column in head)}")
    for name, ways in found.items():
        for way, of in ways.items():
            of["speed"], of["cpu_speed"] = (
                round(ways["alone"][key] / of[key], 3) for key in ("step_ms", "step_cpu_ms")
            )
            print(f"{name:<8}{way:<14}{''.join(f'{figure:>10.2f}' for figure in of.values())}")
    load = os.getloadavg()
    print(json.dumps({"bench": "exchange", "batch_size": args.batch_size, "load": load, "rankers": found}))
    return 0
