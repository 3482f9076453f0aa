"""A study of retrieval (LARM, table 1 and figures 4 and 5): towers x seeds on equal data, order and budget.

Trials are cached by row, seed, data and code, so an interrupted study resumes. Leaves `<run_dir>/table.json`, the same
as `table.md`, and with figures as `report.html`.
Run: python -m pipelines study --config pipelines/configs/studies/larm_table1.yaml
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runtime.cluster import connected
from pipelines.runtime.config import to_dict
from pipelines.studies import stores
from pipelines.studies.closure import code_digest
from pipelines.studies.retrieval import rows, table
from pipelines.studies.retrieval.report import write_report
from pipelines.studies.retrieval.trial import run_trial

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)


def run(settings: "Settings") -> dict[str, Any]:
    """Makes the data, runs the trials that are missing, and writes table and report."""
    config = settings.study
    seeds = list(range(settings.seed, settings.seed + config.seeds))
    folder, code = Path(config.trials or Path(settings.run_dir) / "trials"), code_digest(run_trial.__module__)
    with connected(settings.cluster):
        plain = _prepare(settings, seeds)
        files, purity = rows.Files(), []
        without = {name: row for name, row in config.towers.items() if row.codes_of is None}
        trials = {(n, seed): rows.plan_trial(plain[seed], row, code) for n, row in without.items() for seed in seeds}
        files |= rows.run_missing(trials, folder, config.parallel)
        for of in dict.fromkeys(row.codes_of for row in config.towers.values() if row.codes_of is not None):
            coded = rows.derived(plain, of, {seed: files[of, seed] for seed in seeds}, config.parallel)
            reads = {name: row for name, row in config.towers.items() if row.codes_of == of}
            trials = {(n, seed): rows.plan_trial(coded[seed], row, code) for n, row in reads.items() for seed in seeds}
            files |= rows.run_missing(trials, folder, config.parallel)
            purity += rows.purity_of_codes(coded)
    records = rows.read_all(files)
    built = table.build(config, seeds, records, purity)
    built["trials"] = {name: [str(files[name, seed]) for seed in seeds] for name in config.towers}
    written = table.write(Path(settings.run_dir), built)
    page = Path(settings.run_dir) / "report.html"
    write_report(page, built, to_dict(settings))
    log.info("study %s | %s | %s\n%s", config.name, written, page, table.markdown(built))
    return {"trials": len(files), "table": str(written), "report": str(page)}


def _prepare(settings: "Settings", seeds: list[int]) -> dict[int, "Settings"]:
    """Settings of each seed's store, with embeddings and examples."""
    per_seed = stores.per_seed(settings, seeds)
    if settings.study.data == "world":
        stores.each_seed(stores.make_world, per_seed, "world")
    for one in {of.storage.root: of for of in per_seed.values() if not settings.study.stores}.values():
        # Not in a task: the path of the checkpoint is relative to this process. Stores that are there have vectors.
        stores.embed(one)
    stores.each_seed(stores.make_examples, per_seed, "examples")
    return per_seed
