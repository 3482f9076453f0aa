"""The data of a study, one store per seed: simulated worlds, or the tables that are there."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from models import ON_SCREEN
from pipelines.ranking.variants import screens_of
from pipelines.retrieval import item_vectors, towers
from pipelines.runtime.config import ConfigError
from pipelines.samples import examples
from pipelines.semantics import codes, embed_segments, vocabulary
from pipelines.semantics.embed import embed_stores
from pipelines.studies import anchor_sources
from pipelines.studies.config import Variant
from pipelines.studies.side_by_side import side_by_side
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage, shared_root
from pipelines.world import world

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
SEGMENT_CODES, ITEM_CODES = ON_SCREEN
EMBEDDINGS = "segment_embeddings"
ITEM_CODEBOOK = codes.TARGETS[item_vectors.TABLE].kind
OWN_OF_STUDIES = ("examples", "window_examples", "segment_codes", "item_vectors", "item_codes")
"""Tables that a study makes for itself beside a store that is there: nothing of that store changes."""
Stores = Mapping[str, Mapping[int, "Settings"]]
"""Settings of each store by source of anchors and seed."""


def prepare(settings: "Settings", seeds: Sequence[int]) -> dict[int, "Settings"]:
    """Settings of each seed's store: its own world, made in Ray tasks side by side, or the tables that are there.

    Where a variant reads what was on screen, segments get vectors and codes, and examples carry these.
    """
    settings = replace(settings, examples=replace(settings.examples, codes=codes_of(settings)))
    if settings.study.data == "store":
        _require_impressions(settings)
        learn_words(settings)
        code_segments(settings)
        make_examples(settings)
        return per_seed(settings, seeds)
    made = per_seed(settings, seeds)
    each_seed(make_world, made, "world")
    for one in made.values():
        # Neither is made in a task: the paths of tokenizer and checkpoint are relative to this process.
        learn_words(one)
        code_segments(one)
    each_seed(make_examples, made, "examples")
    return made


def per_seed(settings: "Settings", seeds: Sequence[int]) -> dict[int, "Settings"]:
    """Settings of each seed, with a store of its own, or with the one that is there for all."""
    root = shared_root(settings.storage.root)
    by_seed = {seed: root if settings.study.data == "store" else f"{root}/seed-{seed}" for seed in seeds}
    return {
        seed: replace(settings, seed=seed, storage=replace(settings.storage, root=of)) for seed, of in by_seed.items()
    }


def each_seed(work: Callable[["Settings"], None], made: Mapping[int, "Settings"], what: str) -> None:
    """`work` on every seed's store, in Ray tasks, as many at a time as the study says."""
    arguments = {seed: (one,) for seed, one in made.items()}
    parallel = next(iter(made.values())).study.parallel
    for number, (seed, _) in enumerate(side_by_side(work, arguments, parallel), 1):
        log.info("study | %s %d/%d | seed %d", what, number, len(made), seed)


def make_world(settings: "Settings") -> None:
    """One seed's tables: its world, or what is linked of the store that is there; what is current is left alone."""
    if not settings.study.stores:
        world.run(settings.world, settings.open())
        return
    given = Storage.open(shared_root(settings.study.stores).format(seed=settings.seed), oracle=True)
    if not given.days("impressions"):
        raise ConfigError(
            f"config.study.stores: wanted a store with impressions of seed {settings.seed}, got {given.url}, which has "
            "none; make it by the job world, or leave study.stores out"
        )
    anchor_sources.derive(given, settings.open().storage, OWN_OF_STUDIES)


def _require_impressions(settings: "Settings") -> None:
    """Raises ConfigError where the tables that are to be there are not."""
    storage = settings.open().storage
    if not storage.days("impressions"):
        raise ConfigError(
            f"config.storage.root: wanted a store with impressions, as study.data is store, got {storage.url}, which "
            "has none; run the job that makes its tables first (kuailive, movielens, csv)"
        )


def learn_words(settings: "Settings") -> None:
    """The tokenizer of one store, where a variant reads anchors: others need neither it nor a base tokenizer."""
    if any(variant.reads_anchors for variant in settings.study.variants.values()):
        vocabulary.run(settings.vocabulary, settings.open())


def make_examples(settings: "Settings") -> None:
    """One seed's examples."""
    examples.run(settings.examples, settings.open())


def codes_of(settings: "Settings") -> tuple[str, ...]:
    """The tables of codes that examples of the study must carry, for one of its variants or as its file says."""
    read = {table for variant in settings.study.variants.values() for table in screens_of(variant.train.sources)}
    return tuple(table for table in ON_SCREEN if table in read or table in settings.examples.codes)


def code_segments(settings: "Settings") -> None:
    """The codes that examples are to carry, in one store; what is current is left alone."""
    wanted, run = settings.examples.codes, settings.open()
    if not wanted:
        return
    embed(settings)
    if SEGMENT_CODES in wanted:
        codes.run(replace(settings.codes, of=EMBEDDINGS), run)
    if ITEM_CODES in wanted:
        _code_items(settings)


def embed(settings: "Settings") -> None:
    """The vectors of one store's segments. Where it has no segments, its vectors came with the data (KuaiLive-M3)."""
    run = settings.open()
    if run.storage.days("segments") or not run.storage.days(EMBEDDINGS):
        embed_segments.run(settings.embed_segments, run)


def _code_items(settings: "Settings") -> None:
    """Towers, the vectors of lives that they make, and their codes, in a store beside: the examples of which towers
    learn carry no codes that would depend on towers again."""
    beside = replace(settings.storage, root=f"{settings.storage.root}-towers")
    aside = replace(settings, storage=beside, examples=replace(settings.examples, codes=()))
    run, storage = aside.open(), settings.open().storage
    anchor_sources.derive(Storage.open(storage.url, oracle=True), run.storage, OWN_OF_STUDIES)
    examples.run(aside.examples, run)
    figures = towers.run(aside.towers, run)
    log.info("study | %s | %s", run.storage.url, {key: figures.get(key) for key in ("run_id", "how", "loss", "gate")})
    item_vectors.run(aside.item_vectors, run)
    codes.run(replace(aside.codes, of=item_vectors.TABLE), run)
    for day in run.storage.days(ITEM_CODES):
        storage.adopt(ITEM_CODES, day, run.storage)
    folder, manifest = Artifacts(run.storage).verified(ITEM_CODEBOOK)
    if Artifacts(storage).current(ITEM_CODEBOOK) != manifest.run_id:
        Artifacts(storage).publish(ITEM_CODEBOOK, folder, manifest.run_id, manifest.made_from)


def embed_anchors(settings: "Settings", variants: Mapping[str, Variant], stores: Stores) -> None:
    """Embeds the anchors that variants read as embeddings, of all stores with one start of the engine."""
    read = {variant.anchors for variant in variants.values() if "anchor_embeddings" in variant.reads}
    roots = {store.storage.root for source in read for store in stores[source].values()}
    if roots:
        embed_stores(settings.embed, settings.open(), [Storage.open(root) for root in sorted(roots)])
