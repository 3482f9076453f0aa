"""How soon a delta of the bank is served while requests run, whether answers stay whole, and what it costs.

Random weights and vectors; publisher and load generator share the machine with the deployments. Every answer is
compared with that of a ranker in this process, of the delta that the answer names. Prints a table; the last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from models.artifacts.bank_delta import BankDelta
from models.artifacts.store import ArtifactStore
from models.ranker import RankerConfig
from models.sarm.model import SARMConfig
from pipelines.ranking.deltas import publish_delta
from pipelines.runtime.cluster import ClusterConfig
from pipelines.serving.serve import ServeConfig, serving
from pipelines.settings import Settings
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage, StorageConfig
from serve.loading import load_snapshot
from serve.schema import RankRequest
from serve.snapshot import Bank, Snapshot
from serve.user_sequence import UserSequence
from tests.bench.served import HISTORY, USERS
from tests.bench.serving import WARM_UP_S, load
from tests.serve.conftest import NOW_MS, Published

BODIES, CANDIDATES = 64, 100
RUN_ID = "bench"
POOL = 4
"""Candidates are drawn from so many times as many authors as a delta touches: each has a quarter of them."""
ROW_SETS = 200


class RandomBank(Published):
    """A bank whose vectors nobody has encoded."""

    def _vectors(self, model: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        vectors = rng.standard_normal((len(self.author_ids) + 1, 2, self.config.width), dtype=np.float32)
        vectors[0] = 0.1
        return vectors


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back for a body."""

    body: int
    came: float
    status: int
    content: bytes


@dataclass(slots=True)
class Publisher:
    """Publishes a delta every few seconds, in a thread of its own."""

    root: Path
    deltas: Sequence[BankDelta]
    every_s: float
    began: dict[int, float] = field(default_factory=dict)
    """Number -> when its publication began, by perf_counter."""
    took_ms: list[float] = field(default_factory=list)

    def run(self) -> None:
        """All of them, the first one after the load has warmed up."""
        artifacts, start = Artifacts(Storage.open(str(self.root))), time.perf_counter() + WARM_UP_S
        # Not in step with those who look for what is new: anywhere in its turn.
        for turn, within in enumerate(np.random.default_rng(4).random(len(self.deltas))):
            delta = self.deltas[turn]
            time.sleep(max(0.0, start + (turn + within) * self.every_s - time.perf_counter()))
            began = time.perf_counter()
            number = publish_delta(artifacts, RUN_ID, delta.rows, delta.states, delta.anchor_day, delta.until_ts_ms)
            self.began[number] = began
            self.took_ms.append(1e3 * (time.perf_counter() - began))


def store(folder: Path, authors: int, width: int) -> RandomBank:
    """A published bank."""
    made = RandomBank(
        folder,
        config=SARMConfig(width=width),
        ranker=RankerConfig(),
        author_ids=np.arange(authors) * 3 + 1,
        user_ids=np.arange(USERS),
        length=HISTORY,
    )
    made.publish(RUN_ID)
    return made


