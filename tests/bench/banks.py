"""What a large bank costs: verified once per node, opened, held, gathered from, asked who is alike, and swapped.

Random vectors about 20,000 topics, all authors with an anchor; every figure is of a process of its own, as a replica
is. Memory is what no other process shares, with torch loaded: RssAnon of /proc/self/status, in which mapped files are
not. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.artifacts.precision import as_read
from models.artifacts.store import ArtifactStore
from models.ranker import RankerConfig
from models.sarm.model import SARMConfig
from serve.args import WatchConfig
from serve.comparing import Comparing
from serve.loading import compared
from serve.prepare import Preparation
from serve.schema import Context, RankRequest
from serve.user_sequence import UserSequence
from serve.watcher import SnapshotWatcher
from tests.bench.serving import HISTORY, USERS
from tests.serve.conftest import NOW_MS, Published

FIRST, SECOND = "first", "second"
ROWS, GATHERS, QUESTIONS, TOPICS = 300, 2000, 50, 20_000


class TopicBank(Published):
    """A bank whose vectors nobody has encoded."""

    def _vectors(self, model: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        rows, width = len(self.author_ids) + 1, self.config.width
        topics = rng.standard_normal((TOPICS, 2, width), dtype=np.float32)
        vectors = np.empty((rows, 2, width), np.float32)
        for start in range(0, rows, 65_536):
            part = vectors[start : start + 65_536]
            part[:] = topics[rng.integers(0, TOPICS, len(part))]
            part += 0.7 * rng.standard_normal(part.shape, dtype=np.float32)
        return vectors


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench banks", description=__doc__)
    parser.add_argument("--authors", type=int, default=3_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--dtypes", nargs="+", choices=["float16", "float32"], default=["float16", "float32"])
    parser.add_argument("--folder", help="where stores are made, 4 GiB each; default the temporary folder")
    args = parser.parse_args(argv)
    by_dtype = {}
    for dtype in args.dtypes:
        folder = Path(tempfile.mkdtemp(dir=args.folder))
        try:
            by_dtype[dtype] = measured(folder, args.authors, args.width, dtype)
        finally:
            shutil.rmtree(folder)
    for figure in next(iter(by_dtype.values())):
        print(f"{figure:<52}" + "".join(f"{figures[figure]!s:>22}" for figures in by_dtype.values()))
    machine = {"cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({"bench": "banks", "options": vars(args), "figures": by_dtype, **machine}))
    return 0


def measured(folder: Path, authors: int, width: int, dtype: str) -> dict[str, Any]:
    """All figures of one bank."""
    alone(partial(make, folder, authors, width, dtype))
    first = preparation(folder, FIRST)
    found = {"bank_gib": round(sum(p.stat().st_size for p in folder.glob("store/**/v=first/*")) / 2**30, 2)}
    found |= alone(partial(verify, first))
    found |= alone(partial(opened, first))
    found |= alone(partial(gathered, first))
    found |= alone(partial(alike, replace(first, likeness=True)))
    return found | alone(partial(swapped, folder))


def make(folder: Path, authors: int, width: int, dtype: str) -> dict[str, Any]:
    """A store with two versions of one model, of which the first is current."""
    made = TopicBank(
        folder / "store",
        config=SARMConfig(width=width),
        ranker=RankerConfig(),
        author_ids=np.arange(authors) * 3 + 1,
        user_ids=np.arange(USERS),
        length=HISTORY,
    )
    model = made.model("m")
    made.bank(SECOND, model, seed=1, dtype=dtype, point=False)
    made.bank(FIRST, model, dtype=dtype)
    return {}


def preparation(folder: Path, version: str) -> Preparation:
    return Preparation(root=str(folder / "store"), version=version, cache_dir=str(folder / "cache"))


def verify(first: Preparation) -> dict[str, Any]:
    """What the helper does once: every hash, every row, the probe."""
    started, cpu = time.perf_counter(), time.process_time()
    first.here()
    took, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"verify_s": round(took, 2), "verify_cpu_s": round(cpu_s, 2), "verify_peak_mb_with_mapped": peak}


def opened(first: Preparation) -> dict[str, Any]:
    """What a replica does on a node that has verified the bank, and what it holds after 200 requests."""
    before, started = own_mb(), time.perf_counter()
    snapshot = first.load()
    ready_s = time.perf_counter() - started
    ranking = UserSequence(Held(snapshot))  # type: ignore[arg-type]
    requests = [asked(snapshot.bank.catalog.author_ids, seed) for seed in range(200)]
    for request in requests:
        ranking.rank(request)
    return {"open_to_ready_s": round(ready_s, 3), "own_mb_before": before, "own_mb_after_200_requests": own_mb()}


def gathered(first: Preparation) -> dict[str, Any]:
    """Rows at random places of a bank that is in the page cache: 300 authors, candidates and history."""
    bank, rng = first.load().bank, np.random.default_rng(0)
    for state in bank.states.values():
        as_read(state[:: max(1, 4096 // state[0].nbytes)]).sum()
    took = []
    for rows in rng.integers(1, bank.num_authors, (GATHERS, ROWS)):
        began = time.perf_counter()
        bank.gather(rows)
        took.append(1e6 * (time.perf_counter() - began))
    return {"gather_300_p50_us": round(np.median(took), 1), "gather_300_p99_us": round(np.quantile(took, 0.99), 1)}


def alike(first: Preparation) -> dict[str, Any]:
    """Who is alike, by the index against every author; what the helper takes to make it is in CPU seconds."""
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, comparing = time.perf_counter(), Comparing(first)
    comparing.thread.join()
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    bank = replace(first, likeness=False).load().bank
    own = own_mb()
    indexed = compared(bank, comparing).neighbours
    likeness = comparing()
    assert indexed is not None and likeness is not None, comparing.failure
    exact = compared(bank, lambda: replace(likeness, index=None)).neighbours
    assert exact is not None
    rows = np.random.default_rng(1).integers(1, bank.num_authors, QUESTIONS).tolist()
    found, found_ms = timed(lambda row: indexed.nearest(row, 10)[0], rows)
    wanted, exact_ms = timed(lambda row: exact.nearest(row, 10)[0], rows[: QUESTIONS // 2])
    both = [len(set(a.tolist()) & set(b.tolist())) / len(b) for a, b in zip(found, wanted, strict=False)]
    return {
        "likeness_s": round(took, 1),
        "likeness_cpu_s": round(after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime, 1),
        "similar_p50_ms": round(np.median(found_ms), 2),
        "similar_p99_ms": round(np.quantile(found_ms, 0.99), 2),
        "similar_exact_p50_ms": round(np.median(exact_ms), 1),
        "similar_recall_at_10": round(float(np.mean(both)), 3),
        "own_mb_of_the_author_cache": own,
    }


def swapped(folder: Path) -> dict[str, Any]:
    """A new version while requests are answered: until it is used, and what it costs those who ask."""
    store = ArtifactStore.open(str(folder / "store"), str(folder / "cache"))
    watcher = SnapshotWatcher(
        store, lambda version: preparation(folder, version).load(), WatchConfig(poll_s=0.5), keep=1
    )
    watcher.start()
    ranking, ids = UserSequence(watcher), watcher.current.bank.catalog.author_ids
    requests, done = [asked(ids, seed) for seed in range(64)], threading.Event()
    took: list[tuple[float, float]] = []

    def ask() -> None:
        while not done.is_set():
            began = time.perf_counter()
            ranking.rank(requests[len(took) % 64])
            took.append((began, 1e3 * (time.perf_counter() - began)))
            time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(10.0)
    pointed = time.perf_counter()
    (folder / "store/artifacts/bank/CURRENT").write_text(SECOND)
    while watcher.current.version != SECOND:
        time.sleep(0.02)
    visible_s = time.perf_counter() - pointed
    time.sleep(3.0)
    done.set()
    asking.join()
    watcher.stop()
    before = [ms for began, ms in took if began < pointed][50:]
    during = [ms for began, ms in took if began >= pointed]
    return {
        "swap_visible_s": round(visible_s, 1),
        "rank_p99_ms_before": round(np.quantile(before, 0.99), 1),
        "rank_p99_ms_from_publication_to_3_s_after": round(np.quantile(during, 0.99), 1),
        "own_mb_after_the_swap": own_mb(),
    }


class Held:
    """A watcher of one snapshot."""

    is_stale = False

    def __init__(self, snapshot: Any) -> None:
        self.current = snapshot


def asked(author_ids: npt.NDArray[np.int64], seed: int) -> RankRequest:
    """100 candidates of a user with a history."""
    rng = np.random.default_rng(seed)
    user = int(rng.integers(0, USERS // (HISTORY + 1))) * (HISTORY + 1) + HISTORY
    candidates = rng.choice(author_ids, 100, replace=False).tolist()
    return RankRequest(user_id=user, candidates=candidates, context=Context(ts_ms=NOW_MS))


def timed(ask: Callable[[int], Any], rows: list[int]) -> tuple[list[Any], list[float]]:
    """Answers, and milliseconds of each, after one that is not counted."""
    ask(rows[0])
    answers, took = [], []
    for row in rows:
        began = time.perf_counter()
        answers.append(ask(row))
        took.append(1e3 * (time.perf_counter() - began))
    return answers, took


def own_mb() -> int:
    """Memory of this process that no other one shares, MB."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None, "this bench wants Linux"
    return int(found.group(1)) // 1024


def _told(work: Callable[[], dict[str, Any]], pipe: Any) -> None:
    import torch

    torch.set_num_threads(1)
    pipe.send(work())


def alone(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a function says in a new process. Raises EOFError where that one dies."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_told, args=(work, there))
    process.start()
    there.close()
    found: dict[str, Any] = here.recv()
    process.join()
    return found
