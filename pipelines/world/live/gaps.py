"""What there is to gain from the screen in a made live world: how well labels can be ranked, by what is known.

Prints a table of one column a world. Run: python -m pipelines.world.live.gaps STORAGE_ROOT [STORAGE_ROOT ...]
"""

import sys
from collections.abc import Mapping

import numpy as np

from models.metrics import auc, gauc
from pipelines.tables.contract import TASKS_COLUMNS, ContractError
from pipelines.tables.storage import Storage
from pipelines.tables.truth import KNOWLEDGE

FUTURE = "future"
_REDRAWS = 30
"""How often labels are drawn again from their true chances: the labels of one day would hide small gaps."""


def gaps(storage: Storage, day: str = "") -> dict[tuple[str, str, str], float]:
    """By ("AUC" or "GAUC", task, knowledge), in percent, on a day, the last one where none is named.

    Knowledge: "future", the true chances, and each of KNOWLEDGE. Raises ContractError for a world without `world.live`.
    """
    truth_of = storage.with_oracle()
    if not truth_of.days("oracle_live"):
        raise ContractError("table oracle_live: wanted at least one day, got none; run the job world with world.live")
    day = day or truth_of.days("oracle_live")[-1]
    seen, true, less = (
        truth_of.read(name, day).sort_by("impression_id")
        for name in ("impressions", "oracle_impressions", "oracle_live")
    )
    user, rng = seen["user_id"].to_numpy(), np.random.default_rng(0)
    figures = {}
    for task in TASKS_COLUMNS:
        chance = true[task].to_numpy()
        labels = [rng.random(len(chance)) < chance for _ in range(_REDRAWS)]
        scores = {FUTURE: chance} | {known: less[f"{known}_{task}"].to_numpy() for known in KNOWLEDGE}
        for known, score in scores.items():
            figures["AUC", task, known] = 100 * float(np.mean([auc(drawn, score) for drawn in labels]))
            figures["GAUC", task, known] = 100 * float(np.mean([gauc(drawn, score, user) for drawn in labels]))
    return figures


def as_table(worlds: Mapping[str, Mapping[tuple[str, str, str], float]]) -> str:
    """The figures of several worlds in Markdown."""
    rows = ["| | " + " | ".join(worlds) + " |", "|---|" + "---:|" * len(worlds)]
    for measure, task, known in next(iter(worlds.values())):
        cells = [f"{figures[measure, task, known]:.2f}" for figures in worlds.values()]
        rows.append(f"| {measure}, {task}, {known} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(as_table({root: gaps(Storage.open(root)) for root in sys.argv[1:]}))  # noqa: T201
