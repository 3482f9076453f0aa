"""What a day more costs a ranker that follows its days, and what its days showed before they were learnt.

The job follow goes through the days one run after another, as they come; beside it one run of it goes through all of
them, which must end with the same bits, and the job train learns them from nothing, once, with the same batches. Each
day is scored before it is learnt, which is in the seconds of the run and not in those of the loop.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines.ranking import follow, train
from pipelines.ranking.checkpoint import OPTIMIZER, state_kind
from pipelines.ranking.variants import ranker_name
from pipelines.runtime.cluster import connected
from pipelines.samples import examples
from pipelines.semantics import vocabulary
from pipelines.settings import Settings, read_settings
from pipelines.tables.artifacts import Artifacts
from pipelines.world import world
from tests.pipelines.jobs import run_job

CONFIG = "pipelines/configs/studies/table1.yaml"
IN_ONE_RUN, FROM_NOTHING = "all days in one run", "all days from nothing"


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
            runs, same_bits = measured(settings, Path(scratch))
    print(f"{'run':<26}{'days':>6}{'examples':>10}{'loop s':>9}{'run s':>8}")
    for name, of in runs.items():
        print(f"{name:<26}{of['days']:>6}{of['examples']:>10}{of['loop_s']:>9.1f}{of['run_s']:>8.1f}")
    judged = [of for run in runs.values() for of in run["judged"]]
    for of in judged[: len(judged) // 2]:
        click = {name: round(value, 4) for name, value in of["click"].items()}
        print(f"{of['key']} before it was learnt: click {click}")
    share = list(runs.values())[-3]["loop_s"] / runs[FROM_NOTHING]["loop_s"]
    print(f"the newest day took {share:.3f} of all days; run by run and in one run: same bits {same_bits}")
    figures = {"bench": "follow", "ranker": args.ranker, "share_of_all_days": round(share, 3), "same_bits": same_bits}
    print(json.dumps(figures | {"runs": runs}))
    return int(not same_bits)


def measured(settings: Settings, scratch: Path) -> tuple[dict[str, dict[str, Any]], bool]:
    """The runs, over hard links of the store's files; and whether following ended with the same bits both times."""
    apart, whole, anew = (_linked(settings, scratch, name) for name in ("apart", "whole", "anew"))
    held = scratch / "held"
    held.mkdir()
    days = sorted((Path(apart.storage.root) / "tables" / "examples").glob("day=*"))
    for day in days:
        day.rename(held / day.name)
    runs = {}
    for day in days:
        (held / day.name).rename(day)
        runs[day.name.removeprefix("day=")] = _of(follow.run(apart.train, apart.open()))
    runs[IN_ONE_RUN] = _of(follow.run(whole.train, whole.open()))
    once = replace(anew.train, epochs=1, test_days=0, shuffle=anew.train.follow.shuffle)
    runs[FROM_NOTHING] = _of(train.run(once, anew.open()))
    return runs, _learnt(apart) == _learnt(whole)


def _learnt(settings: Settings) -> dict[str, bytes]:
    """Weights, banks and who was seen, and the optimizer's tensors, byte by byte."""
    (sources,) = settings.train.rankers
    folder = Artifacts(settings.open().storage).fetch(state_kind(ranker_name(sources)))
    found = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    state = torch.load(folder / OPTIMIZER, weights_only=True)
    return found | {OPTIMIZER: repr(_plain(state)).encode()}


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_plain(value) for value in state]
    return hashlib.sha256(state.numpy().tobytes()).hexdigest() if isinstance(state, torch.Tensor) else state


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
