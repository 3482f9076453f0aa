"""The rows of a study of retrieval: the store that each reads, its trials, the codes that one row makes for others.

A row with codes reads a store derived from its seed's: the same tables, linked, but vectors of segments by the towers
of the row named in `codes_of`, codes of these, and examples whose histories carry them.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from models.code_quality import purities
from pipelines.ranking import evaluate
from pipelines.retrieval import item_vectors
from pipelines.retrieval.item_vectors import ItemVectorsConfig
from pipelines.retrieval.towers_plan import KIND, make_plan
from pipelines.samples import examples
from pipelines.semantics import codes, segment_vectors
from pipelines.semantics.codes import TARGETS
from pipelines.studies import anchor_sources
from pipelines.studies.config import TowersRow
from pipelines.studies.retrieval.trial import run_trial
from pipelines.studies.side_by_side import side_by_side
from pipelines.studies.trials import run_files
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import to_numpy
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
Files = dict[tuple[str, int], Path]
_KEY = ["author_id", "live_id", "segment"]
_OWN = ("examples", "rejections", "item_vectors", *(target.table for target in TARGETS.values()))
"""Tables that a derived store makes for itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One row with one seed."""

    settings: "Settings"
    """Those of the study, with the seed and the store that the row reads."""
    row: TowersRow
    key: str
    """Digest of all that its numbers depend on."""


def plan_trial(settings: "Settings", row: TowersRow, code: str) -> Trial:
    """The trial of a row over the store of `settings`. Raises ContractError where days are missing."""
    run = settings.open()
    _, made_from = make_plan(row.towers, run)
    day = evaluate.day_of(settings.recall.day, run.storage)
    read = [run.storage.fingerprint(table, day) for table in ("examples", segment_vectors.TABLE)]
    scored = [day, read, repr(settings.recall), list(settings.evaluate.exposure_bounds)]
    return Trial(settings=settings, row=row, key=digest([code, made_from, scored]))


def run_missing(trials: Mapping[tuple[str, int], Trial], folder: Path, parallel: int | None) -> Files:
    """Runs every trial that has no file in `folder`; returns all files. Beside each are the towers: see `towers_of`."""
    files = {name: folder / f"{trial.row.towers.kind}-{name[1]}-{trial.key}.json" for name, trial in trials.items()}
    arguments = {files[name]: (trial.settings, trial.row, towers_of(files[name])) for name, trial in trials.items()}
    titles = {file: f"{row} seed {seed}" for (row, seed), file in files.items()}
    run_files(run_trial, arguments, titles, parallel, _said)
    return files


def towers_of(file: Path) -> Path:
    """The folder of a finished trial's towers."""
    return file.with_suffix(".towers")


def _said(record: Mapping[str, Any]) -> str:
    rates = record["metrics"]["hit_rate"]
    last = {name: [*rates[name].items()][-1] for name in ("on_air", "overall")}
    return " | ".join(f"HitRate@{k} {name} {rate:.4f}" for name, (k, rate) in last.items())


def derived(
    stores: Mapping[int, "Settings"], name: str, files: Mapping[int, Path], parallel: int | None
) -> dict[int, "Settings"]:
    """The seeds' stores for rows with codes of the row `name`, whose trials left `files`; what is current stays."""
    made = {
        seed: replace(of, storage=replace(of.storage, root=f"{of.storage.root}-{name}-{seed}"))
        for seed, of in stores.items()
    }
    arguments = {seed: (stores[seed], made[seed], files[seed]) for seed in stores}
    for number, (seed, _) in enumerate(side_by_side(_derive, arguments, parallel), 1):
        log.info("study | codes of %s %d/%d | seed %d", name, number, len(made), seed)
    return made


def _derive(given: "Settings", made: "Settings", trial: Path) -> None:
    run = made.open()
    anchor_sources.derive(Storage.open(given.storage.root, oracle=True), run.storage, _OWN)
    artifacts, run_id = Artifacts(run.storage), trial.stem
    if artifacts.current(KIND) != run_id:
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copytree(towers_of(trial), scratch, dirs_exist_ok=True)
            artifacts.publish(KIND, Path(scratch), run_id, {"trial": run_id})
    item_vectors.run(ItemVectorsConfig(), run)
    for of in TARGETS:
        codes.run(replace(made.codes, of=of), run)
    examples.run(replace(made.examples, codes=(TARGETS["item_vectors"].table,)), run)


def purity_of_codes(stores: Mapping[int, "Settings"]) -> list[dict[str, Any]]:
    """How well codes of the day that is scored tell the true themes apart (LARM figure 5), by table, seed and level;
    none where the truth is not known."""
    found = []
    for seed, settings in stores.items():
        storage = Storage.open(settings.storage.root, oracle=True)
        day = evaluate.day_of(settings.recall.day, storage)
        if not storage.holds("oracle_segments", day):
            continue
        truth = storage.read("oracle_segments", day, [*_KEY, "theme"])
        for table in (target.table for target in TARGETS.values()):
            rows = storage.read(table, day)
            places = rows.select(_KEY).append_column("place", pa.array(np.arange(rows.num_rows)))
            known = places.join(truth, _KEY, join_type="inner").sort_by("place")
            of = to_numpy(rows.select(["codes"]))["codes"][known["place"].to_numpy()]
            for level, values in enumerate(purities(of, known["theme"].to_numpy()), 1):
                found.append({"table": table, "seed": seed, "level": level, **values})
    return found


def read_all(files: Files) -> list[dict[str, Any]]:
    """The records of trials, with their row and seed."""
    return [{"row": row, "seed": seed} | json.loads(file.read_text()) for (row, seed), file in files.items()]
