"""Labels by Moment, Sliver, 5 minutes and 1 hour, and by the day's end: what a ranker that learns from them knows next.

One simulated platform, one Base, the same seed. By windows: whoever is shown something in the next 30 seconds is scored
before that window is learnt, whatever the labels are; the figures are over all impressions of the days after `--skip`,
with the labels that they have in the end. Beside it the ranker that follows by days, whose labels are true and a day
late. Everything runs in this process, without Ray.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.ranking.follow_plan import make_follow_plan
from pipelines.ranking.following import follow
from pipelines.ranking.worker import Worker
from pipelines.samples import window_examples, windows
from pipelines.samples.windows_config import WindowsConfig
from pipelines.settings import Settings, read_settings
from pipelines.tables.artifacts import Artifacts
from tests.bench import stores
from tests.bench.windows import RULES
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/table1.yaml"
DAYS = "the day's end"


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench labels", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--root", help="a store that stands already, made with this seed; it is only read")
    parser.add_argument("--ranker", default="base", choices=["base", "sarm"])
    parser.add_argument("--rules", nargs="+", default=[DAYS, *RULES], choices=[DAYS, *RULES])
    parser.add_argument("--skip", type=int, default=2, help="first days that are learnt and not judged")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        settings = stores.at(Path(scratch), read_settings(args.config, args.set), args.root)
        sources = () if args.ranker == "base" else (args.ranker,)
        runs = {rule: measured(settings, sources, rule, Path(scratch), args.skip) for rule in args.rules}
    tasks = list(next(iter(runs.values()))["gauc"])
    print(
        f"{'labels':<15}"
        + "".join(f"{f'{t} GAUC':>16}" for t in tasks)
        + f"{'AUC':>8}{'NE':>8}{'steps':>8}{'loop s':>8}"
    )
    for rule, of in runs.items():
        shown = "".join(f"{of['gauc'][task]:>16.4f}" for task in tasks)
        print(
            f"{rule:<15}{shown}{of['auc'][tasks[0]]:>8.4f}{of['ne'][tasks[0]]:>8.4f}{of['steps']:>8}{of['loop_s']:>8.1f}"
        )
    print(json.dumps({"bench": "labels", "ranker": args.ranker, "seed": settings.seed, "runs": runs}))
    return 0


def measured(settings: Settings, sources: tuple[str, ...], rule: str, scratch: Path, skip: int) -> dict[str, Any]:
    """Follows all days with one rule: means over the days that are judged, by task."""
    folder = scratch / rule.replace(" ", "-")
    own = settings.train.follow if rule == DAYS else replace(settings.train.follow, by="windows")
    settings = stores.at(folder, settings, settings.storage.root)
    settings = replace(settings, train=replace(settings.train, follow=own))
    if rule != DAYS:
        told = run_job(windows, replace(settings, windows=WindowsConfig(**RULES[rule])))
        window_examples.run(settings.examples, settings.open())
    run, started = settings.open(), time.perf_counter()
    plan, made_from = make_follow_plan(settings.train, run, Artifacts(run.storage), sources)
    progress = follow(
        plan, run.storage, made_from,
        work=folder / "work", worker=Worker(), report=lambda *_: None, log_line=lambda _: None,
    )  # fmt: skip
    judged = [of for of in progress.judged if of["key"] in plan.keys[skip:]]
    shutil.rmtree(folder)

    def mean(name: str) -> dict[str, float]:
        return {task: float(np.mean([of[task][name] for of in judged])) for task in settings.train.ranker.tasks}

    return {
        "gauc": mean("gauc"),
        "auc": mean("auc"),
        "ne": mean("normalised_entropy"),
        "calibration": mean("calibration"),
        "by_day": {of["key"]: {task: of[task]["gauc"] for task in settings.train.ranker.tasks} for of in judged},
        "rows": progress.examples,
        "steps": progress.step,
        "loop_s": round(progress.seconds, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "labels": {} if rule == DAYS else told["tasks"],
    }
