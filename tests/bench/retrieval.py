"""The nearest lives on air among many: milliseconds of a search, of an answer in process, and of one over HTTP.

    python -m tests.bench retrieval [--lives 100000] [--width 64] [--k 1000] [--in-process] [--recall 0.99]

Random vectors, nine tenths of the lives on air; random towers, 20,000 authors, 2,000 users, histories of 50. Beside the
search faiss, which compares all lives too and does not know who is on air. Recall is against a sort of all lives on
air. An answer in process is what the route does between a request's bytes and its answer's; over HTTP the load is one
client, on the same machine: on uvicorn alone, and by the start command, in turns. With `--recall` the index has cells,
as the job `index` makes them of very many lives; vectors then are not of every direction alike, but vary as those of a
simulated live world do (half of the variance in 8 of 64 dimensions). Prints tables; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.artifacts.live_index import NO_END, LiveIndex, Nearest
from models.history import HistoryRule
from pipelines.retrieval import cells
from serve.live_search import CellSearch
from serve.observe import Stages
from serve.retrieval import Retrieval
from serve.schema import RetrieveRequest
from tests.bench import http_load
from tests.bench.http_load import Load
from tests.bench.served import AUTHORS, HISTORY, USERS, served, store
from tests.bench.serving import bare
from tests.serve import searched
from tests.serve.conftest import NOW_MS, Published
from tests.serve.test_retrieval import searches

ASKED, WARM_UP = 200, 20
ROUNDS, SECONDS = 3, 4.0


def timed(search: Callable[[int], object]) -> dict[str, float]:
    """Milliseconds of a search for each user, after some that are not counted."""
    took = []
    for user in range(-WARM_UP, ASKED):
        started = time.perf_counter()
        search(max(user, 0))
        took.append(1e3 * (time.perf_counter() - started))
    return {f"p{p}_ms": round(float(np.percentile(took[WARM_UP:], p)), 3) for p in (50, 99)}


def index_of(lives: int, width: int, spread: np.ndarray) -> LiveIndex:
    """Random vectors, by `spread` [D] in each dimension, of random authors."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((lives, width), dtype=np.float32) * spread
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return LiveIndex(
        live_ids=10**12 + np.sort(rng.choice(10**9, lives, replace=False)),
        author_ids=rng.integers(0, AUTHORS, lives) * 3 + 1,
        start_ts_ms=np.where(rng.random(lives) < 0.9, NOW_MS - 1000, NOW_MS + 1000).astype(np.int64),
        end_ts_ms=np.full(lives, NO_END),
        vectors=vectors,
        until_ts_ms=NOW_MS,
    )


