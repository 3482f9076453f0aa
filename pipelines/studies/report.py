"""The report of a study as one HTML file: its tables, how variants learn, what authors of each exposure gain."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.pages import page
from pipelines.studies import ablations, convergence
from pipelines.studies.config import ORACLE
from pipelines.studies.plots import Interval, delta_bars, loss_curves
from pipelines.studies.table import METRICS, TITLES, tasks_of
from pipelines.tables.contract import FIELDS

_TEMPLATE = Path(__file__).parent / "study.html.jinja"
_MEASURES = ("auc", "gauc")


def write_report(path: Path, table: Mapping[str, Any], records: Sequence[Mapping[str, Any]], config: Any) -> None:
    """Writes the page of a table that `build_table` and `convergence.build` made of `records`, in one step.

    Equal arguments give equal bytes. `config` is shown as the study's configuration.
    """
    page.write(render(table, records, config), path)


def render(table: Mapping[str, Any], records: Sequence[Mapping[str, Any]], config: Any) -> str:
    """The page as text."""
    labels = {row["variant"]: row["label"] for row in table["rows"]}
    content = {
        "table": table,
        "simulated": ORACLE in labels,
        "labels": labels,
        "for_scale": {row["variant"] for row in table["rows"] if not row.get("trained", True)},
        "has_ceiling": any(row.get("share_of_content") for row in table["rows"]),
        "users": _users(table),
        "ablation": _ablation(table),
        "pairs": _pairs(table),
        "tasks": [_task(table, task) for task in tasks_of(table)],
        "parts": [convergence.part_name(*part) for part in convergence.PARTS],
        "losses": [
            (title, _by_variant([row for row in table["convergence"] if row["loss"] == loss]))
            for loss, title in convergence.LOSSES.items()
            if any(row["loss"] == loss for row in table["convergence"])
        ],
        "buckets": [page.bucket(*bucket) for bucket in _buckets(table)],
        "exposure": {
            measure: _by_variant([row for row in table["exposure"] if row["metric"] == measure])
            for measure in _MEASURES
        },
        "fields": FIELDS,
        "config": page.as_yaml(config),
    }
    return page.render(_TEMPLATE, content, _figures(table, records, labels))


def _task(table: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The rows of a task: measures in order, and for each variant one cell per measure."""
    rows = [row for row in table["rows"] if row["task"] == task]
    measures = [metric for metric in METRICS if any(row["metric"] == metric for row in rows)]
    return {
        "name": task,
        "measures": [(metric, TITLES[metric]) for metric in measures],
        "rows": _by_variant(rows),
    }


def _by_variant(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], []).append(row)
    return by_variant


def _users(table: Mapping[str, Any]) -> dict[str, Any]:
    """Click differences with intervals over users: names of the groups of seeds, and by variant a cell for each."""
    rows = [row for row in table.get("users", ()) if row["against"] == table["reference"]]
    rows = [row for row in rows if row["task"] == tasks_of(table)[0]]
    if not rows:
        return {}
    metric = max((row["metric"] for row in rows), key=METRICS.index)
    rows = [row for row in rows if row["metric"] == metric]
    groups = list(dict.fromkeys(", ".join(map(str, row["seeds"])) for row in rows))
    return {"metric": TITLES[metric], "groups": groups, "rows": _by_variant(rows)}


def _pairs(table: Mapping[str, Any]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """By pair of variants, the row of each task's last measure."""
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in table.get("pairs", ()):
        found.setdefault((row["variant"], row["against"]), {})[row["task"]] = row
    return {pair: [by_task[task] for task in tasks_of(table)] for pair, by_task in found.items()}


def _ablation(table: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the parts, and by variant the row of each part that it has."""
    rows = table.get("ablation", [])
    by_variant = {name: {row["part"]: row for row in of} for name, of in _by_variant(rows).items()}
    return {"parts": ablations.parts_of(rows), "rows": by_variant}


def _buckets(table: Mapping[str, Any]) -> list[tuple[int, int | None]]:
    return list(dict.fromkeys((row["from"], row["to"]) for row in table["exposure"]))


def _figures(
    table: Mapping[str, Any], records: Sequence[Mapping[str, Any]], labels: Mapping[str, str]
) -> dict[str, str]:
    """SVG of every figure that the table has numbers for."""
    reference = table["reference"]
    variants = list(dict.fromkeys(row["variant"] for row in table["rows"] if row.get("trained", True)))
    figures = {}
    for loss, title in convergence.LOSSES.items():
        if drawn := convergence.running(variants, table["seeds"], records, loss):
            figures[loss] = loss_curves(loss, title, *drawn, labels, reference)
    others = [name for name in variants if name != reference]
    if not others:
        return figures
    tasks = [page.words(task) for task in tasks_of(table)]
    series = _intervals(table["rows"], others)
    figures["tasks"] = delta_bars("tasks", "Ranking quality", tasks, series, labels, reference)
    if buckets := [page.bucket(*bucket) for bucket in _buckets(table)]:
        series = _intervals(table["exposure"], others)
        subject = "Click prediction by exposure of the author"
        figures["exposure"] = delta_bars("exposure", subject, buckets, series, labels, reference)
    return figures


def _intervals(rows: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> dict[str, dict[str, list[Interval]]]:
    """Difference and interval of each variant and measure, in the order of the rows."""
    return {
        name: {
            measure: [
                (row["delta"], row["ci_low"], row["ci_high"])
                for row in rows
                if (row["variant"], row["metric"]) == (name, measure)
            ]
            for measure in _MEASURES
        }
        for name in variants
    }
