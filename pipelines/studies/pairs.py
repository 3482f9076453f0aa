"""What a row of a study has more than another one that is not the reference, paired by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.studies.table import METRICS, TITLES, cell, compared, tasks_of

Record = Mapping[str, Any]


def build(table: Record, against: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The section "pairs" of `table.json`: a row for each pair of rows, task and metric, from the table's own rows."""
    found = {(row["variant"], row["task"], row["metric"]): row for row in table["rows"]}
    return [
        {"variant": name, "against": other, "task": task, "metric": metric}
        | compared(_seeds(row), _seeds(found[other, task, metric]))
        for name, others in against.items()
        for other in others
        for (variant, task, metric), row in found.items()
        if variant == name
    ]


def _seeds(row: Record) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in row["seeds"]], np.float64)


def markdown(table: Record) -> str:
    """The section "pairs" for people: a line for each pair, GAUC of every task; "" where the table has none."""
    rows = [row for row in table.get("pairs", ()) if row["metric"] != METRICS[0]]
    if not rows:
        return ""
    labels = {row["variant"]: row["label"] for row in table["rows"]}
    has = {(row["task"], row["metric"]) for row in rows}
    columns = [(task, metric) for task in tasks_of(table) for metric in METRICS if (task, metric) in has]
    titles = [f"{task} {TITLES[metric]}" for task, metric in columns]
    lines = ["| one row against another | " + " | ".join(titles) + " |", "|" + "---|" * (1 + len(titles))]
    for pair in dict.fromkeys((row["variant"], row["against"]) for row in rows):
        of = {(row["task"], row["metric"]): row for row in rows if (row["variant"], row["against"]) == pair}
        name = f"{labels[pair[0]]}, against {labels[pair[1]]}"
        lines.append(f"| {name} | " + " | ".join(cell(of[column], False) for column in columns) + " |")
    return "\n".join(lines)
