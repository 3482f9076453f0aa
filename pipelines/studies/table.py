"""A study's table: means over seeds, paired differences to the reference with their 95 % intervals, the paper's beside.

Figures are points (percent of AUC or GAUC); an interval is Student's t over the seeds' paired differences. Intervals
over the users of one day stand apart, in user_intervals.py.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.studies import anchor_sources
from pipelines.studies.config import CEILINGS, ORACLE, REFERENCES

if TYPE_CHECKING:
    from pipelines.studies.config import StudyConfig, Variant

METRICS = ("auc", "gauc", "gauc_redrawn")
TITLES = {"auc": "AUC", "gauc": "GAUC", "gauc_redrawn": "GAUC, resampled"}
"""How people read METRICS; resampled: with labels sampled from the true probabilities many times."""
_LEVEL = 0.95

Record = Mapping[str, Any]


def build_table(
    config: "StudyConfig",
    variants: Mapping[str, "Variant"],
    seeds: Sequence[int],
    records: Sequence[Record],
    references: Sequence[Record] = (),
) -> dict[str, Any]:
    """The table of `table.json`. `records` hold one trial per variant and seed, `references` one per reference row."""
    by_variant = {name: [_record(records, name, seed) for seed in seeds] for name in variants}
    reference = by_variant[config.reference]
    rows: list[dict[str, Any]] = []
    for name, variant in variants.items():
        rows += _rows(config, name, variant.label or name, by_variant[name], reference)
    for name, said in _of_references(config, seeds, reference, references).items():
        rows += [row | {"trained": False} for row in _rows(config, name, REFERENCES[name], said, reference)]
    for key, whole in (("share_of_gap", ORACLE), ("share_of_content", CEILINGS[0])):
        _add_share(rows, key, whole)
    return {
        "study": config.name,
        "data": config.about or ("simulated world" if config.data == "world" else "tables"),
        "seeds": list(seeds),
        "interval_over": "worlds" if config.data == "world" else "initialisations",
        "reference": config.reference,
        "days": sorted({record["day"] for record in records}),
        "seconds": {name: float(np.mean([record["seconds"] for record in by_variant[name]])) for name in variants},
        "rows": rows,
        "exposure": _exposure(variants, by_variant, by_variant[config.reference]),
    }


def _record(records: Sequence[Record], variant: str, seed: int) -> Record:
    return next(record for record in records if (record["variant"], record["seed"]) == (variant, seed))


def _of_references(
    config: "StudyConfig", seeds: Sequence[int], reference: Sequence[Record], records: Sequence[Record]
) -> dict[str, list[Record]]:
    """The records of each reference row that there is, in the order of REFERENCES; every trial has the oracle's."""
    found: dict[str, list[Record]] = {}
    for name in REFERENCES if config.references is None else config.references:
        if name == ORACLE and all(ORACLE in record for record in reference):
            found[name] = [{"metrics": record[ORACLE]} for record in reference]
        elif said := {record["seed"]: record for record in records if record["reference"] == name}:
            found[name] = [said[seed] for seed in seeds]
    return found


def _rows(
    config: "StudyConfig", name: str, label: str, records: Sequence[Record], reference: Sequence[Record]
) -> list[dict[str, Any]]:
    rows = []
    for task in config.tasks:
        for metric in METRICS:
            if metric not in reference[0]["metrics"].get(task, {}):
                continue
            # A reference row may not rank a task.
            values = 100 * np.array([record["metrics"].get(task, {}).get(metric, math.nan) for record in records])
            others = 100 * np.array([record["metrics"][task][metric] for record in reference])
            row: dict[str, Any] = {"variant": name, "label": label, "task": task, "metric": metric}
            row |= compared(values, others)
            row |= {"paper_delta": _paper(config, name, task, metric), "seeds": [_finite(v) for v in values]}
            rows.append(row)
    return rows


def _exposure(
    variants: Mapping[str, "Variant"], by_variant: Mapping[str, Sequence[Record]], reference: Sequence[Record]
) -> list[dict[str, Any]]:
    """Click AUC and GAUC by the author's training impressions, where all seeds have such authors (SARM, Fig. 6)."""
    per_seed = [[(b["from"], b["to"]) for b in record["buckets"]] for record in reference]
    rows = []
    for bucket in per_seed[0]:
        if not all(bucket in buckets for buckets in per_seed):
            continue
        places = [buckets.index(bucket) for buckets in per_seed]
        for name, metric in ((name, metric) for name in variants for metric in ("auc", "gauc")):
            values, others = (
                np.array([100 * r["buckets"][i]["model"][metric] for r, i in zip(records, places, strict=True)])
                for records in (by_variant[name], reference)
            )
            row = {"variant": name, "from": bucket[0], "to": bucket[1], "metric": metric}
            rows.append(row | compared(values, others))
    return rows


