"""What the variants of a study cost (SARM, Table 5): time, memory, parameters, FLOPs, and what savings lose.

Times are compared in CPU seconds of a trial's own process, which other trials on the machine disturb less than the
clock on the wall.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.studies.config import REFERENCES
from pipelines.studies.table import TITLES, paired_interval

if TYPE_CHECKING:
    from pipelines.studies.config import StudyConfig, Variant

LIMIT = 0.1
"""Points of click GAUC that a cheaper variant may lose."""
_METRICS = ("gauc_redrawn", "gauc")
_TASK = "click"

Record = Mapping[str, Any]


def build(
    config: "StudyConfig",
    variants: Mapping[str, "Variant"],
    seeds: Sequence[int],
    records: Sequence[Record],
    references: Sequence[Record] = (),
) -> dict[str, Any]:
    """The section "cost" of `table.json`. Of reference rows it has the CPU seconds alone, fitting and scoring."""
    by_variant = {
        name: [next(r for r in records if (r["variant"], r["seed"]) == (name, seed)) for seed in seeds]
        for name in variants
    }
    reference = by_variant[config.reference]
    full = None if config.full is None else by_variant[config.full]
    rows = [
        {"variant": name, "label": variant.label or name, "kind": variant.ranker}
        | _costs(by_variant[name], reference)
        | ({} if full is None else _lost(by_variant[name], full))
        for name, variant in variants.items()
    ]
    section: dict[str, Any] = {"reference": config.reference, "full": config.full, "rows": rows}
    section["references"] = [
        {"variant": name, "label": REFERENCES[name], "cpu_s": float(np.mean(of))}
        for name in REFERENCES
        if (of := [record["cost"]["cpu_s"] for record in references if record["reference"] == name])
    ]
    if config.full is not None:
        section |= {"metric": f"{_TASK} {_metric(reference)}", "limit": LIMIT, "cheapest": _cheapest(rows, config.full)}
    return section


def _costs(records: Sequence[Record], reference: Sequence[Record]) -> dict[str, Any]:
    """Means over seeds; `relative` to the reference of the same seed, with its range."""
    costs, others = [record["cost"] for record in records], [record["cost"] for record in reference]
    row = {key: float(np.mean([cost[key] for cost in costs])) for key in costs[0]}
    relative = [cost["cpu_s"] / other["cpu_s"] for cost, other in zip(costs, others, strict=True)]
    row |= {"relative": float(np.mean(relative)), "relative_low": min(relative), "relative_high": max(relative)}
    row["relative_wall"] = float(np.mean([c["wall_s"] / o["wall_s"] for c, o in zip(costs, others, strict=True)]))
    row["encoded_per_step"] = row.pop("encoded") / row.pop("steps")
    return row


def _lost(records: Sequence[Record], full: Sequence[Record]) -> dict[str, Any]:
    """Click GAUC in points against the variant that saves nothing, paired by seed."""
    metric = _metric(full)
    values, others = (100 * np.array([r["metrics"][_TASK][metric] for r in those]) for those in (records, full))
    low, high = paired_interval(values, others)
    return {"gauc_delta": float((values - others).mean()), "gauc_low": low, "gauc_high": high}


def _metric(records: Sequence[Record]) -> str:
    """Resampled labels, where there are some: the luck of one draw alone moves GAUC by more than LIMIT."""
    return next(metric for metric in _METRICS if all(metric in record["metrics"][_TASK] for record in records))


def _cheapest(rows: Sequence[dict[str, Any]], full: str) -> dict[str, Any]:
    """The least relative time among variants of the full one's kind that lose less than LIMIT to it."""
    kind = next(row["kind"] for row in rows if row["variant"] == full)
    kept = [row for row in rows if row["kind"] == kind and row["gauc_delta"] > -LIMIT]
    best = min(kept, key=lambda row: float(row["relative"]))
    return {key: best[key] for key in ("variant", "label", "relative", "gauc_delta", "gauc_low", "gauc_high")}


def markdown(table: Mapping[str, Any]) -> str:
    """The section "cost" for people; empty where the table has none."""
    cost = table.get("cost")
    if cost is None:
        return ""
    has_epochs = all("epochs" in row for row in cost["rows"])
    titles = ["cost", "time", "CPU s", *(["epochs"] if has_epochs else []), "authors/step", "memory, GiB"]
    titles += ["parameters: ids", "dense", "kFLOPs/impression", "in training"]
    titles += ["click GAUC"] if cost["full"] else []
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += ["| " + " | ".join(_cells(row, cost)) + " |" for row in cost["rows"]]
    for row in cost.get("references", ()):
        lines.append(f"| *{row['label']}* | – | {row['cpu_s']:.1f} | " + " | ".join(["–"] * (len(titles) - 3)) + " |")
    notes = "Trained rows have an equal budget of epochs, not of CPU seconds; both are given. " if has_epochs else ""
    notes += f"Time: CPU seconds of an epoch over those of {cost['reference']}, mean and range over seeds."
    if cost["full"]:
        best, (task, metric) = cost["cheapest"], cost["metric"].split()
        notes += (
            f" GAUC: {task} {TITLES[metric]}, in points against {cost['full']} (95 % interval). The cheapest that "
            f"loses less than {cost['limit']} point: {best['variant']}, at {best['relative']:.2f} times "
            f"{cost['reference']}."
        )
    return "\n".join([*lines, "", notes])


def _cells(row: Mapping[str, Any], cost: Mapping[str, Any]) -> list[str]:
    low, high = row["relative_low"], row["relative_high"]
    cells = [
        row["label"],
        f"{row['relative']:.2f} ({low:.2f} to {high:.2f})",
        f"{row['cpu_s']:.1f}",
        *([f"{row['epochs']:g}"] if "epochs" in row else []),
        f"{row['encoded_per_step']:.1f}",
        f"{row['peak_memory_gib']:.2f}",
        f"{row['id_parameters']:,.0f}",
        f"{row['dense_parameters']:,.0f}",
        f"{row['flops_per_impression'] / 1e3:,.0f}",
        f"{row['flops_per_trained'] / 1e3:,.0f}",
    ]
    if not cost["full"]:
        return cells
    interval = "" if row["gauc_low"] is None else f" ({row['gauc_low']:+.2f} to {row['gauc_high']:+.2f})"
    return [*cells, "0" if row["variant"] == cost["full"] else f"{row['gauc_delta']:+.2f}{interval}"]
