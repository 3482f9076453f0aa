"""What a trained variant loses when one thing that it reads is replaced by its mean at scoring (models/ablation.py)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.ablation import Ablation
from models.batch import RankingBatch, collate
from models.sources import Inputs, Representations
from pipelines.ranking import evaluate
from pipelines.ranking.published import PublishedRanker
from pipelines.samples.batches import take
from pipelines.studies.bootstrap import over_users
from pipelines.tables.columns import Columns

if TYPE_CHECKING:
    from pipelines.studies.config import Variant

_SCORED_TOGETHER = 4096
_METRICS = ("gauc_redrawn", "gauc")

Record = Mapping[str, Any]


def measure(
    ranker: PublishedRanker,
    inputs: Mapping[str, Inputs],
    columns: Columns,
    scores: evaluate.Scores,
    chance: evaluate.Scores | None,
) -> list[dict[str, Any]]:
    """One row per part: the spread of its vector, and the GAUC of the first task in points that is lost without it.

    The loss has the 95 % interval over users; with `chance`, labels are resampled from it. `inputs` are those of the
    day, `scores` [n, K] what the ranker says with all of its parts.
    """
    model = ranker.model
    tables = {name: torch.from_numpy(table) for name, table in model.tables(inputs).items()}

    def readings() -> Iterator[tuple[RankingBatch, list[Representations]]]:
        for start in range(0, len(columns["user_id"]), _SCORED_TOGETHER):
            batch = collate(take(columns, slice(start, start + _SCORED_TOGETHER)), ranker.catalog)
            yield batch, model.read(batch, *model.look_up(batch, tables))

    spreads, without = Ablation(model).measure(readings)
    task = ranker.tasks[0]
    whole = evaluate.by_user(columns, scores, ranker.tasks, chance)[task]
    metric = next(metric for metric in _METRICS if metric in whole)
    rows = []
    for part, spread in spreads.items():
        lacking = evaluate.by_user(columns, without[part].numpy(), ranker.tasks, chance)[task][metric]
        loss = over_users(whole[metric], lacking)
        named = {"loss": loss["delta"], "ci_low": loss["ci_low"], "ci_high": loss["ci_high"]}
        rows.append({"part": part, "spread": spread, "metric": metric, **named})
    return rows


def build(variants: Mapping[str, "Variant"], seeds: Sequence[int], records: Sequence[Record]) -> list[dict[str, Any]]:
    """The section "ablation" of `table.json`: one row per variant and part, means over seeds and each seed's interval.

    `ci_low` and `ci_high` are the lowest and the highest end of the seeds' intervals over users.
    """
    found = {(record["variant"], record["seed"]): record["ablation"] for record in records}
    rows = []
    for name, variant in variants.items():
        for place, first in enumerate(found[name, seeds[0]]):
            parts = [found[name, seed][place] for seed in seeds]
            known = all(part["loss"] is not None for part in parts)
            row = {"variant": name, "label": variant.label or name, "part": first["part"], "metric": first["metric"]}
            row["spread"] = float(np.mean([part["spread"] for part in parts]))
            row["loss"] = float(np.mean([part["loss"] for part in parts])) if known else None
            row["ci_low"] = min(part["ci_low"] for part in parts) if known else None
            row["ci_high"] = max(part["ci_high"] for part in parts) if known else None
            row["seeds"] = [{"seed": seed} | part for seed, part in zip(seeds, parts, strict=True)]
            rows.append(row)
    return rows


def parts_of(rows: Sequence[Record]) -> list[str]:
    """All parts, those of sources first, each once."""
    return sorted(dict.fromkeys(row["part"] for row in rows), key=lambda part: ":" not in part)


def markdown(table: Mapping[str, Any]) -> str:
    """The section "ablation" for people: one row per variant, one column per part; "" where the table has none."""
    rows = table.get("ablation")
    if not rows:
        return ""
    parts = parts_of(rows)
    lines = ["| click GAUC lost without | " + " | ".join(parts) + " |", "|" + "---|" * (1 + len(parts))]
    for name, label in dict.fromkeys((row["variant"], row["label"]) for row in rows):
        by_part = {row["part"]: row for row in rows if row["variant"] == name}
        lines.append(f"| {label} | " + " | ".join(_cell(by_part.get(part)) for part in parts) + " |")
    resampled = ", resampled" if rows[0]["metric"] == "gauc_redrawn" else ""
    note = (
        f"Click GAUC{resampled}, in points, that a trained variant loses when a part is replaced by its mean over the "
        "scored examples; history: the interest that Base reads from it. In brackets the 95 % interval over users, "
        "from the lowest to the highest end of all seeds; then the part's relative spread, 0 where it never differs."
    )
    return "\n".join([*lines, "", note])


def _cell(row: Record | None) -> str:
    if row is None:
        return "–"
    if row["loss"] is None:
        return f"n/a; {row['spread']:.3f}"
    return f"{row['loss']:+.2f} ({row['ci_low']:+.2f} to {row['ci_high']:+.2f}); {row['spread']:.3f}"
