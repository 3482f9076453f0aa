"""How soon an author's new vector is served while a ranker follows its day by windows, under load.

SARM follows all days but the newest by days, and its bank is published and served. Then it follows the newest day by
windows of 30 seconds, as fast as it can, and a delta goes out for each `--delta-s` of the stream; clients ask for
ranks all the while. Delays are from the first file of a delta, which is written when its window is learnt, to the first
answer that has it. Trainer, deployments and clients share the machine.
"""

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.artifacts import bank
from models.artifacts.bank_delta import fold, span_name
from models.artifacts.delta_store import DeltaStore
from models.sarm.memory_bank import MemoryBank
from pipelines.ranking import follow, publish
from pipelines.ranking.checkpoint import bank_file, state_kind
from pipelines.ranking.gate import GateConfig
from pipelines.ranking.published import load as load_ranker
from pipelines.runtime.cluster import connected
from pipelines.samples import window_examples, windows
from pipelines.serving.serve import ServeConfig, serving
from pipelines.settings import Settings, read_settings
from pipelines.tables.artifacts import Artifacts
from tests.bench import stores
from tests.bench.serving import load
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/table1.yaml"
BODIES, CANDIDATES = 64, 100


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 1 where a request failed, or a delta was late or not the bank's."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench stream", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--root", help="a store that stands already, made with this seed; it is only read")
    parser.add_argument("--delta-s", type=float, default=1800.0, help="seconds of the stream in a delta")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        settings = _settings(args, Path(scratch))
        with connected(settings.cluster):
            _begin(settings, Path(scratch))
            figures = measured(settings, args.clients)
        figures["same_bits"] = _is_the_bank_of_training(settings)
    print(f"{figures['deltas']} deltas of {figures['rows']['p50']:.0f} rows (median), {args.clients} clients")
    for name, what in (("until_served_s", "s, window learnt to served"), ("publish_s", "s to publish")):
        print(f"{what:<28} p50 {figures[name]['p50']:>8.2f}   max {figures[name]['max']:>8.2f}")
    print(f"ms a request: p50 {figures['load']['p50_ms']}, p99 {figures['load']['p99_ms']}; failed {figures['failed']}")
    print(f"bank and deltas equal training's own bank: {figures['same_bits']}")
    print(json.dumps({"bench": "stream", "options": vars(args), **figures}))
    return int(bool(figures["failed"]) or not figures["same_bits"] or figures["until_served_s"]["max"] > 10)


def _settings(args: argparse.Namespace, scratch: Path) -> Settings:
    settings = stores.at(scratch, read_settings(args.config, args.set), args.root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    by_windows = replace(settings.train.follow, by="windows", delta_s=args.delta_s)
    one_worker = replace(settings.train.scaling, num_workers=1)
    return replace(
        settings,
        cluster=replace(settings.cluster, num_cpus=6),
        train=replace(settings.train, sources=("sarm",), base=False, follow=by_windows, scaling=one_worker),
        publish=replace(settings.publish, gate=GateConfig(rule="off")),
        serve=ServeConfig(port=port),
    )


def _begin(settings: Settings, scratch: Path) -> None:
    """Samples by windows, and a ranker of all days but the newest, whose bank is published."""
    run_job(windows, settings)
    window_examples.run(settings.examples, settings.open())
    days = sorted((Path(settings.storage.root) / "tables" / "examples").glob("day=*"))
    held = scratch / days[-1].name
    days[-1].rename(held)
    by_days = replace(settings.train.follow, by="days", delta_s=None)
    follow.run(replace(settings.train, follow=by_days), settings.open())
    held.rename(days[-1])
    until = days[-2].name.removeprefix("day=")
    run_job(publish, replace(settings, publish=replace(settings.publish, until=until)))


def measured(settings: Settings, clients: int) -> dict[str, Any]:
    """Follows the newest day while clients ask."""
    answers: list[tuple[float, int, int]] = []
    began, over = time.time() - time.perf_counter(), threading.Event()

    def seen(body: int, came: float, status: int, content: bytes) -> None:
        answers.append((began + came, status, json.loads(content).get("bank_delta", -1) if status == 200 else -1))

    def ask() -> None:
        while not over.is_set():
            figures.append(load(settings.serve.port, bodies, clients, 2.0, seen))

    figures: list[dict[str, float]] = []
    bodies = _bodies(settings)
    with serving(settings.serve, settings.open()):
        asking = threading.Thread(target=ask)
        asking.start()
        followed = follow.run(settings.train, settings.open())["rankers"]["sarm"]
        time.sleep(5)  # the last delta is to be seen, too
        over.set()
        asking.join()
    store, folder = _deltas(settings)
    times = {number: _times(folder / span_name(number, number)) for number in range(1, store.newest() + 1)}
    served = {n: min((came for came, _, of in answers if of >= n), default=float("inf")) for n in times}
    return {
        "deltas": len(times),
        "rows": _middle_and_most([len(store.read(n, with_states=False).rows) for n in times]),
        "until_served_s": _middle_and_most([served[n] - first for n, (first, _) in times.items()]),
        "publish_s": _middle_and_most([last - first for first, last in times.values()]),
        "load": {name: statistics.median(of[name] for of in figures) for name in ("p50_ms", "p99_ms", "qps")},
        "answers": len(answers),
        "failed": sum(status != 200 for _, status, _ in answers),
        "followed": {key: followed[key] for key in ("steps", "examples", "loop_seconds")},
        "judged": followed["judged"],
    }


def _bodies(settings: Settings) -> list[bytes]:
    """Requests for authors of the newest day, by users of that day."""
    storage = settings.open().storage
    day = storage.days("examples")[-1]
    rows = storage.read("examples", day, ["user_id", "author_id", "ts_ms"])
    users, authors = (np.unique(rows[name].to_numpy()) for name in ("user_id", "author_id"))
    rng, now = np.random.default_rng(0), int(rows["ts_ms"].to_numpy().max())
    return [
        json.dumps(
            {
                "user_id": int(rng.choice(users)),
                "candidates": rng.choice(authors, min(CANDIDATES, len(authors)), replace=False).tolist(),
                "context": {"ts_ms": now},
            }
        ).encode()
        for _ in range(BODIES)
    ]


def _deltas(settings: Settings) -> tuple[DeltaStore, Path]:
    artifacts = Artifacts(settings.open().storage)
    run_id = artifacts.current("bank")
    assert run_id is not None
    return DeltaStore.open(artifacts, run_id), artifacts.fetch("bank") / "deltas"


def _times(folder: Path) -> tuple[float, float]:
    """When the first and the last file of a delta were written, in seconds since 1970."""
    moments = [file.stat().st_mtime for file in folder.iterdir()]
    return min(moments), max(moments)


def _middle_and_most(values: Sequence[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(values), 3), "max": round(max(values), 3)}


def _is_the_bank_of_training(settings: Settings) -> bool:
    """Whether the full bank and all its deltas are, to the bit, what training holds in the end of their authors."""
    artifacts, (store, _) = Artifacts(settings.open().storage), _deltas(settings)
    folder, manifest = artifacts.verified("bank")
    states, _ = fold(manifest.run_id, bank.read(folder), [store.read(n) for n in range(1, store.newest() + 1)])
    held = MemoryBank.load(artifacts.fetch(state_kind("sarm")) / bank_file("sarm")).vectors.numpy()
    published = load_ranker(artifacts, "sarm", manifest.made_from["model"]).catalog.author_ids
    rows = load_ranker(artifacts, "sarm").catalog.author_rows(published)
    return bool(np.array_equal(states["sarm"][1:], held[rows]))
