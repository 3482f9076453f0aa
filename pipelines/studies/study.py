"""One table of a paper: variants x seeds on equal data, order and budget, and what they gain over the reference.

Each trial trains one variant with one seed in one process (a Ray task), scores the newest day and leaves a file below
`study.trials`, with its scores beside it. Trials are cached by variant, seed, data and code, so an interrupted study
resumes. Rows that no variant trains (`study.references`: regressions, a cross network, ceilings) are made and cached in
the same way. The study leaves `<run_dir>/table.json`, the same as `table.md`, and with figures as `report.html`.
Run: python -m pipelines study --config pipelines/configs/studies/table1.yaml
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runtime.cluster import connected
from pipelines.runtime.config import ConfigError, to_dict
from pipelines.studies import ablations, anchor_sources, convergence, cost, pairs, reference_rows, user_intervals
from pipelines.studies.closure import code_digest
from pipelines.studies.config import OWN
from pipelines.studies.retrieval import study as retrieval_study
from pipelines.studies.stores import embed_anchors, prepare
from pipelines.studies.table import build_table, table_markdown, write_table
from pipelines.studies.trial import run_trial
from pipelines.studies.trials import plan_trial, run_missing

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)


def run(settings: "Settings") -> dict[str, Any]:
    """Makes the data, runs the trials that are missing, and writes the table."""
    from pipelines.studies.report import write_report

    config = settings.study
    if config.towers:
        return retrieval_study.run(settings)
    variants, sources = config.variants, config.anchor_sources
    if not variants:
        raise ConfigError(
            "config.study.variants: wanted rows of a table, got none; start from pipelines/configs/studies/table1.yaml"
        )
    anchor_sources.require_models(sources)
    seeds = list(range(settings.seed, settings.seed + config.seeds))
    code = code_digest(run_trial.__module__)
    with connected(settings.cluster):
        stores = anchor_sources.prepare(settings, prepare(settings, seeds), sources)
        embed_anchors(settings, variants, stores)
        trials = {
            (name, seed): plan_trial(stores[variant.anchors][seed], variant, code)
            for seed in seeds
            for name, variant in variants.items()
        }
        folder = Path(config.trials or Path(settings.run_dir) / "trials")
        files = run_missing(trials, folder, config.parallel)
        others = reference_rows.run_missing(config, stores[OWN], folder / "references")
    records = [{"variant": name, "seed": seed} | json.loads(files[name, seed].read_text()) for name, seed in trials]
    said = [{"reference": name, "seed": seed} | json.loads(file.read_text()) for (name, seed), file in others.items()]
    table = build_table(config, variants, seeds, records, said)
    table["users"] = user_intervals.build(config, stores[OWN], files | others)
    table["pairs"] = pairs.build(table, config.against)
    table["ablation"] = ablations.build(variants, seeds, records)
    table["convergence"] = convergence.build(list(variants), seeds, config.reference, records)
    if sources:
        table["anchors"] = anchor_sources.benchmark(variants, sources, stores)
    table["cost"] = cost.build(config, variants, seeds, records, said)
    table["trials"] = {name: [str(files[name, seed]) for seed in seeds] for name in variants}
    sections = [of.markdown(table) for of in (pairs, user_intervals, ablations, anchor_sources, convergence, cost)]
    written = write_table(Path(settings.run_dir), table, sections)
    page = Path(settings.run_dir) / "report.html"
    write_report(page, table, records, to_dict(settings))
    log.info("study %s | %s | %s\n%s", config.name, written, page, table_markdown(table))
    return {"trials": len(trials), "table": str(written), "report": str(page)}
