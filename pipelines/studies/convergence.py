"""How fast variants learn (SARM, Fig. 5): training loss over the steps of all epochs, all seeds on the same scale.

Examples are seen once, in time order, so the loss of a step is that on examples not yet trained on. Losses are in nats.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.studies.table import compared

LOSSES = {"main_loss": "main loss (four tasks)", "click_loss": "click loss"}
"""Keys of a trial's curve, and how they are named."""
PARTS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0), (0.0, 1.0))
"""Parts of training that are compared."""
_WINDOW = 0.05
"""Width of the running mean of `curves`, as a share of training."""

Record = Mapping[str, Any]
Floats = npt.NDArray[np.float64]


def build(
    variants: Sequence[str], seeds: Sequence[int], reference: str, records: Sequence[Record]
) -> list[dict[str, Any]]:
    """The mean loss of each variant over each part of training, and its paired difference to the reference's.

    A loss that a trial has not recorded is left out.
    """
    curves = _curves(variants, seeds, records)
    rows = []
    for loss in (loss for loss in LOSSES if _recorded(curves, loss)):
        for first, last in PARTS:
            mean = {
                name: np.array([_mean(curve, loss, first, last).item() for curve in curves[name]]) for name in variants
            }
            rows += [
                {"variant": name, "loss": loss, "from": first, "to": last, **compared(mean[name], mean[reference])}
                for name in variants
            ]
    return rows


def running(
    variants: Sequence[str], seeds: Sequence[int], records: Sequence[Record], loss: str, points: int = 120
) -> tuple[Floats, dict[str, Floats]] | None:
    """The share of training [points], and the running mean of a loss of each variant and seed, [seeds, points].

    None where a trial has not recorded the loss.
    """
    curves = _curves(variants, seeds, records)
    if not _recorded(curves, loss):
        return None
    share = np.linspace(0.0, 1.0, points)
    first, last = np.maximum(share - _WINDOW / 2, 0.0), np.minimum(share + _WINDOW / 2, 1.0)
    values = {
        name: np.stack([_mean(curve, loss, first, last) for curve in per_seed]) for name, per_seed in curves.items()
    }
    return share, values


def markdown(table: Mapping[str, Any]) -> str:
    """The main loss over parts of training, in the form of `table_markdown`."""
    rows = [row for row in table["convergence"] if row["loss"] == "main_loss"]
    lines = [
        "| main loss, mean over steps | " + " | ".join(part_name(*part) for part in PARTS) + " |",
        "|" + "---|" * (1 + len(PARTS)),
    ]
    labels = {row["variant"]: row["label"] for row in table["rows"]}
    for name in dict.fromkeys(row["variant"] for row in rows):
        cells = [_cell(row, name == table["reference"]) for row in rows if row["variant"] == name]
        lines.append(f"| {labels[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def part_name(first: float, last: float) -> str:
    """How tables name a part of training."""
    if (first, last) == (0.0, 1.0):
        return "whole training"
    return f"{100 * first:.0f} to {100 * last:.0f} %"


def _cell(row: Record, is_reference: bool) -> str:
    if is_reference:
        return f"{row['mean']:.4f}"
    interval = "" if row["ci_low"] is None else f" ({row['ci_low']:+.4f} to {row['ci_high']:+.4f})"
    return f"{row['delta']:+.4f}{interval}"


def _curves(variants: Sequence[str], seeds: Sequence[int], records: Sequence[Record]) -> dict[str, list[list[Record]]]:
    curves = {(record["variant"], record["seed"]): record["curve"] for record in records}
    return {name: [curves[name, seed] for seed in seeds] for name in variants}


def _recorded(curves: Mapping[str, Sequence[Sequence[Record]]], loss: str) -> bool:
    return all(loss in entry for per_seed in curves.values() for curve in per_seed for entry in curve)


def _mean(curve: Sequence[Record], loss: str, first: float | Floats, last: float | Floats) -> Floats:
    """Mean loss between two shares of training. An entry holds for the steps since the entry before."""
    steps = np.array([0.0] + [entry["step"] for entry in curve])
    sums = np.concatenate([[0.0], np.cumsum([entry[loss] for entry in curve] * np.diff(steps))])
    low, high = np.asarray(first) * steps[-1], np.asarray(last) * steps[-1]
    return np.asarray((np.interp(high, steps, sums) - np.interp(low, steps, sums)) / (high - low))
