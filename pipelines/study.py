"""One table of a paper: variants x seeds on equal data, order and budget, and what they gain over the reference.

Each trial trains one variant with one seed in one process (a Ray task), scores the newest day and leaves a file below
`study.trials`; a trial whose variant, seed, data and code are unchanged is not run again. At the end stands
`<run_dir>/table.json`, the same as `table.md`, and with figures as `report.html`.
Run: python -m pipelines study --config pipelines/configs/studies/table1.yaml
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines import (
    convergence,
    embed,
    evaluate,
    examples,
    study_anchors,
    study_cost,
    study_table,
    vocabulary,
    world,
)
from pipelines.artifacts import Artifacts
from pipelines.cluster import connected
from pipelines.config import ConfigError, build, to_dict
from pipelines.prompt import digest
from pipelines.storage import Storage
from pipelines.train import make_plan, shared_root

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
Key = TypeVar("Key")
DATA = ("world", "store")
KINDS = ("base", "tags", *embed.READERS, "sarm")
"""What a variant may be: the base ranker, the base ranker with a fixed content feature, SARM."""
TRIAL_SOURCES = ("train_loop", "training_data", "content", "evaluate", "study_cost")
"""Modules of pipelines/ that a trial runs, beside all of models/."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of a study's table."""

    kind: str = "sarm"
    """One of KINDS."""
    label: str = ""
    """How the table names it; empty = its key."""
    anchors: str = study_anchors.OWN
    """One of the study's `anchor_sources`, whose anchors it reads; empty = those that the data came with."""
    model: dict[str, Any] = field(default_factory=dict)
    """Keys of SARMConfig that differ from `train.model`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: wanted one of {', '.join(KINDS)}, got {self.kind!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyConfig:
    """What is compared."""

    name: str = ""
    """Name of the study, as in its table."""
    about: str = ""
    """What the data are, as the table names them; empty = the simulated world, or the tables."""
    data: str = "world"
    """world: a simulated platform for each seed; store: the tables of `storage.root`, the same for all seeds."""
    seeds: int = 5
    """Seeds, from `seed` on. One seed fixes the world, the initialisation and the order of all variants."""
    parallel: int | None = None
    """Worlds and trials at a time, each on one core; null = as many as the cluster has CPUs."""
    trials: str = ""
    """Folder of finished trials, which studies may share; empty = `<run_dir>/trials`."""
    reference: str = "base"
    """The variant that the others are compared with."""
    full: str | None = None
    """The variant that the cheaper ones of its kind save from (SARM, Table 5): what they lose is counted against it."""
    variants: dict[str, Any] = field(default_factory=dict)
    """Rows of the table: {name: keys of Variant}, in order."""
    anchor_sources: dict[str, Any] = field(default_factory=dict)
    """Models that write anchors for variants: {name: keys of AnchorSource}."""
    paper: dict[str, Any] = field(default_factory=dict)
    """The paper's delta to its base in points: {variant: {task: [AUC, GAUC]}}."""

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data: wanted one of {', '.join(DATA)}, got {self.data!r}")
        if self.seeds < 1:
            raise ValueError(f"seeds: wanted at least 1, got {self.seeds}")
        if self.parallel is not None and self.parallel < 1:
            raise ValueError(f"parallel: wanted at least 1, or null, got {self.parallel}")

    def rows(self) -> dict[str, Variant]:
        """The variants. Raises ConfigError for unknown keys and where the reference is missing."""
        made = {name: build(Variant, raw, f"config.study.variants.{name}") for name, raw in self.variants.items()}
        for role in ("reference", "full"):
            if (wanted := getattr(self, role)) is not None and wanted not in made:
                raise ConfigError(
                    f"config.study.variants: wanted the {role} {wanted!r} among them, got "
                    f"{', '.join(made) or 'none'}; start from pipelines/configs/studies/table1.yaml"
                )
        unknown = sorted(set(self.paper) - set(made))
        if unknown:
            raise ConfigError(
                f"config.study.paper: unknown variant(s) {', '.join(unknown)}; known are {', '.join(made)}"
            )
        return made


def run(settings: "Settings") -> dict[str, Any]:
    """Makes the data, runs the trials that are missing, and writes the table."""
    from pipelines import study_report

    config = settings.study
    variants = config.rows()
    sources = study_anchors.sources(config.anchor_sources, variants)
    study_anchors.require_models(sources)
    seeds = list(range(settings.seed, settings.seed + config.seeds))
    with connected(settings.cluster):
        data = study_anchors.prepare(settings, _prepare(settings, seeds), sources)
        embedded = {variant.anchors for variant in variants.values() if variant.kind in embed.READERS}
        if embedded:
            roots = sorted({made.storage.root for source in embedded for made in data[source].values()})
            embed.embed_stores(settings, [Storage.open(root) for root in roots])
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
        vocabulary.run(settings)
        examples.run(settings)
        storage = replace(settings.storage, root=root)
        return {seed: replace(settings, seed=seed, storage=storage) for seed in seeds}
    of_seed = {
        seed: replace(settings, seed=seed, storage=replace(settings.storage, root=f"{root}/seed-{seed}"))
        for seed in seeds
    }
    made = _side_by_side(_make_world, {seed: (made,) for seed, made in of_seed.items()}, settings.study.parallel)
    for number, (seed, _) in enumerate(made, 1):
        vocabulary.run(of_seed[seed])  # here, because its tokenizer's path is this process's
        log.info("study | world %d/%d | seed %d", number, len(seeds), seed)
    return of_seed


