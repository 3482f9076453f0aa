"""The reference rows of a study: which the data allow, what each depends on, and running those that are missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.ranking import evaluate
from pipelines.ranking.plan import train_days
from pipelines.runtime.config import to_dict
from pipelines.studies.closure import code_digest
from pipelines.studies.config import CEILINGS, ORACLE, REFERENCES, SCREEN, StudyConfig
from pipelines.studies.references.reference import run_reference
from pipelines.studies.trials import run_files
from pipelines.tables import newest
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings

_ROOM = "pipelines.studies.references"
MODULES = {
    "regression": f"{_ROOM}.regression",
    "regression_phrases": f"{_ROOM}.regression",
    "regression_words": f"{_ROOM}.regression",
    "dcn": f"{_ROOM}.crossing",
    **dict.fromkeys(CEILINGS, f"{_ROOM}.ceilings"),
    **dict.fromkeys(SCREEN, f"{_ROOM}.screen"),
}
"""Where the row of each name is made; the oracle's comes with every trial."""


def run_missing(config: StudyConfig, per_seed: "Mapping[int, Settings]", folder: Path) -> dict[tuple[str, int], Path]:
    """Files of all reference rows by (name, seed), those that are missing made first; each file is named by its key."""
    names = [name for name in REFERENCES if _is_wanted(name, config) and name != ORACLE]
    train = config.variants[config.reference].train
    files, arguments = {}, {}
    for seed, settings in per_seed.items():
        for name in names:
            file = folder / f"{name}-{seed}-{key_of(name, config, settings)}.json"
            files[name, seed] = file
            arguments[file] = (settings, train, MODULES[name], name)
    titles = {file: f"{name} seed {seed}" for (name, seed), file in files.items()}
    run_files(run_reference, arguments, titles, config.parallel)
    return files


def _is_wanted(name: str, config: StudyConfig) -> bool:
    """Named by the study; where it names none, allowed by its data."""
    if config.references is not None:
        return name in config.references
    return name not in SCREEN and (name not in CEILINGS or config.data == "world")


def key_of(name: str, config: StudyConfig, settings: "Settings") -> str:
    """Digest of all that the row's numbers depend on: code, configuration and data."""
    storage, train = settings.open().storage, config.variants[config.reference].train
    day = evaluate.day_of(settings.evaluate.day, storage)
    days = [*train_days(train, storage), day]
    code = [code_digest(run_reference.__module__), code_digest(MODULES[name])]
    data = {f"examples/{one}": storage.fingerprint("examples", one) for one in days}
    data |= {table: newest.fingerprint(storage, table, until=day) for table in ("users", "authors")}
    data["anchors"] = newest.fingerprint(storage, "anchors", before=day)
    for table in ("oracle_impressions", *(["oracle_live"] if name in SCREEN else [])):
        if day in storage.days(table):
            data["truth" if table == "oracle_impressions" else table] = storage.fingerprint(table, day)
    chosen = [settings.seed, to_dict(train), _world(name, settings, storage)]
    return digest([name, code, data, days, chosen])


def _world(name: str, settings: "Settings", storage: Storage) -> list[str]:
    """What a ceiling is told of the world; others read none of it."""
    if name not in CEILINGS:
        return []
    return [str(settings.world), *(storage.fingerprint("impressions", day) for day in storage.days("impressions"))]
