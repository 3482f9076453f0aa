"""What one trial cost: time, memory, parameters, FLOPs. A trial's code ends here; cost.py compares trials."""

import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.batch import RankingBatch
    from models.composed import ComposedRanker
    from models.sources import Inputs
    from pipelines.ranking.checkpoint import Progress


def peak_memory_gib() -> float:
    """The most memory that this process has held so far. It is a trial's own where its process runs nothing else."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / 2**30 if sys.platform == "darwin" else peak / 2**20)


def trial_cost(
    model: "ComposedRanker",
    batch: "RankingBatch",
    inputs: "Mapping[str, Inputs]",
    progress: "Progress",
    peak: float,
    epoch: int,
) -> dict[str, Any]:
    """The cost of one trial, as its file keeps it; `batch` and `inputs` as `models.cost.cost_table` wants them.

    `epoch` is how many examples one pass over the training days has.
    """
    from models.cost import TOTAL, cost_table

    rows = {row.block: asdict(row) for row in cost_table(model, batch, inputs)}
    total = rows[TOTAL]
    return {
        "cpu_s": progress.cpu_seconds,
        "wall_s": progress.seconds,
        "peak_memory_gib": peak,
        "examples": progress.examples,
        "epochs": progress.examples / epoch,
        "steps": progress.step,
        "encoded": progress.encoded,
        "id_parameters": total["id_parameters"],
        "dense_parameters": total["dense_parameters"],
        "flops_per_impression": total["flops_per_impression"],
        "flops_per_author": total["flops_per_author"],
        # An impression's share of what is encoded in training: authors of a batch are encoded once, or not at all.
        "flops_per_trained": total["flops_per_impression"]
        + total["flops_per_author"] * progress.encoded / progress.examples,
    }