def compared(values: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Mean, paired difference and its interval; None where a seed has no value (a task or bucket of one class)."""
    low, high = paired_interval(values, others)
    return {
        "mean": _finite(values.mean()),
        "delta": _finite((values - others).mean()),
        "ci_low": None if low is None else _finite(low),
        "ci_high": None if high is None else _finite(high),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _add_share(rows: list[dict[str, Any]], key: str, name: str) -> None:
    """How much of the way from the reference to the row `name` each row's mean delta goes; None where there is none."""
    whole = {(row["task"], row["metric"]): row["delta"] for row in rows if row["variant"] == name}
    for row in rows if whole else ():
        gap = whole[row["task"], row["metric"]]
        row[key] = row["delta"] / gap if gap and row["delta"] is not None else None


def paired_interval(values: npt.ArrayLike, others: npt.ArrayLike) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean paired difference; (None, None) with fewer than two pairs."""
    from scipy.stats import t

    differences = np.asarray(values, np.float64) - np.asarray(others, np.float64)
    if len(differences) < 2:
        return None, None
    half = t.ppf((1 + _LEVEL) / 2, len(differences) - 1) * differences.std(ddof=1) / math.sqrt(len(differences))
    return float(differences.mean() - half), float(differences.mean() + half)


def _paper(config: "StudyConfig", name: str, task: str, metric: str) -> float | None:
    """The paper's delta; it has no resampled labels, so its GAUC stands beside both of ours."""
    deltas = config.paper.get(name, {}).get(task)
    return None if deltas is None else float(deltas[0 if metric == "auc" else 1])


def tasks_of(table: Mapping[str, Any]) -> list[str]:
    """The tasks of a table, in order."""
    return list(dict.fromkeys(row["task"] for row in table["rows"]))


def table_markdown(table: Mapping[str, Any], tasks: Sequence[str] | None = None) -> str:
    """The table for people: one row per variant; a cell is the mean, or the delta with its interval and the paper's.

    `tasks` are all where it is None. AUC is shown of the first task alone; all of it is in the JSON.
    """
    rows = table["rows"]
    tasks = tasks or tasks_of(table)
    way = next((t for t in tasks if any(r["task"] == t and r.get("share_of_content") for r in rows)), None)
    columns = [(t, m) for t in tasks for m in METRICS if any(r["task"] == t and r["metric"] == m for r in rows)]
    columns = [(t, m) for t, m in columns if m != "auc" or t == tasks[0]]
    titles, right = [f"{task} {TITLES[metric]}" for task, metric in columns], anchor_sources.cells(table)
    titles = ["anchors right", *titles] if right else titles
    titles += [] if way is None else [f"{way}: way to the content in force"]
    lines = ["| variant | " + " | ".join(titles) + " |", "|" + "---|" * (1 + len(titles))]
    for name, label in dict.fromkeys((row["variant"], row["label"]) for row in rows):
        by_column = {(row["task"], row["metric"]): row for row in rows if row["variant"] == name}
        cells = [cell(by_column[column], name == table["reference"]) for column in columns]
        cells = [right.get(name, ""), *cells] if right else cells
        cells += [] if way is None else [_way(by_column, way)]
        is_trained = all(row.get("trained", True) for row in by_column.values())
        lines.append(f"| {label if is_trained else f'*{label}*'} | " + " | ".join(cells) + " |")
    seeds = table["seeds"]
    days = ", ".join(table["days"])
    head = f"**{table['study']}**: {table['data']}, seeds {seeds[0]} to {seeds[-1]}, scored on {days}."
    over = table.get("interval_over", "seeds")
    how = f"Points; difference to the reference with its 95 % interval over {over} [the paper's difference]."
    how += " Rows in italics are for scale: no variant trains them." if table.get("interval_over") else ""
    return "\n".join([f"{head} {how}", "", *lines])


def _way(by_column: Mapping[tuple[str, str], Record], task: str) -> str:
    """The share of the gap that is closed, by the last metric that there is."""
    metric = [metric for metric in METRICS if (task, metric) in by_column][-1]
    share = by_column[task, metric].get("share_of_content")
    return "n/a" if share is None else f"{100 * share:.0f} %"


def exposure_markdown(table: Mapping[str, Any]) -> str:
    """Click GAUC by the training impressions of the author (SARM, Fig. 6), in the form of `table_markdown`."""
    rows = [row for row in table["exposure"] if row["metric"] == "gauc"]
    buckets = list(dict.fromkeys((row["from"], row["to"]) for row in rows))
    titles = [f"{low} and more" if high is None else f"{low} to {high - 1}" for low, high in buckets]
    lines = ["| click GAUC, author shown | " + " | ".join(titles) + " |", "|" + "---|" * (1 + len(buckets))]
    labels = dict.fromkeys((row["variant"], row["label"]) for row in table["rows"])
    for name, label in labels:
        by_bucket = {(row["from"], row["to"]): row for row in rows if row["variant"] == name}
        if by_bucket:
            cells = [cell(by_bucket[bucket], name == table["reference"]) for bucket in buckets]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(row: Mapping[str, Any], is_reference: bool) -> str:
    """A row of the table for people: the mean of the reference, else the difference, its interval and the paper's."""
    if row["mean"] is None or row["delta"] is None:
        return "n/a"
    if is_reference:
        return f"{row['mean']:.2f}"
    interval = "" if row["ci_low"] is None else f" ({row['ci_low']:+.2f} to {row['ci_high']:+.2f})"
    paper = "" if row.get("paper_delta") is None else f" [{row['paper_delta']:+.2f}]"
    return f"{row['delta']:+.2f}{interval}{paper}"


def write_table(folder: Path, table: Mapping[str, Any], sections: Sequence[str] = ()) -> Path:
    """Writes table.json and table.md, which ends with `sections`, each in one step; returns the path of the first."""
    whole = "\n\n".join(filter(None, [table_markdown(table), exposure_markdown(table), *sections])) + "\n"
    for name, text in (("table.md", whole), ("table.json", json.dumps(table, indent=1, allow_nan=False) + "\n")):
        unfinished = folder / f"{name}.tmp"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, folder / name)
    return folder / "table.json"
