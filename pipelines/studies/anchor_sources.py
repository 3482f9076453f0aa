"""A study's anchors by source: the ranking stays, and the model that wrote its anchors changes (SARM, Table 4).

A source is a checkpoint. For each seed and source there is a derived store: the tables of the seed's world, linked, and
the anchors that the source's model wrote, with the examples and the tokenizer that follow from them. The benchmark says
how often those anchors are right.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.runtime.config import ConfigError
from pipelines.samples import examples
from pipelines.semantics import anchors, vocabulary
from pipelines.semantics.agreement import agreement
from pipelines.studies.config import OWN, AnchorSource
from pipelines.tables import contract, rejections
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.storage import Storage, rows_of

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.studies.config import Variant

log = logging.getLogger(__name__)
DERIVED = ("anchors", "rejections", "anchor_embeddings", "examples")
"""Tables that a derived store makes for itself."""
_CARRIED = tuple(map(contract.newest_of, contract.CARRIED))
"""Follow from the others; whoever reads them carries them."""
Seeds = Mapping[int, "Settings"]


def require_models(sources: Mapping[str, AnchorSource]) -> None:
    """Raises ConfigError where a source's checkpoint is missing, before anything else takes time."""
    for name, source in sources.items():
        if not (Path(source.model) / "config.json").is_file():
            remedy = f"make it first: {source.made_by}" if source.made_by else "give the folder of a checkpoint"
            raise ConfigError(
                f"config.study.anchor_sources.{name}.model: wanted a folder with a Hugging Face checkpoint "
                f"(config.json), got {source.model}; {remedy}"
            )


def prepare(
    settings: "Settings", per_seed: Seeds, sources: Mapping[str, AnchorSource]
) -> dict[str, dict[int, "Settings"]]:
    """The data of every source and seed, {source: {seed: settings}}; those of OWN are `per_seed`.

    Each store's anchors are written with a start of the engine of its own; finished days are left alone.
    """
    data = {OWN: dict(per_seed)}
    for name, source in sources.items():
        writer = replace(settings.anchors, model=source.model)
        data[name] = {seed: _derived(world, name, writer) for seed, world in per_seed.items()}
        # Seeds share a store where the data are no simulated worlds.
        derived = {world.storage.root: data[name][seed] for seed, world in per_seed.items()}
        for root, one in derived.items():
            derive(Storage.open(root, oracle=True), Storage.open(one.storage.root))
        for one in derived.values():
            run = one.open()
            log.info("study | anchors of %s | %s", name, anchors.run(one.anchors, run))
            examples.run(one.examples, run)
            vocabulary.run(one.vocabulary, run)
    return data


def _derived(world: "Settings", name: str, writer: anchors.AnchorsConfig) -> "Settings":
    return replace(world, anchors=writer, storage=replace(world.storage, root=f"{world.storage.root}-{name}"))


def derive(data: Storage, derived: Storage, own: Sequence[str] = DERIVED) -> None:
    """Gives `derived` every day of `data`'s tables except those of its `own`, without a second copy of the files.

    Raises ContractError where `derived` has days that `data` no longer has.
    """
    for name in contract.TABLES:
        if name in own or name in _CARRIED:
            continue
        days = data.days(name)
        if gone := sorted(set(derived.days(name)) - set(days)):
            raise ContractError(
                f"table {name} of {derived.url}: wanted the days of {data.url}, got {', '.join(gone)} too; "
                f"remove {derived.url}, and the study makes it again"
            )
        for day in days:
            derived.adopt(name, day, data)


def benchmark(
    variants: Mapping[str, "Variant"], sources: Mapping[str, AnchorSource], data: Mapping[str, Seeds]
) -> list[dict[str, Any]]:
    """How often the anchors that each variant reads are right, over seeds and in each seed; one row per variant."""
    scores: dict[str, dict[str, Any]] = {}
    rows = []
    for name, variant in variants.items():
        if not variant.reads_anchors:
            continue
        roots = {seed: store.storage.root for seed, store in data[variant.anchors].items()}
        for root in roots.values():
            if root not in scores:
                scores[root] = score(Storage.open(root, oracle=True))
        source = sources.get(variant.anchors)
        rows.append(
            {"variant": name, "label": variant.label or name, "model": source.model if source else None}
            | _over_seeds([scores[root] for root in roots.values()])
            | {"seeds": [{"seed": seed} | scores[root] for seed, root in roots.items()]}
        )
    return rows


def score(storage: Storage) -> dict[str, Any]:
    """The anchor benchmark of a store: {author_days, valid_rate, agreement: {field: share}, agreement_mean}.

    `valid_rate` is anchors over anchors and rejections. Agreement with the oracle is exact-set agreement over all
    author-days with a known truth, where a missing anchor counts as wrong; None where the platform is not simulated.
    """
    days = storage.days("anchors")
    rejected = sum(rejections.of_stage(storage, day, anchors.STAGE).num_rows for day in days)
    valid = sum(rows_of(storage, "anchors", day) for day in days)
    truth = _by_author_day(storage, "oracle_anchors")
    shares = agreement(_by_author_day(storage, "anchors"), truth) if truth else None
    return {
        "author_days": valid + rejected,
        "valid_rate": valid / (valid + rejected),
        "agreement": shares,
        "agreement_mean": None if shares is None else float(np.mean(list(shares.values()))),
    }


def _by_author_day(storage: Storage, table: str) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (day, row["author_id"]): row
        for day in storage.days(table)
        for row in storage.read(table, day, ["author_id", *FIELDS]).to_pylist()
    }


def _over_seeds(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds of what `score` says."""
    truth_is_known = all(score["agreement"] is not None for score in scores)
    return {
        "author_days": sum(score["author_days"] for score in scores),
        "valid_rate": float(np.mean([score["valid_rate"] for score in scores])),
        "agreement": {f: float(np.mean([score["agreement"][f] for score in scores])) for f in FIELDS}
        if truth_is_known
        else None,
        "agreement_mean": float(np.mean([score["agreement_mean"] for score in scores])) if truth_is_known else None,
    }


def cells(table: Mapping[str, Any]) -> dict[str, str]:
    """The benchmark's score beside a variant's row, as text; empty where the study has none."""
    return {row["variant"]: _percent(row["agreement_mean"]) for row in table.get("anchors", [])}


def markdown(table: Mapping[str, Any]) -> str:
    """The benchmark as a table of its own: one row per variant, one column per field; "" where the study has none."""
    if not table.get("anchors"):
        return ""
    titles = ["mean of the six", *(field.replace("_", " ") for field in FIELDS), "valid"]
    lines = ["| anchors exactly right | " + " | ".join(titles) + " |", "|" + "---|" * (1 + len(titles))]
    for row in table["anchors"]:
        by_field = row["agreement"] or dict.fromkeys(FIELDS)
        shares = [row["agreement_mean"], *(by_field[field] for field in FIELDS), row["valid_rate"]]
        lines.append(f"| {row['label']} | " + " | ".join(map(_percent, shares)) + " |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"