def bodies_of(published: Published, touched: int) -> list[dict[str, Any]]:
    """Requests for authors of the pool that deltas touch."""
    rng, found = np.random.default_rng(1), []
    for _ in range(BODIES):
        user = int(rng.integers(0, USERS // (HISTORY + 1))) * (HISTORY + 1)
        chosen = rng.choice(pool(published, touched), CANDIDATES, replace=False)
        candidates = published.author_ids[chosen - 1].tolist()
        found.append({"user_id": user, "candidates": candidates, "context": {"ts_ms": NOW_MS}})
    return found


def pool(published: Published, touched: int) -> npt.NDArray[np.int64]:
    """Rows of the bank, evenly over it."""
    return np.linspace(1, len(published.author_ids), POOL * touched).astype(np.int64)


def deltas_of(published: Published, touched: int, count: int) -> list[BankDelta]:
    """Each touches others of the pool, and row 0."""
    rng, rows = np.random.default_rng(2), pool(published, touched)
    chosen = [np.sort(rng.choice(rows, touched - 1, replace=False)) for _ in range(count)]
    return [published.made_delta(RUN_ID, n, np.concatenate([[0], each])) for n, each in enumerate(chosen, start=1)]


def moments(snapshot: Snapshot, deltas: Sequence[BankDelta]) -> tuple[list[Snapshot], list[float]]:
    """The snapshot after none, one, two ... of the deltas; and milliseconds that each took to be laid over."""
    found, taken = [snapshot], []
    for delta in deltas:
        started = time.perf_counter()
        found.append(replace(found[-1], bank=found[-1].bank.with_delta(delta)))
        taken.append(1e3 * (time.perf_counter() - started))
    return found, taken


class Fixed:
    """A watcher of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.current = snapshot


def judged(answers: Sequence[Answer], snapshots: Sequence[Snapshot], bodies: Sequence[dict[str, Any]]) -> list[int]:
    """The delta of each answer; raises nothing, -1 where it failed and -2 where it is not that delta's answer."""
    rankers = [UserSequence(Fixed(snapshot)) for snapshot in snapshots]  # type: ignore[arg-type]
    requests = [RankRequest.model_validate(body) for body in bodies]
    wanted: dict[tuple[int, int], dict[int, float]] = {}
    found = []
    for answer in answers:
        if answer.status != 200:
            found.append(-1)
            continue
        content = json.loads(answer.content)
        key = (content["bank_delta"], answer.body)
        if key not in wanted:
            ranked = rankers[key[0]].rank(requests[key[1]]).candidates
            wanted[key] = {candidate.author_id: candidate.score for candidate in ranked}
        scores = {candidate["author_id"]: candidate["score"] for candidate in content["candidates"]}
        is_whole = all(abs(scores[author_id] - score) < 1e-5 for author_id, score in wanted[key].items())
        found.append(key[0] if is_whole else -2)
    return found


def gather_us(bank: Bank, rows: Sequence[npt.NDArray[np.int64]]) -> float:
    """Median microseconds of CPU time of one request's rows."""
    taken = []
    for each in [*rows, *rows, *rows]:
        started = time.thread_time_ns()
        bank.gather(each)
        taken.append((time.thread_time_ns() - started) / 1e3)
    return round(statistics.median(taken[len(rows) :]), 1)


def replicas_mb() -> dict[str, float]:
    """Memory of each deployment's replica that no other process shares."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        for name in ("UserSequence", "AuthorCache"):
            if line.startswith("ray::ServeReplica") and name in line:
                found[name] = round(process.memory_full_info().uss / 2**20, 1)
    return found


def while_serving(
    published: Published, bodies: list[dict[str, Any]], publisher: Publisher, args: Any
) -> dict[str, Any]:
    """The load without deltas, then with them, on the running deployments."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        storage=StorageConfig(root=str(published.root)),
        cluster=ClusterConfig(num_cpus=4, object_store_gb=0.25),
        serve=ServeConfig(port=port, app={"watch": {"poll_s": args.poll_s}}),
    )
    raw, answers = [json.dumps(body).encode() for body in bodies], list[Answer]()

    def seen(body: int, came: float, status: int, content: bytes) -> None:
        answers.append(Answer(body=body, came=came, status=status, content=content))

    with serving(settings.serve, settings.open()):
        without = load(port, raw, args.clients, args.seconds, seen)
        before_mb = replicas_mb()
        thread = threading.Thread(target=publisher.run)
        thread.start()
        # A little longer than the deltas come: the last one is to be seen, too.
        with_deltas = load(port, raw, args.clients, args.seconds + 2 * args.poll_s, seen)
        thread.join()
        after_mb = replicas_mb()
    return {
        "answers": answers,
        "without": without,
        "with": with_deltas,
        "replicas_mb": {name: [before_mb[name], after_mb[name]] for name in before_mb},
    }


def lags_s(answers: Sequence[Answer], numbers: Sequence[int], began: dict[int, float]) -> list[float]:
    """Of each delta, from the start of its publication to the first answer that has it or a later one."""
    first = {
        number: min((a.came for a, n in zip(answers, numbers, strict=True) if n >= number), default=float("inf"))
        for number in began
    }
    return [first[number] - moment for number, moment in began.items()]


def main(argv: Sequence[str] = ()) -> int:
    """Runs it, prints the table and the JSON line; returns 1 where a request failed or was mixed, or a delta late."""
    args = _arguments(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        published = store(Path(scratch) / "store", args.authors, args.width)
        bodies = bodies_of(published, args.touched)
        deltas = deltas_of(published, args.touched, max(1, int(args.seconds / args.every_s)))
        publisher = Publisher(published.root, deltas, args.every_s)
        served = while_serving(published, bodies, publisher, args)
        # Loaded as of before: the deltas are laid over it one by one.
        snapshots, over_ms = moments(load_snapshot(ArtifactStore.open(str(published.root)), RUN_ID), deltas)
        figures = _figures(args, served, publisher, snapshots, bodies) | {"over_ms": _middle_and_most(over_ms)}
    _print(figures)
    print(json.dumps(figures))
    late = figures["lag_s"]["max"] > 10
    return int(bool(figures["failed"] or figures["mixed"] or late))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench deltas", description=__doc__)
    numbers: dict[str, tuple[Callable[[str], float], float, str]] = {
        "authors": (int, 200_000, "authors of the bank; 3000000 with --width 128 is 3 GB"),
        "width": (int, 64, "of their vectors, two each"),
        "touched": (int, 1_000, "author rows of a delta"),
        "every-s": (float, 2.0, "seconds from one delta to the next"),
        "seconds": (float, 30.0, "of load, without deltas and with them"),
        "clients": (int, 2, "who each wait for one answer before they ask again"),
        "poll-s": (float, 2.0, "how often deployments look for what is new (serve.app.watch.poll_s)"),
    }
    for name, (kind, default, meaning) in numbers.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{meaning} (default {default})")
    return parser.parse_args(list(argv))


def _figures(
    args: argparse.Namespace,
    served: dict[str, Any],
    publisher: Publisher,
    snapshots: list[Snapshot],
    bodies: list[dict[str, Any]],
) -> dict[str, Any]:
    answers = served["answers"]
    numbers = judged(answers, snapshots, bodies)
    rng, last = np.random.default_rng(3), snapshots[-1].bank
    anywhere = [rng.integers(0, args.authors + 1, CANDIDATES + HISTORY) for _ in range(ROW_SETS)]
    over = last.overlay.rows() if last.overlay is not None else np.zeros(1, np.int64)
    touched = [rng.choice(over, CANDIDATES + HISTORY) for _ in range(ROW_SETS)]
    return {
        "bench": "deltas",
        "machine": {
            "cores": os.cpu_count(),
            "load_1m": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
        },
        "options": vars(args),
        "deltas": len(publisher.began),
        "publish_ms": _middle_and_most(publisher.took_ms),
        "lag_s": _middle_and_most(lags_s(answers, numbers, publisher.began)),
        "without": served["without"],
        "with": served["with"],
        "answers": len(answers),
        "moments": len({number for number in numbers if number >= 0}),
        "failed": numbers.count(-1),
        "failed_with": sorted(answer.status for answer in answers if answer.status != 200),
        "mixed": numbers.count(-2),
        "gather_us": {
            "full_bank": gather_us(snapshots[0].bank, anywhere),
            "few_over": gather_us(last, anywhere),
            "full_bank_touched": gather_us(snapshots[0].bank, touched),
            "all_over": gather_us(last, touched),
        },
        "rows_over": len(over),
        "replicas_mb": served["replicas_mb"],
    }


def _middle_and_most(values: Sequence[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(values), 3), "max": round(max(values), 3)}


def _print(figures: dict[str, Any]) -> None:
    options, gather = figures["options"], figures["gather_us"]
    print(
        f"\nbank of {options['authors']} authors x 2 x {options['width']}; a delta of {options['touched']} every "
        f"{options['every_s']:g} s, looked for every {options['poll_s']:g} s; {options['clients']} clients, "
        f"{CANDIDATES} candidates"
    )
    for name, unit in (("publish_ms", "ms to publish"), ("over_ms", "ms to lay over"), ("lag_s", "s until served")):
        print(f"{unit:<24} p50 {figures[name]['p50']:>8.2f}   max {figures[name]['max']:>8.2f}")
    for name, what in (("without", "ms, without deltas"), ("with", "ms, with deltas")):
        row = figures[name]
        print(f"{what:<24} p50 {row['p50_ms']:>8.2f}   p99 {row['p99_ms']:>8.2f}   {row['qps']} requests/s")
    print(f"us to gather, anywhere   full bank {gather['full_bank']}, with deltas {gather['few_over']}")
    print(f"us to gather, touched    full bank {gather['full_bank_touched']}, with deltas {gather['all_over']}")
    for name, (before, after) in figures["replicas_mb"].items():
        print(f"MB of its own, {name:<13} before {before}, after {after}")
    print(
        f"{figures['deltas']} deltas, {figures['rows_over']} rows | {figures['answers']} answers of "
        f"{figures['moments']} moments | failed {figures['failed']} | mixed {figures['mixed']}\n"
    )