def _make_world(settings: "Settings") -> None:
    """World and examples of one seed; both leave alone what is current."""
    world.run(settings)
    examples.run(settings)


def _trial_of(settings: "Settings", variant: Variant) -> tuple["Settings", str, str]:
    """Settings and kind of a trial, and the digest of all that it depends on."""
    trial = replace(settings, train=replace(settings.train, model=merged(settings.train.model, variant.model)))
    storage = Storage.open(trial.storage.root)
    plan, made_from = make_plan(trial, storage, Artifacts(storage), variant.kind)
    day = evaluate.day_of(trial.evaluate, storage)
    evaluate.refuse_trained_day(day, list(plan.days), variant.kind)
    measured = [day, storage.fingerprint("examples", day), list(trial.evaluate.exposure_bounds)]
    return trial, variant.kind, digest([_code(), made_from, *measured])


def _code() -> str:
    """Digest of the sources that make a trial's numbers: after a change of them no finished trial is used again."""
    here = Path(__file__).parent
    files = [*sorted((here.parent / "models").rglob("*.py")), *(here / f"{name}.py" for name in TRIAL_SOURCES)]
    return digest([file.read_text(encoding="utf-8") for file in files])


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result


def _run_missing(
    settings: "Settings", trials: Mapping[tuple[str, int], tuple["Settings", str, str]]
) -> dict[tuple[str, int], Path]:
    """Runs every trial without a file, as many at a time as there are CPUs; returns all files.

    A trial's file is named after what it is made from, so variants of one or several studies may share it.
    """
    folder = Path(settings.study.trials or Path(settings.run_dir) / "trials")
    folder.mkdir(parents=True, exist_ok=True)
    files = {key: folder / f"{kind}-{key[1]}-{digest[:16]}.json" for key, (_, kind, digest) in trials.items()}
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


def run_trial(settings: "Settings", kind: str) -> dict[str, Any]:
    """Trains one variant on one thread and measures it on the newest day. Runs inside a Ray task."""
    import torch

    from models.batch import collate
    from models.catalog import Catalog
    from models.sarm.model import SARM
    from models.sarm.tokenizer import LiveStreamingTokenizer
    from pipelines import trained as published
    from pipelines.content import READS, open_content
    from pipelines.train_loop import CATALOG, Place, train
    from pipelines.training_data import AnchorTable, read_examples, take

    torch.set_num_threads(1)
    storage = Storage.open(settings.storage.root)
    artifacts = Artifacts(storage)
    plan, _ = make_plan(settings, storage, artifacts, kind)
    tokenizer = LiveStreamingTokenizer.load(artifacts.fetch(vocabulary.KIND))
    with tempfile.TemporaryDirectory() as work:
        progress = train(
            plan, storage, tokenizer, work=Path(work), place=Place(), report=lambda *_: None, say=lambda _: None
        )
        peak = study_cost.peak_memory_gib()
        folder = Path(work) / f"after-{plan.days[-1]}"
        model, catalog = published.load_model(folder, kind), Catalog.load(folder / CATALOG)
    day = evaluate.day_of(settings.evaluate, storage)
    columns = read_examples(storage, day)
    bank = content = anchors = None
    if isinstance(model, SARM):
        anchors = AnchorTable(storage, catalog, tokenizer, tokens=model.config.tokens).advance(before=day)
        bank = model.encode_bank(anchors.tokens)
    elif kind in READS:
        content = open_content(kind, storage, catalog, plan.days, plan.semantic_ids).advance(before=day).table
    scores = published.score(model, catalog, columns, bank=bank, content=content)
    of_model = {"model": scores}
    oracle = None
    if day in storage.days("oracle_impressions"):
        of_model["oracle"] = oracle = evaluate.oracle_scores(settings.storage.root, day, columns)
    bounds = settings.evaluate.exposure_bounds
    some = collate(take(columns, slice(0, plan.batch_size)), catalog)
    record: dict[str, Any] = {
        "kind": kind,
        "day": day,
        "plan": asdict(plan),
        "seconds": progress.seconds,
        "encoded": progress.encoded,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cost": study_cost.of_trial(model, some, anchors.tokens if anchors else content, progress, peak),
        "curve": progress.curve,
        "metrics": evaluate.measure(columns, scores),
        "buckets": evaluate.by_exposure(storage, list(plan.days), columns, of_model, bounds),
    }
    if oracle is not None:
        record["oracle"] = evaluate.measure(columns, oracle)
        for name, values in (("metrics", scores), ("oracle", oracle)):
            for task_name, value in evaluate.redrawn_gauc(columns, oracle, values).items():
                record[name][task_name]["gauc_redrawn"] = value
    return record
