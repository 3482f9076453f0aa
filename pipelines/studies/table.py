"""A study's table: means over seeds, paired differences to the reference with their 95 % intervals, the paper's beside.

Figures are points (percent of AUC or GAUC); an interval is Student's t over the seeds' paired differences.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.ranking.evaluate import ORACLE
from pipelines.studies import anchor_sources
from pipelines.tables.contract import TASKS_COLUMNS

if TYPE_CHECKING:
    from pipelines.studies.config import StudyConfig, Variant

METRICS = ("auc", "gauc", "gauc_redrawn")
TITLES = {"auc": "AUC", "gauc": "GAUC", "gauc_redrawn": "GAUC, resampled"}
"""How people read METRICS; resampled: with labels sampled from the true probabilities many times."""
_LEVEL = 0.95

Record = Mapping[str, Any]


def build_table(
    config: "StudyConfig", variants: Mapping[str, "Variant"], seeds: Sequence[int], records: Sequence[Record]
) -> dict[str, Any]:
    """The table of `table.json`. `records` hold one trial per variant and seed."""
    by_variant = {name: [_record(records, name, seed) for seed in seeds] for name in variants}
    rows: list[dict[str, Any]] = []
    for name, variant in variants.items():
        rows += _rows(config, name, variant.label or name, by_variant[name], by_variant[config.reference])
    reference = by_variant[config.reference]
    if all(ORACLE in record for record in reference):
        truth = [{"metrics": record[ORACLE]} for record in reference]
        rows += _rows(config, ORACLE, "Oracle", truth, reference)
        _add_share_of_gap(rows)
    return {
        "study": config.name,
        "data": config.about or ("simulated world" if config.data == "world" else "tables"),
        "seeds": list(seeds),
        "reference": config.reference,
        "days": sorted({record["day"] for record in records}),
        "seconds": {name: float(np.mean([record["seconds"] for record in by_variant[name]])) for name in variants},
        "rows": rows,
        "exposure": _exposure(variants, by_variant, by_variant[config.reference]),
    }


def _record(records: Sequence[Record], variant: str, seed: int) -> Record:
    return next(record for record in records if (record["variant"], record["seed"]) == (variant, seed))


def _rows(
    config: "StudyConfig", name: str, label: str, records: Sequence[Record], reference: Sequence[Record]
) -> list[dict[str, Any]]:
    rows = []
    for task in TASKS_COLUMNS:
        for metric in METRICS:
            if metric not in records[0]["metrics"][task]:
                continue
            values = 100 * np.array([record["metrics"][task][metric] for record in records])
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


def _add_share_of_gap(rows: list[dict[str, Any]]) -> None:
    """How much of the way from the reference to the oracle each row's mean delta goes."""
    whole = {(row["task"], row["metric"]): row["delta"] for row in rows if row["variant"] == ORACLE}
    for row in rows:
        gap = whole[row["task"], row["metric"]]
        row["share_of_gap"] = row["delta"] / gap if gap and row["delta"] is not None else None


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


def table_markdown(table: Mapping[str, Any], tasks: Sequence[str] = TASKS_COLUMNS) -> str:
    """The table for people: one row per variant; a cell is the mean, or the delta with its interval and the paper's.

    AUC is shown of the first task alone; all of it is in the JSON.
    """
    rows = table["rows"]
    columns = [(t, m) for t in tasks for m in METRICS if any(r["task"] == t and r["metric"] == m for r in rows)]
    columns = [(t, m) for t, m in columns if m != "auc" or t == tasks[0]]
    titles, right = [f"{task} {TITLES[metric]}" for task, metric in columns], anchor_sources.cells(table)
    titles = ["anchors right", *titles] if right else titles
    lines = ["| variant | " + " | ".join(titles) + " |", "|" + "---|" * (1 + len(titles))]
    for name, label in dict.fromkeys((row["variant"], row["label"]) for row in rows):
        by_column = {(row["task"], row["metric"]): row for row in rows if row["variant"] == name}
        cells = [_cell(by_column[column], name == table["reference"]) for column in columns]
        cells = [right.get(name, ""), *cells] if right else cells
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    seeds = table["seeds"]
    days = ", ".join(table["days"])
    head = f"**{table['study']}**: {table['data']}, seeds {seeds[0]} to {seeds[-1]}, scored on {days}."
    how = "Points; difference to the reference with its 95 % interval over seeds [the paper's difference]."
    return "\n".join([f"{head} {how}", "", *lines])


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
            cells = [_cell(by_bucket[bucket], name == table["reference"]) for bucket in buckets]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], is_reference: bool) -> str:
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
