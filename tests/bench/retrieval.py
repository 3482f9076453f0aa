"""The nearest lives on air among many: milliseconds of one core, and whether they are those that a sort of all finds.

    python -m tests.bench retrieval [--lives 100000] [--width 64] [--k 1000]

Random vectors, nine tenths of the lives on air. Beside it faiss, which compares all of them too and does not know who
is on air. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence

import numpy as np

from models.artifacts.live_index import NO_END, LiveIndex

USERS, NOW_MS = 200, 1_000_000


def timed(search: Callable[[int], object]) -> dict[str, float]:
    """Milliseconds of a search for each user, after some that are not counted."""
    took = []
    for user in range(-20, USERS):
        started = time.perf_counter()
        search(max(user, 0))
        took.append(1e3 * (time.perf_counter() - started))
    return {f"p{p}_ms": round(float(np.percentile(took[20:], p)), 3) for p in (50, 99)}


def main(argv: Sequence[str] = ()) -> int:
    """Searches, prints the table and the JSON line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench retrieval", description=__doc__)
    parser.add_argument("--lives", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--k", type=int, default=1000)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    start = np.where(rng.random(args.lives) < 0.9, NOW_MS - 1000, NOW_MS + 1000).astype(np.int64)
    index = LiveIndex(
        live_ids=np.arange(args.lives),
        author_ids=rng.integers(0, 2**40, args.lives),
        start_ts_ms=start,
        end_ts_ms=np.full(args.lives, NO_END),
        vectors=rng.standard_normal((args.lives, args.width), dtype=np.float32),
        until_ts_ms=NOW_MS,
    )
    users = rng.standard_normal((USERS, args.width), dtype=np.float32)
    rows = {
        "LiveIndex": timed(lambda user: index.nearest(users[user], args.k, NOW_MS)),
        "faiss": _faiss(index, users, args),
    }
    for name, figures in rows.items():
        print(f"{name:<12}" + "".join(f"{key} {value:<10}" for key, value in figures.items()))
    recall = float(np.mean([_recall(index, user, args.k) for user in users]))
    print(f"recall against a sort of all lives on air: {recall}")
    sizes = {"lives": args.lives, "width": args.width, "k": args.k}
    print(json.dumps({"bench": "retrieval", **sizes, "recall": recall, "rows": rows}))
    return 0


def _recall(index: LiveIndex, user: np.ndarray, k: int) -> float:
    on_air = np.flatnonzero(index.start_ts_ms <= NOW_MS)
    scores = (index.vectors[on_air].astype(np.float64) * user.astype(np.float64)).sum(axis=1)
    wanted = on_air[np.argsort(-scores, kind="stable")[:k]]
    return len(np.intersect1d(index.nearest(user, k, NOW_MS).rows, wanted)) / len(wanted)


def _faiss(index: LiveIndex, users: np.ndarray, args: argparse.Namespace) -> dict[str, float]:
    import faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(args.width)
    flat.add(index.vectors)
    return timed(lambda user: flat.search(users[user][None], args.k))


if __name__ == "__main__":
    raise SystemExit(main())
