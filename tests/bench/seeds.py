"""Does text pay, and only where it should? Base and SARM over worlds and seeds, through the real jobs.

For each seed and for semantic tastes on and off (the negative control): world, vocabulary, examples, train (by Ray
Train), evaluate. The anchors are the world's TRUE anchors, written in place of the multimodal model's, so that the
figures are of the ranking models alone.
"""

import argparse
import json
import logging
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines import config, evaluate, examples, train, vocabulary, world
from pipelines.cluster import connected
from pipelines.settings import Settings

CONFIG = "pipelines/configs/demo.yaml"
TASKS = ("click", "follow", "long_view", "gift")


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench seeds", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--taste", choices=["on", "off", "both"], default="both", help="semantic tastes")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = config.build(Settings, config.read_yaml(args.config, args.set))
    tastes = {"on": [True], "off": [False], "both": [True, False]}[args.taste]
    runs = []
    with tempfile.TemporaryDirectory() as scratch, connected(settings.cluster):
        for taste in tastes:
            for seed in range(args.seeds):
                root = Path(scratch) / f"taste-{taste}-{seed}"
                runs.append({"taste": taste, "seed": seed} | _run(_settings(settings, root, seed, taste)))
                shutil.rmtree(root)
    print(_table(runs))
    print(json.dumps({"bench": "seeds", "anchors": "oracle", "runs": runs}))
    return 0


def _settings(settings: Settings, root: Path, seed: int, taste: bool) -> Settings:
    return replace(
        settings,
        seed=seed,
        run_dir=str(root / "run"),
        storage=replace(settings.storage, root=str(root / "store")),
        world=replace(settings.world, semantic_taste=taste, teacher=True, recorded_segments=1),
        train=replace(settings.train, variants=("sarm", "base")),
    )


def _run(settings: Settings) -> dict[str, Any]:
    """Seconds of each job, and what evaluate says."""
    seconds: dict[str, float] = {}
    for name, job in (("world", world), ("vocabulary", vocabulary), ("examples", examples), ("train", train)):
        started = time.perf_counter()
        job.run(settings)
        seconds[name] = round(time.perf_counter() - started, 1)
    started = time.perf_counter()
    result = evaluate.run(settings)
    seconds["evaluate"] = round(time.perf_counter() - started, 1)
    return {"seconds": seconds, "metrics": result["metrics"], "buckets": result["buckets"]}


def _table(runs: list[dict[str, Any]]) -> str:
    """GAUC of every task and run in percent; for SARM the difference to Base."""
    lines = [f"{'taste':<6}{'seed':<6}{'model':<8}" + "".join(f"{task + ' GAUC':>20}" for task in TASKS) + f"{'s':>8}"]
    for run in runs:
        base = run["metrics"]["base"]
        for name in ("base", "sarm", "oracle"):
            cells = ""
            for task in TASKS:
                value = 100 * run["metrics"][name][task]["gauc"]
                delta = f" ({value - 100 * base[task]['gauc']:+.2f})" if name == "sarm" else ""
                cells += f"{f'{value:.2f}{delta}':>20}"
            took = f"{run['seconds']['train']:>8}" if name == "sarm" else ""
            lines.append(f"{'on' if run['taste'] else 'off':<6}{run['seed']:<6}{name:<8}{cells}{took}")
    return "\n".join(lines)
