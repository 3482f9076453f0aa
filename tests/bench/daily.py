"""What a daily run costs on day 5, 50 and 500 of a small platform whose days are all alike.

A run is the jobs of a day that need neither engine nor trainer, as commands: anchors with nothing left to ask,
vocabulary, examples, publish. The days before are caught up in one go and are not measured; of the days from the named
one on, the cheapest counts. Seconds are CPU seconds, so that other work on the machine does not count: of the whole
commands, and of the jobs alone, without Python's start. Beside them stand the files that a run opens. Target: the
commands cost the same within 10 %, and as many files are opened.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pipelines.runtime.config import to_dict
from tests.pipelines.many_days import JOBS, Platform

ROOT = Path(__file__).resolve().parents[2]
TARGET = 0.1


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 1 where the target is missed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench daily", description=__doc__)
    parser.add_argument("--days", type=int, nargs="+", default=[5, 50, 500], help="first days to measure")
    parser.add_argument("--repeats", type=int, default=5, help="days to measure from each on")
    args = parser.parse_args(argv)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        platform = Platform(Path(scratch))
        rows = [_measure(platform, day, args.repeats) for day in sorted(args.days)]
    names = " ".join(f"{name:>11}" for name in JOBS)
    print(f"{'day':>5} {'commands s':>11} {'jobs s':>8} {names} {'files opened':>13}")
    for row in rows:
        each = " ".join(f"{row['of_job_s'][name]:>11.3f}" for name in JOBS)
        print(f"{row['day']:>5} {row['commands_s']:>11.2f} {row['jobs_s']:>8.3f} {each} {row['calls']['opened']:>13}")
    costs = [row["commands_s"] for row in rows]
    spread = max(costs) / min(costs) - 1
    print(json.dumps({"bench": "daily", "rows": rows, "spread": round(spread, 3), "target": TARGET}))
    return int(spread > TARGET or len({row["calls"]["opened"] for row in rows}) > 1)


def _measure(platform: Platform, day: int, repeats: int) -> dict[str, Any]:
    """The cheapest commands and jobs from `day` on."""
    platform.grow(day - 1)
    platform.run()
    commands_s = min(_commands(platform) for _ in range(repeats))
    runs = []
    for _ in range(repeats):
        platform.grow(platform.day + 1)
        runs.append(platform.run())
    of_job, calls = min(runs, key=lambda run: sum(run[0].values()))
    return {
        "day": day,
        "commands_s": round(commands_s, 3),
        "jobs_s": round(sum(of_job.values()), 4),
        "of_job_s": {name: round(seconds, 4) for name, seconds in of_job.items()},
        "calls": dict(calls),
    }


def _commands(platform: Platform) -> float:
    """CPU seconds of the commands of a new day."""
    platform.grow(platform.day + 1)
    config = Path(platform.settings.run_dir) / "daily.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(to_dict(platform.settings)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for name in JOBS:
        command = [sys.executable, "-m", "pipelines", name, "--config", str(config)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