def main(argv: Sequence[str] = ()) -> int:
    """Searches, answers, prints the tables and the JSON line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench retrieval", description=__doc__)
    parser.add_argument("--lives", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--in-process", action="store_true", help="leave HTTP out")
    parser.add_argument("--recall", type=float, help="make cells that hold so much of what is looked for")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    spread = np.ones(args.width, np.float32)
    if args.recall:
        spread = (np.arange(1, args.width + 1, dtype=np.float32) ** np.float32(-0.45)).astype(np.float32)
    index, made = index_of(args.lives, args.width, spread), {}
    users = np.random.default_rng(1).standard_normal((ASKED, args.width), dtype=np.float32) * spread
    rows = {
        "search": timed(lambda user: index.nearest(users[user], args.k, NOW_MS)),
        "search of faiss": _faiss(index, users, args.k),
    }
    search = index.nearest
    if args.recall:
        index, made = _with_cells(index, args.k, args.recall)
        search = CellSearch(index).nearest
        rows["search of cells"] = timed(lambda user: search(users[user], args.k, NOW_MS))
    recall = float(np.mean([_recall(index, search, user, args.k) for user in users]))
    with tempfile.TemporaryDirectory() as scratch:
        published = _published(Path(scratch) / "store", index, args.width)
        bodies = _bodies(args.k)
        retrieval = Retrieval(searches(published.root))
        rows["in process"] = timed(lambda user: _answer(retrieval, bodies[user]))
        stages = _stages(retrieval, bodies)
        if not args.in_process:
            rows |= _over_http(published, bodies)
    for name, figures in rows.items():
        print(f"{name:<18}" + "".join(f"{key} {value:<10}" for key, value in figures.items()))
    print("stages in process, ms: " + ", ".join(f"{stage} {ms}" for stage, ms in stages.items()))
    size = len(_answer(retrieval, bodies[0]))
    print(f"recall against a sort of all lives on air: {recall}; bytes of an answer: {size}")
    if made:
        print(", ".join(f"{name} {value}" for name, value in made.items()))
    sizes = {"lives": args.lives, "width": args.width, "k": args.k, "bytes": size}
    machine = {"cores": os.cpu_count(), "load_1m": round(os.getloadavg()[0], 1)}
    print(
        json.dumps({"bench": "retrieval", **sizes, "recall": recall, "rows": rows, **made, "stages": stages} | machine)
    )
    return 0


def _published(root: Path, index: LiveIndex, width: int) -> Published:
    """A bank, as the ranker that answers beside it has one, towers and the index."""
    published = store(root)
    towers = searched.towers_of(
        dim=width,
        user_ids=published.user_ids,
        author_ids=published.author_ids,
        rule=HistoryRule(length=HISTORY, days=14, delay_ms=0),
    )
    searched.publish_towers(root, "t1", towers)
    searched.publish_index(root, "i1", index, {"towers": "t1"})
    return published


def _bodies(k: int) -> tuple[str, ...]:
    """Requests of different users with histories of their own."""
    rng = np.random.default_rng(2)

    def history() -> list[dict[str, Any]]:
        authors = (rng.integers(0, AUTHORS, HISTORY) * 3 + 1).tolist()
        return [
            {"author_id": author, "ts_ms": NOW_MS - 60_000 * (at + 1), "watch_time_s": 9.0}
            for at, author in enumerate(authors)
        ]

    users = rng.integers(0, USERS, ASKED).tolist()
    return tuple(
        json.dumps({"user_id": user, "k": k, "history": history(), "context": {"ts_ms": NOW_MS}}) for user in users
    )


def _answer(retrieval: Retrieval, body: str) -> str:
    return retrieval.retrieve(RetrieveRequest.model_validate_json(body)).model_dump_json()


def _stages(retrieval: Retrieval, bodies: Sequence[str]) -> dict[str, float]:
    """Median milliseconds of each part of an answer."""
    every: dict[str, list[float]] = {}
    for body in bodies:
        stages = Stages()
        request = RetrieveRequest.model_validate_json(body)
        stages.mark("parse")
        answer = retrieval.retrieve(request, stages.mark)
        stages.mark("lists")
        answer.model_dump_json()
        stages.mark("serialise")
        for stage, seconds in stages.seconds.items():
            every.setdefault(stage, []).append(1e3 * seconds)
    return {stage: round(statistics.median(took), 3) for stage, took in every.items()}


def _over_http(published: Published, bodies: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """One client in a closed loop; medians of rounds."""
    with bare(published.root) as (uvicorn, _), served(published.root) as start:
        ports = {"over uvicorn": uvicorn, "over HTTP": start}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ports}
        for _ in range(ROUNDS):
            for name, port in ports.items():
                found[name].append(_load(port, bodies))
    return {
        name: {key: round(statistics.median(of[key] for of in rounds), 3) for key in rounds[0]}
        for name, rounds in found.items()
    }


def _load(port: int, bodies: tuple[str, ...]) -> dict[str, float]:
    answers = http_load.run(Load(port=port, bodies=bodies, path="/retrieve", clients=1, seconds=SECONDS))
    if failed := answers.said:
        raise RuntimeError(f"wanted every request answered, got {failed}")
    late = answers.between(0.5, SECONDS)
    return {f"p{p}_ms": late.percentile_ms(p) or 0.0 for p in (50, 99)}


def _with_cells(index: LiveIndex, k: int, recall: float) -> tuple[LiveIndex, dict[str, Any]]:
    """As the job makes them, and what they cost."""
    started = time.perf_counter()
    made, held = cells.fit(index.vectors, index.on_air(NOW_MS), k=k, recall=recall, seed=0)
    index, fitted = replace(index, cells=made), time.perf_counter()
    CellSearch(index)
    seconds = {"fit_s": round(fitted - started, 1), "load_s": round(time.perf_counter() - fitted, 1)}
    return index, {"cells": len(made.centroids), "probes": made.probes, "held": round(held, 4), **seconds}


def _recall(index: LiveIndex, search: Callable[..., Nearest], user: np.ndarray, k: int) -> float:
    on_air = np.flatnonzero(index.on_air(NOW_MS))
    scores = (index.vectors[on_air].astype(np.float64) * user.astype(np.float64)).sum(axis=1)
    wanted = on_air[np.argsort(-scores, kind="stable")[:k]]
    return len(np.intersect1d(search(user, k, NOW_MS).rows, wanted)) / len(wanted)


def _faiss(index: LiveIndex, users: np.ndarray, k: int) -> dict[str, float]:
    import faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(index.width)
    flat.add(index.vectors)
    return timed(lambda user: flat.search(users[user][None], k))


if __name__ == "__main__":
    raise SystemExit(main())
