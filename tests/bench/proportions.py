"""SARM's training at an industrial ranker's proportions: Base of 400 fields, batches of 4,096, four encoder layers.

Base reads 400 profile columns of width 8 and histories of 50, and HoME is as wide as `RANKER` says. Authors have
anchors of 60 tokens, and impressions fall on those who are on air by Zipf's law; rows of a request share a history. The
data are random, made in memory: CPU seconds of a step on one thread are measured, and not what is learnt.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models import TASKS
from models.batch import RankingBatch
from models.catalog import CatalogSizes
from models.home import HoMEConfig
from models.ranker import RankerConfig
from models.sarm.anchor_tokens import CLS_ROW, TokenRows
from models.sarm.model import SARMConfig
from pipelines.ranking.plan import TrainConfig
from tests.bench.training import Data, Trained, figures_of, gemm_gflops, table, take_turns

FIELDS, HISTORY, BATCH, TOKENS, USERS = 400, 50, 4096, 60, 20_000
WINDOWS = (1, 8, 16)
RANKER = RankerConfig(home=HoMEConfig(input_width=1024, expert_dim=128, tower_hidden=64))
SARM = SARMConfig(width=128, num_layers=4)
ROWS = TokenRows(num_base_rows=3000, num_live_rows=600)


def synthetic(on_air: int, request: int) -> Data:
    """As many batches as the longest window has steps."""
    rng = np.random.default_rng(0)
    popular = 1.0 / np.arange(1, on_air + 1)
    base = rng.integers(CLS_ROW + 1, ROWS.num_base_rows, (on_air + 1, TOKENS))
    base[:, 0] = CLS_ROW
    live = rng.integers(0, ROWS.num_live_rows, base.shape)
    sizes = CatalogSizes(num_users=USERS, num_authors=on_air, profile_cardinalities=(100,) * FIELDS, num_categories=50)
    return Data(
        batches=[_batch(rng, popular / popular.sum(), request) for _ in range(max(WINDOWS))],
        sizes=sizes,
        rows=ROWS,
        tokens=(torch.from_numpy(base.astype(np.int32)), torch.from_numpy(live.astype(np.int32))),
    )


def _batch(rng: np.random.Generator, popular: npt.NDArray[Any], request: int) -> RankingBatch:
    requests = BATCH // request
    history = np.repeat(1 + rng.choice(len(popular), (requests, HISTORY), p=popular), request, axis=0)
    columns: Sequence[npt.NDArray[Any]] = (
        np.repeat(rng.integers(1, USERS + 1, requests), request),
        rng.integers(0, 100, (BATCH, FIELDS)),
        1 + rng.choice(len(popular), BATCH, p=popular),
        rng.integers(0, 50, BATCH),
        rng.integers(0, 24, BATCH),
        history,
        np.ones_like(history, dtype=bool),
        rng.random((BATCH, HISTORY), dtype=np.float32) * 1e5,
        rng.random((BATCH, HISTORY), dtype=np.float32) * 1e3,
        (rng.random((BATCH, len(TASKS))) < 0.2).astype(np.float32),
    )
    return RankingBatch(*(torch.from_numpy(column) for column in columns))


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench proportions", description=__doc__)
    parser.add_argument("--on-air", type=int, default=1000, help="authors that impressions fall on; 1,000 take 5 GiB")
    parser.add_argument("--request", type=int, default=8, help="rows of a request, which divide 4,096")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each variant, of as many steps as its window")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    train, data = TrainConfig(ranker=RANKER), synthetic(args.on_air, args.request)
    runs = {"base": Trained(train, data, None)}
    runs |= {f"window_{window}": Trained(train, data, SARM, window) for window in WINDOWS}
    times = take_turns(runs, args.rounds, 1)
    figures = {
        "bench": "proportions",
        "batch_size": BATCH,
        "on_air": args.on_air,
        "variants": {name: figures_of(name, run, times) for name, run in runs.items()},
        "gemm_gflops": round(gemm_gflops(), 1),
    }
    print(table(figures))
    print(json.dumps(figures))
    return 0
