"""Examples a second of training: the plain loop, and Ray Train on one and two workers, at the same global batch.

Every run trains Base or SARM over the same days of one world, on one thread for each worker, and is scored on the
newest day. `start` is the time from asking Ray Train for workers to the first line of the loop in them, `CPU ms` what
the first worker computes in a step, whatever else the machine has to do.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.artifacts.manifest import Manifest
from pipelines.ranking import evaluate, train
from pipelines.ranking.checkpoint import Progress, folder_after
from pipelines.ranking.fit import train as fit
from pipelines.ranking.plan import make_plan
from pipelines.ranking.published import PublishedRanker, load, load_folder
from pipelines.ranking.worker import Worker
from pipelines.runtime.cluster import connected
from pipelines.runtime.freed_memory import keep_freed_memory
from pipelines.samples import examples
from pipelines.samples.batches import read_examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings, read_settings
from pipelines.tables.artifacts import Artifacts
from pipelines.world import world
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/table1.yaml"
HOW = {"plain": 0, "ray_1": 1, "ray_2": 2}
"""Workers of Ray Train; 0 is the loop in this process."""


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench workers", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--root", help="a store that stands already, made with this seed; artifacts are added to it")
    parser.add_argument("--batch-size", type=int, default=512, help="of all workers together")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training")
    parser.add_argument("--sources", nargs="+", default=["base", "sarm"], choices=["base", "sarm"])
    parser.add_argument("--how", nargs="+", default=list(HOW), choices=list(HOW))
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_freed_memory()
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        settings = read_settings(args.config, args.set)
        root = args.root or f"{scratch}/store"
        settings = replace(settings, run_dir=f"{scratch}/run", storage=replace(settings.storage, root=root))
        with connected(settings.cluster):
            if args.root is None:
                for job in (world, vocabulary, examples):
                    run_job(job, settings)
            for seed in args.seeds:
                for sources in args.sources:
                    for how in args.how:
                        chosen = replace(
                            settings.train,
                            sources=() if sources == "base" else (sources,),
                            base=False,
                            batch_size=args.batch_size,
                            epochs=args.epochs,
                            scaling=replace(settings.train.scaling, num_workers=max(1, HOW[how])),
                        )
                        own = replace(settings, seed=seed, train=chosen, run_dir=f"{scratch}/{seed}-{sources}-{how}")
                        found = (ray_train if HOW[how] else plain)(own, Path(own.run_dir))
                        runs.append({"ranker": sources, "how": how, "seed": seed, **found})
                        print(json.dumps(runs[-1]), flush=True)
    figures = {"bench": "workers", "batch_size": args.batch_size, "epochs": args.epochs, "runs": runs}
    print(table(runs))
    print(json.dumps(figures))
    return 0


def plain(settings: Settings, folder: Path) -> dict[str, Any]:
    """The loop in this process."""
    run = settings.open()
    plan, made_from = make_plan(settings.train, run, Artifacts(run.storage), settings.train.sources)
    lines: list[str] = []
    progress: Progress = fit(
        plan, run.storage, made_from,
        work=folder, worker=Worker(), report=lambda *_: None, log_line=lines.append,
    )  # fmt: skip
    checkpoint = folder / folder_after(progress)
    Manifest.create(checkpoint, kind=plan.name, run_id="plain", made_from=made_from)
    return {
        "examples_per_s": progress.examples / progress.seconds,
        "cpu_ms": 1e3 * progress.cpu_seconds / progress.step,
        "start_s": 0.0,
        "waited_s": progress.waited_s,
        "gauc": gauc(settings, load_folder(checkpoint, plan.name)),
    }


def ray_train(settings: Settings, folder: Path) -> dict[str, Any]:
    """The job train; what an earlier run of it published is trained again."""
    artifacts = Artifacts(settings.open().storage)
    trained = train.run(settings.train, settings.open())["rankers"]
    ((name, figures),) = trained.items()
    return {
        "examples_per_s": figures["examples_per_s"],
        "cpu_ms": 1e3 * figures["cpu_seconds"] / figures["steps"],
        "start_s": figures["start_seconds"],
        "waited_s": figures["waited_seconds"],
        "seconds": figures["seconds"],
        "gauc": gauc(settings, load(artifacts, name)),
    }


def gauc(settings: Settings, ranker: PublishedRanker) -> float:
    """Of clicks of the newest day."""
    storage = settings.open().storage
    day = storage.days("examples")[-1]
    columns = read_examples(storage, day)
    scores = evaluate.score_day(ranker, ranker.states(storage, Artifacts(storage)), day, columns)
    return float(evaluate.measured(columns, scores, ranker.tasks, None)["click"]["gauc"])


def table(runs: list[dict[str, Any]]) -> str:
    """A line for each ranker and way; means over seeds."""
    lines = [
        f"{'ranker':<8}{'how':<8}{'examples/s':>12}{'to plain':>10}{'to ray_1':>10}{'CPU ms':>8}{'start s':>9}"
        f"{'GAUC':>8}{'+-':>7}"
    ]
    for ranker, how in dict.fromkeys((run["ranker"], run["how"]) for run in runs):
        of = {
            other: [run for run in runs if run["ranker"] == ranker and run["how"] == other]
            for other in {run["how"] for run in runs}
        }
        speed = {other: float(np.mean([run["examples_per_s"] for run in found])) for other, found in of.items()}
        scores = [100 * run["gauc"] for run in of[how]]
        ratios = [speed[how] / speed[other] if other in speed else float("nan") for other in ("plain", "ray_1")]
        cpu_ms, start_s = (np.mean([run[name] for run in of[how]]) for name in ("cpu_ms", "start_s"))
        lines.append(
            f"{ranker:<8}{how:<8}{speed[how]:>12.0f}{ratios[0]:>10.3f}{ratios[1]:>10.3f}{cpu_ms:>8.2f}{start_s:>9.1f}"
            f"{np.mean(scores):>8.2f}{np.std(scores):>7.2f}"
        )
    return "\n".join(lines)
