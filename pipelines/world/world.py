"""The simulated platform: seeded, generated day by day, streamed to storage in bounded memory.

Run: python -m pipelines world --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.runtime.run import Run
from pipelines.semantics import prompt
from pipelines.tables import contract, newest
from pipelines.tables.anchor_text import canonical_text
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage
from pipelines.world.authors import Author, day_name, true_anchor
from pipelines.world.config import PLATFORM_ONLY, WorldConfig
from pipelines.world.laws import Laws, open_laws
from pipelines.world.lexicon import CATEGORIES, FORMATS, SCENES, Lexicon
from pipelines.world.live.laws import FORMAT as LIVE_FORMAT
from pipelines.world.live.next_act import NextActs
from pipelines.world.lives import LivePlan, segment_rows
from pipelines.world.platform.laws import FORMAT as PLATFORM_FORMAT

log = logging.getLogger(__name__)
FORMAT = 1
"""The laws `sessions`, as a number in the lineage of their tables; those of `platform` have a number of their own.

Raise it with every change of code or lexicon after which the same config and seed give other rows: worlds that were
made before are then made again and not taken for current.
"""
LIVES_PER_CHUNK = 256


def run(config: WorldConfig, run: Run) -> dict[str, Any]:
    """Writes authors, users, segments, events, impressions and the oracle's tables, one day after another."""
    seed = run.seed
    storage = run.storage
    laws = open_laws(config, seed)
    made_from = _lineage(config, seed)
    counts = {"authors": len(laws.everyone), "lives": 0, "segments": 0, "impressions": 0}
    next_acts = NextActs()
    started = time.perf_counter()
    for day in range(config.num_days):
        name = day_name(config.first_day, day)
        plans = laws.plan(day)
        watched = config.impressions and day >= config.warmup_days
        # Authors are written last: they tell that the day is whole.
        if not storage.is_current("authors", name, made_from):
            _write_content(storage, name, day, plans, laws, config, seed, made_from)
            if watched:
                laws.watch(storage, name, day, plans, made_from)
            _write_authors(storage, name, day, laws.everyone, config, made_from)
        next_acts.see(plans)
        counts["lives"] += len(plans)
        counts["segments"] += sum(len(p.recorded(config.recorded_segments)) for p in plans)
        if watched and (impressions := storage.commit_of("impressions", name)) is not None:
            counts["impressions"] += impressions.rows
        took = time.perf_counter() - started
        log.info(
            "world day %d/%d | %d lives | %d impressions | %.1f s | eta %.0f s",
            day + 1, config.num_days, counts["lives"], counts["impressions"], took,
            took / (day + 1) * (config.num_days - day - 1),
        )  # fmt: skip
    return counts | next_acts.figures()


def _lineage(config: WorldConfig, seed: int) -> dict[str, str]:
    """What the world's tables are made from. Keys that the laws `sessions` do not know are no part of such a world."""
    told = asdict(config) | {"first_day": str(config.first_day)}
    if config.live is not None:
        return {"config": digest([PLATFORM_FORMAT, LIVE_FORMAT, told, seed])}
    if config.laws == "platform":
        return {"config": digest([PLATFORM_FORMAT, {k: v for k, v in told.items() if k != "live"}, seed])}
    return {"config": digest([FORMAT, {k: v for k, v in told.items() if k not in PLATFORM_ONLY}, seed])}


def _write_content(
    storage: Storage,
    name: str,
    day: int,
    plans: list[LivePlan],
    laws: Laws,
    config: WorldConfig,
    seed: int,
    made_from: dict[str, str],
) -> None:
    if not storage.is_current("segments", name, made_from):
        storage.write("segments", name, _segments(plans, day, laws.words, config, seed), made_from)
    truth = [{"author_id": p.author_id} | true_anchor(p, laws.words) for p in plans]
    for table, rows in ({"oracle_anchors": _table("oracle_anchors", truth)} | dict(laws.revealed(plans))).items():
        storage.write(table, name, [rows], made_from)
    if config.teacher:
        storage.write("anchors", name, [_table("anchors", [_taught(row) for row in truth])], made_from)
        newest.carry(storage, "anchors", until=name)


def _segments(plans: list[LivePlan], day: int, words: Lexicon, config: WorldConfig, seed: int) -> Iterator[pa.Table]:
    """Chunks of whole lives, authors ascending, so that an author's rows stand together."""
    for first in range(0, len(plans), LIVES_PER_CHUNK):
        rows: list[dict[str, Any]] = []
        for plan in plans[first : first + LIVES_PER_CHUNK]:
            rng = np.random.default_rng([seed, 3, day, plan.author_id])
            rows += segment_rows(
                plan, words, rng,
                recorded=config.recorded_segments, frames=config.frames_per_segment, frame_size=config.frame_size,
            )  # fmt: skip
        yield _table("segments", rows)


def _taught(truth: dict[str, Any]) -> dict[str, Any]:
    return truth | {
        "text": canonical_text(truth),
        "model": "oracle",
        "prompt_hash": prompt.PROMPT_HASH,
        "schema_hash": prompt.SCHEMA_HASH,
        "num_frames": 0,
        "num_comments": 0,
    }


def _write_authors(
    storage: Storage,
    name: str,
    day: int,
    everyone: list[Author],
    config: WorldConfig,
    made_from: dict[str, str],
) -> None:
    rows = [
        {
            "author_id": a.author_id,
            "profile": a.profile,
            "category": None if a.shown_category is None else CATEGORIES[a.shown_category],
            "tags": [FORMATS[a.format], SCENES[a.scene]][: a.author_id % 3],
            "first_live_day": config.first_day + timedelta(days=a.first_day),
        }
        for a in everyone
        if a.first_day == day
    ]
    storage.write("authors", name, [_table("authors", rows)], made_from)
    newest.carry(storage, "authors", until=name)


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=contract.spec(name).schema)
