"""One table of a paper: variants x seeds on equal data, order and budget, and what they gain over the reference.

Each trial trains one variant with one seed in one process (a Ray task), scores the newest day and leaves a file below
`study.trials`; a trial whose variant, seed, data and code are unchanged is not run again. At the end stands
`<run_dir>/table.json`, the same as `table.md`, and with figures as `report.html`.
Run: python -m pipelines study --config pipelines/configs/studies/table1.yaml
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.ranking import evaluate
from pipelines.ranking.plan import make_plan
from pipelines.runtime.cluster import connected
from pipelines.runtime.config import ConfigError, to_dict
from pipelines.samples import examples
from pipelines.semantics import embed, vocabulary
from pipelines.studies import anchor_sources as study_anchors
from pipelines.studies import convergence
from pipelines.studies import cost as study_cost
from pipelines.studies import table as study_table
from pipelines.studies.config import Variant
from pipelines.studies.trial import run_trial
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage, shared_root
from pipelines.world import world

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
Key = TypeVar("Key")
TRIAL_SOURCES = ("ranking/loop", "samples/batches", "ranking/variants/two_stage", "ranking/evaluate", "studies/cost")
"""Modules of pipelines/ that a trial runs, beside all of models/."""


def run(settings: "Settings") -> dict[str, Any]:
    """Makes the data, runs the trials that are missing, and writes the table."""
    from pipelines.studies import report as study_report

    config = settings.study
    variants, sources = config.variants, config.anchor_sources
    if not variants:
        raise ConfigError(
            "config.study.variants: wanted rows of a table, got none; start from pipelines/configs/studies/table1.yaml"
        )
    study_anchors.require_models(sources)
    seeds = list(range(settings.seed, settings.seed + config.seeds))
    with connected(settings.cluster):
        data = study_anchors.prepare(settings, _prepare(settings, seeds), sources)
        embedded = {variant.anchors for variant in variants.values() if "anchor_embeddings" in variant.reads}
        if embedded:
            roots = sorted({made.storage.root for source in embedded for made in data[source].values()})
            embed.embed_stores(settings.embed, settings.open(), [Storage.open(root) for root in roots])
        trials = {
            (name, seed): _trial_of(data[variant.anchors][seed], variant)
            for seed in seeds
            for name, variant in variants.items()
        }
        files = _run_missing(settings, trials)
    records = [{"variant": name, "seed": seed} | json.loads(files[name, seed].read_text()) for name, seed in trials]
    table = study_table.build(config, variants, seeds, records)
    table["convergence"] = convergence.build(list(variants), seeds, config.reference, records)
    if sources:
        table["anchors"] = study_anchors.benchmark(variants, sources, data)
    table["cost"] = study_cost.build(config, variants, seeds, records)
    table["trials"] = {name: [str(files[name, seed]) for seed in seeds] for name in variants}
    sections = [study_anchors.markdown(table), convergence.markdown(table), study_cost.markdown(table)]
    written = study_table.write(Path(settings.run_dir), table, sections)
    report = Path(settings.run_dir) / "report.html"
    study_report.write(report, table, records, to_dict(settings))
    log.info("study %s | %s | %s\n%s", config.name, written, report, study_table.markdown(table))
    return {"trials": len(trials), "table": str(written), "report": str(report)}


def _prepare(settings: "Settings", seeds: list[int]) -> dict[int, "Settings"]:
    """The data of every seed: its own world, made in Ray tasks side by side, or the tables that are there."""
    root = shared_root(settings.storage.root)
    if settings.study.data == "store":
        vocabulary.run(settings.vocabulary, settings.open())
        examples.run(settings.examples, settings.open())
        storage = replace(settings.storage, root=root)
        return {seed: replace(settings, seed=seed, storage=storage) for seed in seeds}
    of_seed = {
        seed: replace(settings, seed=seed, storage=replace(settings.storage, root=f"{root}/seed-{seed}"))
        for seed in seeds
    }
    made = _side_by_side(_make_world, {seed: (made,) for seed, made in of_seed.items()}, settings.study.parallel)
    for number, (seed, _) in enumerate(made, 1):
        vocabulary.run(
            settings.vocabulary, of_seed[seed].open()
        )  # here, because its tokenizer's path is this process's
        log.info("study | world %d/%d | seed %d", number, len(seeds), seed)
    return of_seed


def _make_world(settings: "Settings") -> None:
    """World and examples of one seed; both leave alone what is current."""
    world.run(settings.world, settings.open())
    examples.run(settings.examples, settings.open())


def _trial_of(settings: "Settings", variant: Variant) -> tuple["Settings", Variant, str]:
    """Data of a trial, its variant, and the digest of all that it depends on."""
    run = settings.open()
    plan, made_from = make_plan(variant.train, run, Artifacts(run.storage), variant.train.sources)
    day = evaluate.day_of(settings.evaluate.day, run.storage)
    evaluate.refuse_trained_day(day, list(plan.keys), variant.ranker)
    measured = [day, run.storage.fingerprint("examples", day), list(settings.evaluate.exposure_bounds)]
    return settings, variant, digest([_code(), made_from, *measured])


def _code() -> str:
    """Digest of the sources that make a trial's numbers: after a change of them no finished trial is used again."""
    here = Path(__file__).parents[1]
    files = [*sorted((here.parent / "models").rglob("*.py")), *(here / f"{name}.py" for name in TRIAL_SOURCES)]
    return digest([file.read_text(encoding="utf-8") for file in files])


def _run_missing(
    settings: "Settings", trials: Mapping[tuple[str, int], tuple["Settings", Variant, str]]
) -> dict[tuple[str, int], Path]:
    """Runs every trial without a file, as many at a time as there are CPUs; returns all files.

    A trial's file is named after what it is made from, so variants of one or several studies may share it.
    """
    folder = Path(settings.study.trials or Path(settings.run_dir) / "trials")
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        key: folder / f"{variant.ranker}-{key[1]}-{digest[:16]}.json" for key, (_, variant, digest) in trials.items()
    }
    missing = {file: trials[key][:2] for key, file in files.items() if not file.is_file()}
    names = {file: f"{name} seed {seed}" for (name, seed), file in files.items()}
    log.info("study | %d trials, %d still to run", len(trials), len(missing))
    started = time.perf_counter()
    # Each trial in a process of its own, so that the peak of its memory is no other's.
    done = _side_by_side(run_trial, missing, settings.study.parallel, max_calls=1)
    for number, (file, record) in enumerate(done, 1):
        unfinished = file.with_suffix(".tmp")
        unfinished.write_text(json.dumps(record, indent=1))
        os.replace(unfinished, file)
        took = time.perf_counter() - started
        log.info(
            "study | trial %d/%d | %s | click GAUC %.4f | %.0f s | eta %.0f s",
            number, len(missing), names[file], record["metrics"]["click"]["gauc"], took,
            took / number * (len(missing) - number),
        )  # fmt: skip
    return files


def _side_by_side(
    work: Callable[..., Any], arguments: Mapping[Key, tuple[Any, ...]], limit: int | None, max_calls: int = 0
) -> Iterator[tuple[Key, Any]]:
    """Runs `work` for every key as Ray tasks, at most `limit` at a time; yields (key, result) as they finish.

    A worker process ends after `max_calls` of them; 0 = never.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=1, max_calls=max_calls)(work)
    waiting, running = list(arguments), dict[Any, Key]()
    while waiting or running:
        while waiting and len(running) < (limit or len(arguments)):
            key = waiting.pop(0)
            running[task.remote(*arguments[key])] = key
        done, _ = ray.wait(list(running))
        yield running.pop(done[0]), ray.get(done[0])
