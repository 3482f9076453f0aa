"""Milliseconds of a training step of Base by the number of ids, whole tables against rows alone, on one thread.

One sixth of the ids are authors. Users and authors of a batch are drawn as a platform shows them, few often and most
seldom (Zipf, exponent --skew; 0 draws all alike, the worst case for caches). Variants take turns of some steps.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from models import embeddings
from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.composed import ComposedRanker
from models.optimizer import RankerOptimizer
from models.ranker import RankerConfig
from models.training import TrainingRanker
from pipelines.ranking.plan import TrainConfig
from pipelines.runtime.freed_memory import keep_freed_memory

HISTORY, BATCHES = 20, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Ids:
    """How many there are, and how they are drawn."""

    users: int
    authors: int
    skew: float

    def draw(self, count: int, size: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
        """Rows 1 to count; the rank of a row says nothing of its place in the table."""
        if not self.skew:
            return torch.from_numpy(rng.integers(1, count + 1, size))
        exponent = 1 - self.skew if self.skew != 1 else 1e-9
        rank = ((rng.random(size) * (count**exponent - 1) + 1) ** (1 / exponent)).astype(np.int64)
        place: NDArray[np.int64] = (rank * 2_654_435_761) % count + 1
        return torch.from_numpy(place)

    def batch(self, size: int, seed: int) -> RankingBatch:
        """Random rows."""
        rng = np.random.default_rng(seed)
        history = self.draw(self.authors, (size, HISTORY), rng)
        seconds = torch.from_numpy(rng.random((2, size, HISTORY), dtype=np.float32))
        return RankingBatch(
            user=self.draw(self.users, (size,), rng),
            user_profile=torch.from_numpy(rng.integers(0, 6, (size, 4))),
            author=self.draw(self.authors, (size,), rng),
            author_category=torch.from_numpy(rng.integers(0, 12, size)),
            hour=torch.from_numpy(rng.integers(0, 24, size)),
            history=history,
            history_mask=torch.ones_like(history, dtype=torch.bool),
            history_age_s=seconds[0] * 1e5,
            history_watch_s=seconds[1] * 1e2,
            labels=torch.from_numpy((rng.random((size, 4)) < 0.2).astype(np.float32)),
        )


class Run:
    """Base in training over random batches."""

    def __init__(self, ids: Ids, batch_size: int, config: TrainConfig) -> None:
        torch.manual_seed(0)
        sizes = CatalogSizes(
            num_users=ids.users, num_authors=ids.authors, profile_cardinalities=(6,) * 4, num_categories=12
        )
        self.step = TrainingRanker(ComposedRanker(RankerConfig(), sizes)).train()
        rates = {name: getattr(config, name) for name in ("lr_ids", "lr_encoder", "lr_dense", "l2_ids")}
        self.optimizer = RankerOptimizer(self.step, **rates)
        self.batches = [ids.batch(batch_size, seed) for seed in range(BATCHES)]
        self.done = 0

    def train(self, steps: int) -> float:
        """CPU seconds of a step."""
        started = time.process_time()
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.step(self.batches[self.done % BATCHES], {}, {}).loss.backward()
            self.optimizer.step()
            self.done += 1
        return (time.process_time() - started) / steps


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench ids", description=__doc__)
    parser.add_argument("--ids", type=int, nargs="+", default=[5_000, 50_000, 500_000, 5_000_000])
    parser.add_argument("--whole", type=int, default=500_000, help="largest table that is also learnt as a whole")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--skew", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=6, help="turns of each variant")
    parser.add_argument("--steps", type=int, default=32, help="steps of a turn")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    figures: dict[str, Any] = {"bench": "ids", "batch_size": args.batch_size, "skew": args.skew, "variants": {}}
    for number in sorted(args.ids):
        ids = Ids(users=number - number // 6, authors=number // 6, skew=args.skew)
        for name, found in measured(ids, args).items():
            figures["variants"][f"{number}_{name}"] = found
    first = figures["variants"][f"{min(args.ids)}_{'whole' if min(args.ids) <= args.whole else 'rows'}"]["ms"]
    print(f"{'ids and how':<20}{'ms / step':>11}{'to the first':>14}{'quartiles':>18}{'GiB':>7}")
    for name, of in figures["variants"].items():
        of["to_first"] = round(of["ms"] / first, 3)
        low, high = of["quartiles"]
        print(f"{name:<20}{of['ms']:>11.2f}{of['to_first']:>14.2f}{f'{low:.2f} to {high:.2f}':>18}{of['gib']:>7.2f}")
    print(json.dumps(figures))
    return 0


def measured(ids: Ids, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Milliseconds by how its tables are learnt."""
    runs, gib = {}, {}
    for name, sparse_from in (("rows", 1_000), ("whole", 2**60)):
        if name == "rows" or ids.users + ids.authors <= args.whole:
            before = psutil.Process().memory_info().rss
            with _sparse_from(sparse_from):
                runs[name] = Run(ids, args.batch_size, TrainConfig())
                runs[name].train(BATCHES)
            gib[name] = (psutil.Process().memory_info().rss - before) / 2**30
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            with _sparse_from(1_000 if name == "rows" else 2**60):
                times[name].append(1e3 * run.train(args.steps))
    return {
        name: {
            "ms": round(float(np.median(of)), 2),
            "quartiles": [round(float(q), 2) for q in np.percentile(of, (25, 75))],
            "gib": round(gib[name], 2),
        }
        for name, of in times.items()
    }


@contextmanager
def _sparse_from(rows: int) -> Iterator[None]:
    usual = embeddings.SPARSE_FROM
    embeddings.SPARSE_FROM = rows
    try:
        yield
    finally:
        embeddings.SPARSE_FROM = usual
