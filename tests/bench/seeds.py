"""Does text pay, and only where it should? Base and SARM over worlds and initialisations, through the real jobs.

For each seed and for semantic tastes on and off (the negative control): world, vocabulary, examples, then for each
initialisation train (by Ray Train) and evaluate. The anchors are the world's TRUE anchors, written in place of the
multimodal model's, so that the figures are of the ranking models alone.

Click GAUC stands twice: on the clicks of the test day, and as the mean over clicks drawn again from the oracle's
probabilities. Both estimate the same quantity; the second one is free of the luck of one draw, which alone moves the
difference of two models by about 0.2 point.
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

import numpy as np

from pipelines.ranking import evaluate, train
from pipelines.runtime.cluster import connected
from pipelines.samples import examples
from pipelines.samples.batches import read_examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings, read_settings
from pipelines.tables.contract import TASKS_COLUMNS
from pipelines.world import world
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/demo.yaml"
MODELS = ("base", "sarm", "oracle")
_INIT_STRIDE = 1000  # between the seeds of two initialisations in one world


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench seeds", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--seeds", type=int, default=3, help="number of worlds")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first world; the others follow it")
    parser.add_argument("--inits", type=int, default=2, help="initialisations of both models in each world")
    parser.add_argument("--taste", choices=["on", "off", "both"], default="both", help="semantic tastes")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = read_settings(args.config, args.set)
    tastes = {"on": [True], "off": [False], "both": [True, False]}[args.taste]
    runs = []
    with tempfile.TemporaryDirectory() as scratch, connected(settings.cluster):
        for taste in tastes:
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                root = Path(scratch) / f"taste-{taste}-{seed}"
                of_world = _settings(settings, root, seed, taste)
                for job in (world, vocabulary, examples):
                    run_job(job, of_world)
                for init in range(args.inits):
                    runs.append({"taste": taste, "seed": seed, "init": init} | _run(of_world, init))
                    logging.info("bench | %s", json.dumps(runs[-1]["click"]))
                shutil.rmtree(root)
    print(_table(runs))
    print(json.dumps({"bench": "seeds", "anchors": "oracle", "redraws": evaluate.REDRAWS, "runs": runs}))
    return 0


def _settings(settings: Settings, root: Path, seed: int, taste: bool) -> Settings:
    return replace(
        settings,
        seed=seed,
        run_dir=str(root / "run"),
        storage=replace(settings.storage, root=str(root / "store")),
        world=replace(settings.world, semantic_taste=taste, teacher=True, recorded_segments=1),
        train=replace(settings.train, sources=("sarm",), base=True),
    )


def _run(settings: Settings, init: int) -> dict[str, Any]:
    """One initialisation in a world that stands: seconds of training, and what evaluate says."""
    started = time.perf_counter()
    run_job(train, replace(settings, seed=settings.seed + _INIT_STRIDE * init))
    seconds = round(time.perf_counter() - started, 1)
    result = run_job(evaluate, settings)
    metrics = result["metrics"]
    redrawn = _redrawn_click_gauc(settings, result["day"])
    click = {name: {"gauc": metrics[name]["click"]["gauc"], "redrawn": redrawn[name]} for name in MODELS}
    return {"train_s": seconds, "click": click, "metrics": metrics, "buckets": result["buckets"]}


def _redrawn_click_gauc(settings: Settings, day: str) -> dict[str, float]:
    """Click GAUC of every model, as the mean over clicks drawn again."""
    run = settings.open()
    columns = read_examples(run.storage, day)
    chance = evaluate.oracle_scores(run.storage, day, columns, TASKS_COLUMNS)
    scores = {name: np.load(run.folder / evaluate.scores_file(name))["scores"] for name in MODELS[:2]}
    scores["oracle"] = chance
    redrawn = {name: evaluate.redrawn_gauc(columns, chance, values, TASKS_COLUMNS) for name, values in scores.items()}
    return {name: by_task["click"] for name, by_task in redrawn.items()}


def _table(runs: list[dict[str, Any]]) -> str:
    """GAUC in percent, the mean over initialisations; for SARM the difference to Base."""
    titles = ["click", "click, redrawn", *TASKS_COLUMNS[1:]]
    lines = [f"{'taste':<6}{'seed':<6}{'model':<8}" + "".join(f"{title:>18}" for title in titles)]
    for taste, seed in dict.fromkeys((run["taste"], run["seed"]) for run in runs):
        here = [run for run in runs if (run["taste"], run["seed"]) == (taste, seed)]
        means = {name: 100 * np.mean([_row(run, name) for run in here], axis=0) for name in MODELS}
        for name, row in means.items():
            pairs = list(zip(row, means["base"], strict=True))
            cells = [f"{v:.2f} ({v - b:+.2f})" if name == "sarm" else f"{v:.2f}" for v, b in pairs]
            lines.append(f"{'on' if taste else 'off':<6}{seed:<6}{name:<8}" + "".join(f"{c:>18}" for c in cells))
    return "\n".join(lines)


def _row(run: dict[str, Any], name: str) -> list[float]:
    """Click GAUC, the same redrawn, and the GAUC of the other tasks."""
    return [run["click"][name]["gauc"], run["click"][name]["redrawn"]] + [
        run["metrics"][name][task]["gauc"] for task in TASKS_COLUMNS[1:]
    ]
