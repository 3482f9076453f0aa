"""A platform made by hand: lives whose screen moves between two themes, users who click on what they like."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.ranking.worker import Worker
from pipelines.retrieval.tower_loop import fit
from pipelines.retrieval.towers_plan import TowersConfig, make_plan
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.config import build
from pipelines.runtime.run import Run
from pipelines.samples import examples
from pipelines.samples.examples import ExamplesConfig
from pipelines.tables import contract
from pipelines.tables.contract import PROFILE
from pipelines.tables.storage import Storage
from tests.pipelines.semantics.embedded import MODEL

DAYS = tuple((date(2026, 1, 1) + timedelta(days=of)).isoformat() for of in range(4))
USERS, AUTHORS, THEMES, WIDTH, SEGMENTS = 30, 20, 4, 8, 12
LITTLE: dict[str, Any] = {
    "epochs": 2, "batch_size": 64, "log_every": 4, "lr_ids": 0.03, "lr_dense": 0.01, "end_rate": 1.0, "l2_ids": 0.0,
    "model": {"dim": 8, "hidden": 16, "profile_dim": 2, "temperature": 0.2},
}  # fmt: skip


def little(**changes: Any) -> TowersConfig:
    """How towers of the platform are trained in seconds."""
    return build(TowersConfig, LITTLE | changes)


def segments(day: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of segment_embeddings: a live per author, one after another over the day, each of two of THEMES in turn."""
    rng = np.random.default_rng([seed, day])
    themes = np.random.default_rng(99).normal(size=(THEMES, WIDTH)) + 5.0
    rows = []
    for author in range(AUTHORS):
        start = _start(day, author)
        for segment in range(SEGMENTS):
            vector = themes[theme_of(author, segment)] + 0.1 * rng.normal(size=WIDTH)
            rows.append(
                {
                    "author_id": author, "live_id": 1000 * day + author, "segment": segment,
                    "end_ts_ms": start + 30_000 * (segment + 1), "embedding": vector.astype(np.float16), "model": MODEL,
                }
            )  # fmt: skip
    return rows


def theme_of(author: int, segment: int) -> int:
    """What is on screen."""
    return (author + segment // 3 % 2) % THEMES


def _start(day: int, author: int) -> int:
    return 86_400_000 * (20_454 + day) + 40_000 * author


def _impressions(day: int, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng([7, day])
    rows = []
    for number in range(count):
        user, author = int(rng.integers(USERS)), int(rng.integers(AUTHORS))
        at = int(rng.integers(30_000 * SEGMENTS))
        likes = theme_of(author, max(0, at // 30_000 - 1)) == user % THEMES
        rows.append(
            {
                "impression_id": 10_000 * day + number, "user_id": user, "author_id": author,
                "live_id": 1000 * day + author, "ts_ms": _start(day, author) + at,
                "click": int(rng.random() < (0.8 if likes else 0.1)), "watch_time_s": 5.0,
            }
        )  # fmt: skip
    return rows


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """In the contract's types."""
    return pa.Table.from_pylist(rows, schema=contract.spec(name).schema)


def write(folder: Path, days: int = 3, count: int = 400) -> Run:
    """The platform's store below `folder`, with examples."""
    storage = Storage.open(str(folder / "store"))
    users = [{"user_id": user} | {name: user % THEMES for name in PROFILE} for user in range(USERS)]
    authors = [
        {"author_id": of, "profile": "", "category": None, "tags": [], "first_live_day": date(2026, 1, 1)}
        for of in range(AUTHORS)
    ]
    storage.write("users", DAYS[0], [table("users", users)])
    storage.write("authors", DAYS[0], [table("authors", authors)])
    for number, day in enumerate(DAYS[:days]):
        storage.write("segment_embeddings", day, [table("segment_embeddings", segments(number))])
        storage.write("impressions", day, [table("impressions", _impressions(number, count))])
    run = Run(seed=3, folder=folder, storage=storage, cluster=ClusterConfig(num_cpus=3, object_store_gb=0.1))
    examples.run(ExamplesConfig(history_length=4), run)
    return run


def trained(run: Run, config: TowersConfig, work: Path, **given: Any) -> Any:
    """The progress of a fit in this process, by one worker, and the folder of its last checkpoint."""
    plan, made_from = make_plan(config, run)
    folders: list[Path] = []
    given = {"worker": Worker(), "report": lambda _, folder: folders.append(folder), "log_line": lambda _: None} | given
    progress = fit(plan, run.storage, made_from, work=work, **given)
    return progress, folders
