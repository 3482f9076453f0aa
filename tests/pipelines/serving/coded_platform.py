"""A tiny platform whose ranker reads codes of what was on screen, published; and what it answers, computed offline."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models import TASKS
from pipelines.ranking import evaluate, publish
from pipelines.samples import examples
from pipelines.samples.event_reader import day_start_ms
from pipelines.samples.examples import Clicks, read_clicks, screens_of, with_histories, with_screens
from pipelines.settings import Settings
from pipelines.tables.columns import to_numpy
from pipelines.tables.storage import Storage
from serve.schema import RankRequest, RankResponse
from serve.snapshot import Snapshot
from tests.pipelines.conftest import tiny_settings, train_here
from tests.pipelines.jobs import run_job
from tests.pipelines.ranking.coded import CLUSTERS, STACK, with_codes
from tests.pipelines.samples.screens import code_row, write_codes
from tests.serve.conftest import watcher_of
from tests.serve.test_user_sequence import offline

NAME = "+".join(STACK)
MOMENT_MS = day_start_ms("2026-01-04")
"""Of the bank: the end of the last day."""
NEWCOMER = 987_654_321
"""An author without a row, whose live has been seen."""
NO_ANCHORS = np.zeros(0, np.int64), np.zeros(0, np.int32)


@dataclass(frozen=True, eq=False)
class Coded:
    """A platform whose ranker reads codes, published."""

    settings: Settings
    storage: Storage
    clicks: Clicks
    lives: dict[int, int]
    """Of each author, the live with their newest known segment."""
    snapshot: Snapshot

    @property
    def root(self) -> Path:
        return Path(self.settings.storage.root)

    @property
    def authors(self) -> list[int]:
        """All, one without a row, and one whom nobody has seen."""
        return [*self.snapshot.bank.catalog.author_ids.tolist(), NEWCOMER, 123]

    def offline(
        self,
        user: int,
        authors: Sequence[int],
        ts_ms: int,
        *,
        clicks: Clicks | None = None,
        lives: dict[int, int] | None = None,
    ) -> np.ndarray:
        """[C, K]: the examples of impressions of the authors' lives, scored as evaluation does."""
        size, of = len(authors), lives or self.lives
        shown = {"impression_id": [0] * size, "user_id": [user] * size, "author_id": list(authors)}
        shown |= {"live_id": [of.get(author, 0) for author in authors], "ts_ms": [ts_ms] * size}
        rows = with_screens(pa.table(shown), screens_of(self.storage, self.settings.examples))
        rows = with_histories(rows, clicks or self.clicks, NO_ANCHORS, self.settings.examples)
        return offline(self.snapshot, to_numpy(rows.drop(["anchor_day"])))


def make_coded(root: Path) -> Coded:
    """Of the tiny platform at a root: codes, a ranker that reads them, its evaluation and its bank."""
    tiny = tiny_settings(root)
    delays = replace(tiny.examples, delay_s=600.0, segment_delay_s=20.0)
    settings = with_codes(replace(tiny, examples=delays), base=False)
    storage = settings.open().storage
    for table in CLUSTERS:
        rows = storage.read(table, "2026-01-03").to_pylist()
        rows += [code_row(NEWCOMER * 10, n, MOMENT_MS - 90_000 + 30_000 * n, [n % 4, 1]) for n in range(3)]
        write_codes(storage, "2026-01-03", rows, table)
    run_job(examples, settings)
    train_here(settings)
    run_job(evaluate, settings)
    settings = replace(settings, publish=replace(settings.publish, ranker=NAME, until="2026-01-02"))
    run_job(publish, settings)
    days = storage.days("impressions")
    clicks = read_clicks(storage, days, screens=screens_of(storage, settings.examples))
    snapshot = watcher_of(Path(settings.storage.root)).current
    return Coded(settings, storage, clicks, newest_lives(storage, MOMENT_MS), snapshot)


def newest_lives(storage: Storage, moment_ms: int) -> dict[int, int]:
    """By hand: of each author, the live whose segment was the last one known at a moment."""
    best: dict[int, tuple[int, int]] = {}
    for row in storage.read_days("segment_codes", storage.days("segment_codes")).to_pylist():
        if row["end_ts_ms"] + 20_000 <= moment_ms:
            author = row["author_id"]
            best[author] = max(best.get(author, (0, 0)), (row["end_ts_ms"], row["live_id"]))
    return {author: live for author, (_, live) in best.items()}


def scores(answer: RankResponse, authors: Sequence[int]) -> np.ndarray:
    """[C, K] of an answer, in the order of these authors."""
    of = {each.author_id: [getattr(each, task) for task in TASKS] for each in answer.candidates}
    return np.array([of[author] for author in authors])


def asked(user: int, authors: Sequence[int], ts_ms: int, **more: Any) -> RankRequest:
    """A request of a moment."""
    fields = {"user_id": user, "candidates": list(authors), "context": {"ts_ms": ts_ms}} | more
    return RankRequest.model_validate(fields)


def with_clicks(coded: Coded, rows: list[dict[str, Any]]) -> Clicks:
    """The clicks of the tables, and these."""
    names = ("impression_id", "user_id", "author_id", "live_id", "ts_ms", "watch_time_s")
    tables = coded.storage.read_days("impressions", coded.storage.days("impressions"), [*names, "click"])
    told = to_numpy(tables.filter(pc.equal(tables["click"], 1)).select(names))
    columns = {
        name: np.concatenate([told[name], [row[name] for row in rows]]).astype(told[name].dtype) for name in names
    }
    screens = screens_of(coded.storage, coded.settings.examples)
    return Clicks.of(columns, {of.table: of.at(columns["live_id"], columns["ts_ms"]) for of in screens})
