"""What a day more costs a ranker that follows its days, and what its days showed before they were learnt.

The job follow goes through all days but the newest at once, then through the newest; beside it the job train learns
all of them from nothing, once, with the same batches. Each day is scored before it is learnt, which is in the seconds
of the run and not in those of the loop.
"""

import argparse
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.ranking import follow, train
from pipelines.runtime.cluster import connected
from pipelines.samples import examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings, read_settings
from pipelines.world import world
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/table1.yaml"


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench follow", description=__doc__)
    parser.add_argument("--config", default=CONFIG, help="configuration whose world and models are measured")
    parser.add_argument("--root", help="a store that stands already, made with this seed; it is only read")
    parser.add_argument("--ranker", default="base", choices=["base", "sarm"])
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        settings = read_settings(args.config, args.set)
        made = args.root or f"{scratch}/made"
        chosen = replace(settings.train, sources=() if args.ranker == "base" else (args.ranker,), base=False)
        settings = replace(settings, train=chosen, storage=replace(settings.storage, root=made))
        with connected(settings.cluster):
            if args.root is None:
                for job in (world, vocabulary, examples):
                    run_job(job, replace(settings, run_dir=f"{scratch}/world"))
            runs = measured(settings, Path(scratch))
    print(f"{'run':<26}{'days':>6}{'examples':>10}{'loop s':>9}{'run s':>8}")
    for name, of in runs.items():
        print(f"{name:<26}{of['days']:>6}{of['examples']:>10}{of['loop_s']:>9.1f}{of['run_s']:>8.1f}")
    judged = runs["the days before"]["judged"] + runs["the newest day"]["judged"]
    for of in judged:
        click = {name: round(value, 4) for name, value in of["click"].items()}
        print(f"{of['key']} before it was learnt: click {click}")
    share = runs["the newest day"]["loop_s"] / runs["all days from nothing"]["loop_s"]
    print(json.dumps({"bench": "follow", "ranker": args.ranker, "share_of_all_days": round(share, 3), "runs": runs}))
    return 0


def measured(settings: Settings, scratch: Path) -> dict[str, dict[str, Any]]:
    """The three runs, each over hard links of the store's files."""
    apart, whole = (_linked(settings, scratch, name) for name in ("apart", "whole"))
    days = sorted((Path(apart.storage.root) / "tables" / "examples").glob("day=*"))
    held = scratch / days[-1].name
    days[-1].rename(held)
    runs = {"the days before": _of(follow.run(apart.train, apart.open()))}
    held.rename(days[-1])
    runs["the newest day"] = _of(follow.run(apart.train, apart.open()))
    once = replace(whole.train, epochs=1, test_days=0, shuffle=whole.train.follow.shuffle)
    runs["all days from nothing"] = _of(train.run(once, whole.open()))
    return runs


def _linked(settings: Settings, scratch: Path, name: str) -> Settings:
    root = scratch / name
    shutil.copytree(settings.storage.root, root, copy_function=os.link)
    shutil.rmtree(root / "artifacts", ignore_errors=True)
    shutil.copytree(Path(settings.storage.root) / "artifacts" / "tokenizer", root / "artifacts" / "tokenizer")
    return replace(settings, storage=replace(settings.storage, root=str(root)), run_dir=str(scratch / f"run-{name}"))


def _of(metrics: dict[str, Any]) -> dict[str, Any]:
    (of,) = metrics["rankers"].values()
    return {
        "days": len(of["days"]),
        "examples": of["examples"],
        "loop_s": of["loop_seconds"],
        "run_s": of["seconds"],
        "judged": of.get("judged", []),
    }
