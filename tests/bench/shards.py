"""A step of Base on two workers, and the memory of each, by where id tables are: whole in both, or spread over them.

One sixth of the ids are authors, drawn as `tests.bench ids` draws them. Each variant has new processes in each round,
and variants take turns. Memory is the most that a worker has had since its imports, when every row was settled once.
"""

import argparse
import json
import multiprocessing
import resource
import socket
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist

from models.catalog import CatalogSizes
from models.composed import ComposedRanker
from models.optimizer import RankerOptimizer
from models.ranker import RankerConfig
from models.shard import spread
from models.training import TrainingRanker
from pipelines.ranking.plan import ID_TABLES, TrainConfig
from pipelines.ranking.shards import Shards
from pipelines.ranking.worker import Exchange, Worker, joined
from pipelines.runtime.freed_memory import keep_freed_memory
from tests.bench.ids import Ids

BATCHES, WINDOW, TOGETHER = 64, 4, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is measured."""

    ids: Ids
    batch_size: int
    """Of all workers together."""
    steps: int
    workers: int
    shares_memory: bool
    """Whether they exchange gradients by shared memory, where they are not told to go by gloo."""
    port: int


class Run:
    """Base in training over random batches, as one of several workers."""

    def __init__(self, asked: Asked, worker: Worker) -> None:
        ids, config = asked.ids, TrainConfig()
        torch.manual_seed(0)
        sizes = CatalogSizes(
            num_users=ids.users, num_authors=ids.authors, profile_cardinalities=(6,) * 4, num_categories=12
        )
        with spread(worker.shard):
            model = ComposedRanker(RankerConfig(), sizes)
        self.step = TrainingRanker(model).train()
        rates = {name: getattr(config, name) for name in ("lr_ids", "lr_encoder", "lr_dense", "l2_ids")}
        self.optimizer = RankerOptimizer(self.step, **rates)
        self.exchange, self.shards = Exchange(self.step, worker), Shards(model, self.optimizer, worker)
        size = asked.batch_size // worker.world_size
        self.done = 0
        self.batches = [ids.batch(size, seed * worker.world_size + worker.rank) for seed in range(BATCHES)]

    def train(self, steps: int) -> None:
        """Windows of steps, as the loop makes them."""
        for _ in range(0, steps, WINDOW):
            window = [self.batches[(self.done + index) % BATCHES] for index in range(WINDOW)]
            self.done += WINDOW
            self.shards.open(window, [])
            for batch in window:
                self.optimizer.zero_grad()
                self.shards.next()
                self.step(batch, {}, {}).loss.backward()
                self.exchange()
                self.shards.give_back(is_last=batch is window[-1])
                self.optimizer.step()


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench shards", description=__doc__)
    parser.add_argument("--ids", type=int, nargs="+", default=[500_000, 5_000_000])
    parser.add_argument("--batch-size", type=int, default=1024, help="of all workers together")
    parser.add_argument("--skew", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant")
    parser.add_argument("--steps", type=int, default=256, help="steps of a turn")
    parser.add_argument("--gloo", action="store_true", help="gradients by gloo too, not by shared memory")
    args = parser.parse_args(argv)
    figures: dict[str, Any] = {"bench": "shards", **{name: of for name, of in vars(args).items() if name != "ids"}}
    figures["variants"] = {}
    for number in args.ids:
        ids = Ids(users=number - number // 6, authors=number // 6, skew=args.skew)
        found: dict[str, list[dict[str, Any]]] = {how: [] for how in ID_TABLES}
        for _ in range(args.rounds):
            for how in ID_TABLES:
                asked = Asked(
                    ids=ids,
                    batch_size=args.batch_size,
                    steps=args.steps,
                    workers=args.workers,
                    shares_memory=not args.gloo,
                    port=_free_port(),
                )
                found[how].append(turn(asked, how))
        for how, turns in found.items():
            medians = {name: round(float(np.median([of[name] for of in turns])), 3) for name in ("cpu_ms", "gib")}
            times = np.concatenate([of["ms"] for of in turns])
            low, middle, high = (round(float(q), 2) for q in np.percentile(times, (25, 50, 75)))
            figures["variants"][f"{number}_{how}"] = {"ms": middle, "quartiles": [low, high], **medians}
    print(f"{'ids and how':<22}{'ms / step':>11}{'quartiles':>18}{'CPU ms':>9}{'GiB a worker':>14}")
    for name, of in figures["variants"].items():
        low, high = of["quartiles"]
        print(f"{name:<22}{of['ms']:>11.2f}{f'{low} to {high}':>18}{of['cpu_ms']:>9.2f}{of['gib']:>14.3f}")
    print(json.dumps(figures))
    return 0


def turn(asked: Asked, how: str) -> dict[str, Any]:
    """Milliseconds of a step, in each of some stretches of steps, CPU milliseconds and GiB, of the first worker."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    workers = [context.Process(target=_work, args=(asked, how, rank, answers)) for rank in range(asked.workers)]
    for worker in workers:
        worker.start()
    found: dict[str, Any] = answers.get()
    for worker in workers:
        worker.join()
    return found


def _work(asked: Asked, how: str, rank: int, answers: Any) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{asked.port}", rank=rank, world_size=asked.workers)
    worker = Worker(rank=rank, world_size=asked.workers, shards_ids=how == "sharded")
    with joined(worker, lambda line: None) if asked.shares_memory else nullcontext(worker) as worker:
        found = measured(asked, worker)
        if rank == 0:
            answers.put(found)
        dist.barrier()
    dist.destroy_process_group()


def measured(asked: Asked, worker: Worker) -> dict[str, Any]:
    """What `turn` gives, of this worker."""
    before = psutil.Process().memory_info().rss
    run = Run(asked, worker)
    run.train(BATCHES)
    run.optimizer.settle()
    run.train(BATCHES)
    dist.barrier()
    cpu_started, clock = time.process_time(), [time.perf_counter()]
    for _ in range(0, asked.steps, TOGETHER):
        run.train(TOGETHER)
        clock.append(time.perf_counter())
    cpu_seconds = time.process_time() - cpu_started
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = (1e3 * np.diff(clock) / TOGETHER).tolist()
    return {"ms": times, "cpu_ms": 1e3 * cpu_seconds / asked.steps, "gib": (most - before) / 2**30}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
