"""The data of a study, one store per seed: simulated worlds, or the tables that are there."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.samples import examples
from pipelines.semantics import embed, vocabulary
from pipelines.studies.config import Variant
from pipelines.studies.side_by_side import side_by_side
from pipelines.tables.storage import Storage, shared_root
from pipelines.world import world

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
Stores = Mapping[str, Mapping[int, "Settings"]]
"""Settings of each store by source of anchors and seed."""


def prepare(settings: "Settings", seeds: Sequence[int]) -> dict[int, "Settings"]:
    """Settings of each seed's store: its own world, made in Ray tasks side by side, or the tables that are there."""
    root = shared_root(settings.storage.root)
    if settings.study.data == "store":
        vocabulary.run(settings.vocabulary, settings.open())
        examples.run(settings.examples, settings.open())
        storage = replace(settings.storage, root=root)
        return {seed: replace(settings, seed=seed, storage=storage) for seed in seeds}
    per_seed = {
        seed: replace(settings, seed=seed, storage=replace(settings.storage, root=f"{root}/seed-{seed}"))
        for seed in seeds
    }
    finished = side_by_side(_make_world, {seed: (one,) for seed, one in per_seed.items()}, settings.study.parallel)
    for number, (seed, _) in enumerate(finished, 1):
        # The vocabulary is made here and not in the task: its tokenizer's path is relative to this process.
        vocabulary.run(settings.vocabulary, per_seed[seed].open())
        log.info("study | world %d/%d | seed %d", number, len(seeds), seed)
    return per_seed


def _make_world(settings: "Settings") -> None:
    """World and examples of one seed; both leave alone what is current."""
    world.run(settings.world, settings.open())
    examples.run(settings.examples, settings.open())


def embed_anchors(settings: "Settings", variants: Mapping[str, Variant], stores: Stores) -> None:
    """Embeds the anchors that variants read as embeddings, of all stores with one start of the engine."""
    read = {variant.anchors for variant in variants.values() if "anchor_embeddings" in variant.reads}
    roots = {store.storage.root for source in read for store in stores[source].values()}
    if roots:
        embed.embed_stores(settings.embed, settings.open(), [Storage.open(root) for root in sorted(roots)])
