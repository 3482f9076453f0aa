"""Labels by Moment, Sliver, 5 minutes and 1 hour over one event log: how right, how soon, how many rows, at what cost.

The log is made up, one day long. Its visits are those of a live platform in kind: one exposure of five is clicked,
after a second or, rarely, minutes; half of the visits last less than half a minute and some last hours; what viewers do
is spread over their visits, and one visit of fifty ends without an exit. Events arrive with delays of up to 300 s, 1 %
of them twice, and 0.1 % later than they may. Exposures end hours before the day does, so that nearly all visits are
over. Accuracy and delay are against what the same log says in the end; each way of labelling runs in a process of its
own, which tells its peak memory.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.visits import EVENT_KINDS
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.run import Run
from pipelines.samples import windows
from pipelines.samples.windows_config import SourceConfig, WindowsConfig
from pipelines.tables.storage import Storage

DAY, START_MS, DAY_S = "2026-01-02", 1_767_312_000_000, 86_400
RULES: dict[str, dict[str, Any]] = {
    "moment": {"labels": "moment"},
    "sliver": {"labels": "sliver"},
    "5 min": {"labels": "fixed", "window_s": 300.0},
    "1 h": {"labels": "fixed", "window_s": 3600.0},
}
CLICKED, NO_EXIT, REPEATED, LATE = 0.2, 0.02, 0.01, 0.001
DONE = {"follow": 0.03, "like": 0.15, "comment": 0.08, "gift": 0.03}
"""Chance of each within a visit that was clicked; likes and comments come one to four times."""
FILE_ROWS = 1_000_000
Floats = NDArray[np.float64]


def simulated(impressions: int, seed: int) -> pa.Table:
    """The log in the order of arrival; about 1.7 events an impression."""
    rng = np.random.default_rng(seed)
    at = np.sort(np.clip(rng.normal(0.45, 0.12, impressions), 0, 0.75)) * DAY_S
    user = rng.integers(0, max(impressions // 30, 1), impressions)
    live = rng.zipf(1.3, impressions) % max(impressions // 300, 1)
    clicked = np.flatnonzero(rng.random(impressions) < CLICKED)
    click = at[clicked] + np.where(rng.random(len(clicked)) < 0.01, rng.exponential(90, len(clicked)), 0) + 1
    watched = np.minimum(rng.lognormal(3.2, 1.6, len(clicked)), 5 * 3600)
    parts = [(at, np.arange(impressions), "exposure", 0 * at), (click, clicked, "click", 0 * click)]
    has_exit = rng.random(len(clicked)) > NO_EXIT
    parts.append((click[has_exit] + watched[has_exit], clicked[has_exit], "exit", watched[has_exit]))
    for kind, chance in DONE.items():
        times = rng.integers(1, 5 if kind in ("like", "comment") else 2, len(clicked))
        rows = np.repeat(np.flatnonzero(rng.random(len(clicked)) < chance), 1)
        rows = np.repeat(rows, times[rows])
        parts.append((click[rows] + rng.random(len(rows)) * watched[rows], clicked[rows], kind, np.ones(len(rows))))
    moment, of, value = (np.concatenate([part[i] for part in parts]) for i in (0, 1, 3))
    kind = np.concatenate([np.full(len(part[0]), EVENT_KINDS.index(part[2]), np.int8) for part in parts])
    order = _arrival(moment, rng)
    moment, of, value, kind = moment[order], of[order], value[order], kind[order]
    return pa.table(
        {
            "user_id": user[of],
            "author_id": live[of] * 7,
            "live_id": live[of],
            "ts_ms": START_MS + (moment * 1000).astype(np.int64),
            "kind": pa.DictionaryArray.from_arrays(pa.array(kind), pa.array(EVENT_KINDS)).cast(pa.string()),
            "value": value.astype(np.float32),
        }
    )


def _arrival(moment: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """Events of the day, some twice, by when they arrive."""
    rows = np.flatnonzero(moment < DAY_S)
    rows = np.concatenate([rows, rng.choice(rows, round(REPEATED * len(rows)))])
    delay = np.minimum(rng.exponential(20, len(rows)), 300)
    delay += np.where(rng.random(len(rows)) < LATE, rng.uniform(600, 3600, len(rows)), 0)
    return rows[np.argsort(moment[rows] + delay, kind="stable")]


def write(root: Path, log: pa.Table) -> None:
    """Files as a collector leaves them: rows in the order of arrival, and repeats among them."""
    import pyarrow.parquet as pq

    folder = root / "tables" / "events" / f"day={DAY}"
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, log.num_rows, FILE_ROWS)):
        pq.write_table(log.slice(first, FILE_ROWS), folder / f"{number:05d}.parquet")


def measured(root: str, name: str, batch_rows: int) -> dict[str, Any]:
    """One way of labelling, in this process."""
    config = WindowsConfig(**RULES[name], batch_rows=batch_rows, source=SourceConfig(order="arrival"))
    run = Run(seed=0, folder=Path(root) / "run", storage=Storage.open(root), cluster=ClusterConfig())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, worked = time.perf_counter(), time.process_time()
    figures = windows.run(config, run)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - worked
    return {
        "events": figures["events"],
        "late": figures["late"],
        "duplicates": figures["duplicates"],
        "unmatched": figures["unmatched"],
        "visits": figures["visits"],
        "rows": figures["windows"],
        "seconds": round(seconds, 2),
        "cpu_s": round(cpu_s, 2),
        "events_per_s": round(figures["events"] / seconds),
        "events_per_cpu_s": round(figures["events"] / cpu_s),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_before_mib": round(before / 1024),
        "tasks": figures["tasks"],
        "rows_by_reason": figures["rows_by_reason"],
    }


def table(impressions: int, by_rule: dict[str, dict[str, Any]]) -> str:
    """Accuracy (share of what happened that was reported) and mean delay by task, and what it costs."""
    names = list(by_rule)
    lines = ["".join([f"{'':<26}", *(f"{name:>18}" for name in names)])]
    for task in next(iter(by_rule.values()))["tasks"]:
        of = [by_rule[name]["tasks"][task] for name in names]
        lines.append(_line(f"{task}: labels right", [f"{100 * one['accuracy']:.2f} %" for one in of]))
        lines.append(_line(f"{task}: found", [f"{100 * one['found'] / max(one['happened'], 1):.1f} %" for one in of]))
        lines.append(_line(f"{task}: s later (p90)", [f"{one['delay_mean_s']} ({one['delay_p90_s']})" for one in of]))
    rows = [by_rule[name] for name in names]
    lines.append(_line("rows per impression", [f"{one['rows'] / impressions:.2f}" for one in rows]))
    lines.append(_line("events a second", [f"{one['events_per_s']:,}" for one in rows]))
    lines.append(_line("events a CPU second", [f"{one['events_per_cpu_s']:,}" for one in rows]))
    lines.append(_line("peak memory, MiB", [f"{one['peak_mib']:,}" for one in rows]))
    return "\n".join(lines)


def _line(name: str, cells: list[str]) -> str:
    return "".join([f"{name:<26}", *(f"{cell:>18}" for cell in cells)])


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench windows", description=__doc__)
    parser.add_argument("--impressions", type=int, default=1_000_000, help="exposures of the day")
    parser.add_argument("--batch-rows", type=int, default=262_144, help="windows.batch_rows")
    parser.add_argument("--seed", type=int, default=0, help="of the log")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        log = simulated(args.impressions, args.seed)
        print(f"{args.impressions:,} impressions | {log.num_rows:,} events", flush=True)
        write(Path(folder), log)
        del log
        by_rule = {}
        for name in RULES:
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process of its own, for its peak memory
                by_rule[name] = pool.apply(measured, (folder, name, args.batch_rows))
    print(table(args.impressions, by_rule))
    print(json.dumps({"bench": "windows", "impressions": args.impressions, "rules": by_rule}))
    return 0
