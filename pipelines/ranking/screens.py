"""Screens: what came on screen of late, as codes, for rankers that read them; the endpoint follows it between banks.

Reads the tables of codes that the newest examples carry, and their codebooks; publishes an artifact for each,
"screen.segment_codes" and "screen.item_codes". Run it behind `codes` as segments arrive: it makes the next version,
which replicas take up without a restart, and does nothing where nothing is new. Memory: 24 + 4 J bytes a segment of
J codes that is kept, twice, and one batch of rows, 65,536 of them.
Run: python -m pipelines screens --config my.yaml
"""

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.artifacts import live_screen
from models.artifacts.codebook import Codebook
from models.artifacts.screens import Screen as StoredScreen
from pipelines.runtime.run import Run
from pipelines.samples.event_reader import DAY_MS
from pipelines.samples.examples import committed_screens, committed_tables
from pipelines.samples.on_screen import Screen
from pipelines.semantics.codes import CODEBOOKS
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.days import day_name
from pipelines.tables.fingerprint import digest

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScreensConfig:
    """Which segments the endpoint is told of."""

    days: int = 2
    """Newest days that are read, so that a live that began yesterday is found; what is older, the bank knows."""
    until_ts_ms: int | None = None
    """The moment, ms since 1970: segments that were not known then are left out. null = all."""
    keep_s: float = 3600.0
    """Every segment that was an author's newest at a moment of the last so many seconds is kept, so that a click of
    this time finds what it saw."""
    keep: int = 20
    """Versions that stay: there may be one every 30 s, and who serves one has all of it in memory."""

    def __post_init__(self) -> None:
        if min(self.days, self.keep) < 1 or self.keep_s < 0:
            raise ValueError(f"wanted days and keep >= 1 and keep_s >= 0, got {self}; correct them")
        if self.until_ts_ms is not None and self.until_ts_ms < 0:
            raise ValueError(f"until_ts_ms: wanted ms since 1970, or null, got {self.until_ts_ms}")


def run(config: ScreensConfig, run: Run) -> dict[str, Any]:
    """Publishes what is new of each table; its figures by table."""
    tables = committed_tables(run.storage)
    return {screen.table: _publish(config, run, screen) for screen in committed_screens(run.storage, tables)}


def _publish(config: ScreensConfig, run: Run, screen: Screen) -> dict[str, Any]:
    artifacts, listing, started = Artifacts(run.storage), run.storage.listing(screen.table), time.perf_counter()
    kind, until = live_screen.kind_of(screen.table), config.until_ts_ms
    days = listing.up_to(until=None if until is None else day_name(until // DAY_MS))[-config.days :]
    if not days:
        raise ContractError(
            f"table {screen.table}: wanted codes of segments on some day up to {until}, got none; set "
            "screens.until_ts_ms to null, or to a later moment"
        )
    made_from = {"config": digest([until, config.keep_s, screen.delay_ms, live_screen.FORMAT])}
    made_from |= {CODEBOOKS[screen.table]: screen.codebook}
    made_from |= {f"{screen.table}/{day}": listing.stamp(day) for day in days}
    run_id = f"{days[-1]}-{digest(made_from)}"
    if artifacts.current(kind) == run_id:
        return {"run_id": run_id, "how": "current"}
    until_ms = screen.newest_known_ms(days) if until is None else until
    stored = _stored(config, artifacts, screen, days, until_ms)
    if not len(stored.codes):
        raise ContractError(
            f"table {screen.table}, day(s) {', '.join(days)}: wanted a segment that was known at {until_ms} ms, got "
            "none; set screens.until_ts_ms to null, or to a later moment"
        )
    with tempfile.TemporaryDirectory() as scratch:
        live_screen.save(stored, until_ms, Path(scratch))
        artifacts.publish(kind, Path(scratch), run_id, made_from)
    artifacts.keep_newest(kind, config.keep)
    figures = {"until_ts_ms": until_ms, "days": days, "segments": len(stored.codes), "codebook": stored.codebook}
    log.info("%s %s | %s | %.1f s", kind, run_id, figures, time.perf_counter() - started)
    return {"run_id": run_id, "how": "published", **figures}


def _stored(
    config: ScreensConfig, artifacts: Artifacts, screen: Screen, days: list[str], until_ms: int
) -> StoredScreen:
    folder, _ = artifacts.verified(CODEBOOKS[screen.table], screen.codebook)
    since_ms = until_ms - screen.delay_ms - round(config.keep_s * 1000)
    authors, lives, ends, codes = screen.newest_of_authors(until_ms, since_ms=since_ms, days=days)
    return StoredScreen(
        codebook=screen.codebook,
        clusters=Codebook.load(folder).quantizer.clusters,
        delay_ms=screen.delay_ms,
        author_ids=authors,
        live_ids=lives,
        end_ts_ms=ends,
        codes=codes,
    )
