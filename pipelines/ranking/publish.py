"""The bank that serving reads: what the sources of a ranker say of every author, and every user's newest clicks.

Reads a trained ranker, its evaluation, what its sources read, and impressions; publishes the artifact "bank".
Run: python -m pipelines publish --config pipelines/configs/demo.yaml
"""

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.artifacts import bank, probe
from models.artifacts.bank_delta import UNTIL
from models.artifacts.manifest import ArtifactError
from models.artifacts.precision import stored_as
from models.artifacts.probe_record import record
from models.artifacts.screens import Screen as StoredScreen
from models.config import DayText
from models.history import HistoryRule
from models.sarm.memory_bank import MemoryBank
from models.sources import Inputs
from pipelines.ranking import gate, published
from pipelines.ranking.checkpoint import Progress, bank_file, read_progress, state_kind
from pipelines.ranking.gate import GateConfig
from pipelines.ranking.published import PublishedRanker
from pipelines.ranking.variants import SOURCES
from pipelines.ranking.variants.source import State
from pipelines.runtime.run import Run
from pipelines.samples.event_reader import day_start_ms
from pipelines.samples.examples import committed_rule, committed_screens, histories, window
from pipelines.samples.on_screen import Screen
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.days import NO_ANCHOR, day_after, day_before, day_of
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
KIND = "bank"
VECTORS = ("encoded", "trained")
DTYPES = ("float32", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishConfig:
    """What goes into the snapshot."""

    ranker: str | None = None
    """Which ranker to publish a bank of, by the names of its sources ("sarm", "sarm+tags"); null = the only one with
    sources that is trained."""
    until: DayText | None = None
    """Newest day that the sources know, YYYY-MM-DD; null = the newest there is. The day before the day under evaluation
    gives the very bank that evaluation used."""
    vectors: str = "encoded"
    """`encoded`: every author is encoded with the newest weights. `trained`: authors are as the memory bank of a ranker
    that follows by windows holds them, each of the step that encoded it last: the bank before and all its deltas."""
    dtype: str = "float32"
    """How vectors of authors are stored: `float16` takes half of the disk and memory, and moves scores by less than
    0.001 where it was measured (docs/serving.md). Deltas of the bank are stored alike; models read float32."""
    histories: bool = True
    """False leaves the users' histories out, where requests bring their own."""
    gate: GateConfig = field(default_factory=GateConfig)
    """What the ranker must have shown in its evaluation."""

    def __post_init__(self) -> None:
        if self.vectors not in VECTORS:
            raise ValueError(f"vectors: wanted one of {', '.join(VECTORS)}, got {self.vectors!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: wanted one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.vectors == "trained" and self.until is not None:
            raise ValueError(f"until: wanted null with vectors: trained, which are of one moment, got {self.until}")


def run(config: PublishConfig, run: Run) -> dict[str, Any]:
    """Makes the tables of the published ranker's sources, verifies the bank, and moves CURRENT to it."""
    storage = run.storage
    artifacts = Artifacts(storage)
    ranker = published.load(artifacts, published.chosen_ranker(config.ranker, artifacts))
    trained = _progress(artifacts, ranker) if config.vectors == "trained" else None
    until = _newest_day(config, storage, ranker) if trained is None else day_before(day_of(trained.done[-1]))
    before = day_after(until)
    rule, impressions = committed_rule(storage), storage.listing("impressions")
    clicks = impressions.days if config.histories else []
    clicks = window(clicks[-1], clicks, rule.days) if clicks else []
    screens = _screens(storage, ranker)
    made_from = _made_from(config, storage, artifacts, ranker, before, rule)
    made_from |= {f"impressions/{day}": impressions.stamp(day) for day in clicks} | _stamps(screens, {*clicks, until})
    if trained is not None:
        made_from[UNTIL] = str(trained.until_ms)
    run_id = f"{until}-{digest(made_from)}"
    if artifacts.current(KIND) == run_id:
        return {"run_id": run_id, "how": "current"}
    judged = gate.judge(config.gate, artifacts, ranker.name, ranker.manifest.run_id)
    started = time.perf_counter()
    states = ranker.states(storage, artifacts)
    inputs = published.advance(states, before)
    tables = ranker.model.tables(inputs) if trained is None else _held(artifacts, ranker, inputs)
    encode_s = time.perf_counter() - started
    anchor_day = _anchor_day(states, ranker.catalog.num_authors)
    moment_ms = day_start_ms(max([before, *map(day_after, clicks)]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stored = bank.write(
            folder,
            states={name: stored_as(table, config.dtype) for name, table in tables.items()},
            anchor_day=anchor_day,
            histories=histories(storage, clicks, rule, screens),
            newest_ts_ms=moment_ms,
            screens=_on_screen(screens, ranker, moment_ms),
        )
        probe.write(folder, record(ranker.model, ranker.catalog, stored))
        artifacts.publish(KIND, folder, run_id, made_from | {"evaluation": judged.get("evaluation", "none: gate off")})
    anchored = anchor_day[anchor_day != NO_ANCHOR]
    bank_mb = sum(table.nbytes for table in stored.states.values()) / 2**20
    log.info(
        "bank %s | %d rows, %d with an anchor | %d histories | %.1f MB | encoded in %.1f s",
        run_id, stored.rows, len(anchored), len(stored.histories.user_ids), bank_mb, encode_s,
    )  # fmt: skip
    return {
        "run_id": run_id,
        "how": "published",
        "ranker": ranker.name,
        "model": ranker.manifest.run_id,
        "until": until,
        "rows": stored.rows,
        "authors_with_anchor": len(anchored),
        "anchor_age_days_mean": float(anchored.max() - anchored.mean()) if len(anchored) else None,
        "users_with_history": len(stored.histories.user_ids),
        **{f"authors_with_{table}": len(screen.author_ids) for table, screen in stored.screens.items()},
        "bank_mb": round(bank_mb, 2),
        "encode_seconds": round(encode_s, 2),
        "gate": judged,
    }


def _screens(storage: Storage, ranker: PublishedRanker) -> list[Screen]:
    """The tables of codes that the ranker reads. Raises ContractError for codes of another codebook than its own."""
    screens = committed_screens(storage, list(ranker.model.screens))
    for screen in screens:
        if (wanted := ranker.model.screens[screen.table].codebook) != screen.codebook:
            raise ContractError(
                f"table {screen.table}: wanted codes of the codebook {wanted}, as the ranker {ranker.name} "
                f"{ranker.manifest.run_id} reads them, got those of {screen.codebook}; train it again with these"
            )
    return screens


def _stamps(screens: Sequence[Screen], days: set[str]) -> dict[str, str]:
    """What the codes of days are made from."""
    return {key: of for screen in screens for key, of in screen.made_from(sorted(days)).items()}


def _on_screen(screens: Sequence[Screen], ranker: PublishedRanker, moment_ms: int) -> dict[str, StoredScreen]:
    """By table, what was on screen of each author at the bank's moment."""
    found = {}
    for screen in screens:
        read = ranker.model.screens[screen.table]
        authors, lives, ends, codes = screen.newest_of_authors(moment_ms)
        found[screen.table] = StoredScreen(
            codebook=read.codebook,
            clusters=read.clusters,
            delay_ms=screen.delay_ms,
            author_ids=authors,
            live_ids=lives,
            end_ts_ms=ends,
            codes=codes,
        )
    return found


def _newest_day(config: PublishConfig, storage: Storage, ranker: PublishedRanker) -> str:
    """The newest day that the bank knows. Raises ContractError where the sources' tables hold no such day."""
    read = {table for name in ranker.sources for table in SOURCES[name].reads} or {"authors"}
    days = {day for table in read for day in storage.days(table) if config.until is None or day <= config.until}
    if not days:
        raise ContractError(
            f"table(s) {', '.join(sorted(read))}: wanted a day up to {config.until or 'today'}, got none; "
            "run the jobs that write them"
        )
    return config.until or max(days)


def _progress(artifacts: Artifacts, ranker: PublishedRanker) -> Progress:
    """How far a ranker has followed. Raises ArtifactError where its memory bank is not of one moment."""
    kind = state_kind(ranker.name)
    is_its = artifacts.current(kind) == ranker.manifest.run_id
    progress = read_progress(artifacts.fetch(kind)) if is_its else Progress()
    if not progress.done or progress.until_ms != day_start_ms(day_after(day_of(progress.done[-1]))):
        raise ArtifactError(
            f"publish.vectors: trained: wanted a ranker that has followed by windows, got {ranker.name} "
            f"{ranker.manifest.run_id}; run the job follow with train.follow.by: windows, or set it to encoded"
        )
    return progress


def _held(artifacts: Artifacts, ranker: PublishedRanker, inputs: Mapping[str, Inputs]) -> dict[str, npt.NDArray[Any]]:
    """What the memory banks of a ranker hold, [N+1, ...] by source; of a source that keeps none its table as of now."""
    folder = artifacts.fetch(state_kind(ranker.name), ranker.manifest.run_id)
    held = {}
    for name, source in ranker.model.items():
        if source.memory_bank(1, torch.device("cpu")) is None:
            with torch.no_grad():
                held[name] = source.table(inputs[name], ranker.model.ranker.authors).numpy()
        else:
            held[name] = MemoryBank.load(folder / bank_file(name)).vectors.numpy()
    return held


def _made_from(
    config: PublishConfig,
    storage: Storage,
    artifacts: Artifacts,
    ranker: PublishedRanker,
    before: str,
    rule: HistoryRule,
) -> dict[str, str]:
    """What the bank is made from beside impressions, the ranker first: serving loads both."""
    made_from = {
        "config": digest(
            [config.until, config.vectors, config.dtype, config.histories, config.ranker, asdict(rule), bank.FORMAT]
        ),
        "ranker": ranker.name,
        "model": ranker.manifest.run_id,
        "model_weights": ranker.manifest.files["model.safetensors"],
    }
    for name in ranker.sources:
        made_from |= SOURCES[name].depends_on(storage, before)
        made_from |= {key: ranker.manifest.made_from[key] for key in SOURCES[name].pinned(artifacts)}
    return made_from


def _anchor_day(states: Mapping[str, State], num_authors: int) -> npt.NDArray[np.int32]:
    """[N+1] of the first source that reads anchors; NO_ANCHOR everywhere where none does."""
    days = [state.anchor_day for state in states.values() if state.anchor_day is not None]
    return days[0] if days else np.full(num_authors + 1, NO_ANCHOR, dtype=np.int32)
