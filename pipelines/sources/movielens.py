"""MovieLens as tables of the contract: real interactions over items that carry text. It is not live streaming.

A film is an author, its own text its anchor, a rating an impression; time order is kept. The ratings are cut into
periods of equal size; a period is a day of the tables, named by the date of its first rating, so that the newest one
is the test. Every anchor stands on the day before the first period.
Run: python -m pipelines movielens --config pipelines/configs/movielens.yaml --set movielens.source=DIR
"""

import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.config import PathText
from pipelines.runtime.config import ConfigError
from pipelines.runtime.run import Run
from pipelines.semantics import base_tokenizer
from pipelines.semantics.base_tokenizer import BaseTokenizerConfig
from pipelines.sources.rows import anchor_row, author_row, to_table
from pipelines.tables.contract import PROFILE, ContractError

log = logging.getLogger(__name__)
_RATINGS = {"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.float32(), "timestamp_s": pa.int64()}
_ITEMS = ("item_id", "title", "genres", "plot", "rated", "director", "actors")
LABELS = {"click": 3.0, "long_view": 4.0, "follow": 4.5, "gift": 5.0}
"""Least rating that counts as each label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MovieLensConfig:
    """Where the ratings are, and how they are cut."""

    source: PathText = ""
    """Folder with ratings.parquet and items.parquet."""
    periods: int = 5
    """Periods of equal size; the last one is the test."""
    vocabulary: int = 8192
    """Tokens of the base tokenizer that is made from the films' text."""

    def __post_init__(self) -> None:
        if self.periods < 2 or self.vocabulary < 256:
            raise ValueError(f"wanted periods >= 2 and vocabulary >= 256, got {self.periods} and {self.vocabulary}")


def run(config: MovieLensConfig, run: Run) -> dict[str, Any]:
    """Writes users, authors, anchors and impressions, and has the job base_tokenizer make one from the films' text."""
    ratings, items = _read(config.source)
    storage = run.storage
    days = _periods(ratings["timestamp_s"].to_numpy(), config.periods)
    before = (date.fromisoformat(days[0][0]) - timedelta(days=1)).isoformat()
    films = [_film(item) for item in items.to_pylist()]
    storage.write("authors", before, [to_table("authors", [_author(item, before) for item in items.to_pylist()])])
    storage.write("anchors", before, [to_table("anchors", films)])
    storage.write("users", days[0][0], [_users(ratings)])
    for day, rows in days:
        storage.write("impressions", day, [_impressions(ratings.slice(rows.start, rows.stop - rows.start), rows.start)])
        log.info("movielens | %s | %d ratings", day, rows.stop - rows.start)
    made = base_tokenizer.run(BaseTokenizerConfig(size=config.vocabulary), run)
    counts = {"films": len(films), "ratings": len(ratings), "days": [day for day, _ in days]}
    return counts | {"tokenizer": made["tokenizer"]}


def _read(source: str) -> tuple[pa.Table, pa.Table]:
    """Ratings in time order, and the films. Raises ConfigError or ContractError where they cannot be used."""
    folder = Path(source)
    if not source or not all((folder / name).is_file() for name in ("ratings.parquet", "items.parquet")):
        raise ConfigError(
            f"movielens.source: wanted a folder with ratings.parquet and items.parquet, got {source!r}; "
            "name it by --set movielens.source=DIR"
        )
    ratings, items = pq.read_table(folder / "ratings.parquet"), pq.read_table(folder / "items.parquet")
    for name, table, wanted in (("ratings", ratings, tuple(_RATINGS)), ("items", items, _ITEMS)):
        missing = [column for column in wanted if column not in table.column_names]
        if missing:
            raise ContractError(f"{name}.parquet: wanted columns {', '.join(wanted)}, got none named {missing[0]}")
    unknown = set(ratings["item_id"].to_pylist()) - set(items["item_id"].to_pylist())
    if unknown:
        raise ContractError(f"ratings.parquet: film {min(unknown)} is not in items.parquet; complete the items")
    ratings = ratings.select(list(_RATINGS)).cast(pa.schema(_RATINGS))
    order = [("timestamp_s", "ascending"), ("user_id", "ascending"), ("item_id", "ascending")]
    return ratings.sort_by(order), items.sort_by("item_id")


def _periods(seconds: np.ndarray, count: int) -> list[tuple[str, range]]:
    """Day name and rows of each period. Raises ContractError where two periods begin on one date."""
    bounds = np.arange(count + 1) * len(seconds) // count
    # Ratings of one second stay in one period, so that the test holds nothing of the training's last moment.
    starts = [0, *np.searchsorted(seconds, seconds[bounds[1:-1]], side="left").tolist(), len(seconds)]
    names = [datetime.fromtimestamp(int(seconds[start]), UTC).date().isoformat() for start in starts[:-1]]
    if len(set(names)) < count:
        raise ContractError(f"movielens.periods: {count} periods begin on {len(set(names))} dates; take fewer periods")
    return [(name, range(a, b)) for name, a, b in zip(names, starts[:-1], starts[1:], strict=True)]


def _film(item: dict[str, Any]) -> dict[str, Any]:
    """The film's own text as an anchor: people, title, genres, rating board, plot."""
    people = [item["director"], *(item["actors"] or "").split(", ")]
    phrases = {
        "point_of_interest": [name for name in people if name],
        "theme": [item["title"]],
        "topic": list(item["genres"] or []),
        "target_audience": [item["rated"]] if item["rated"] else [],
        "scene": [item["plot"]] if item["plot"] else [],
    }
    return anchor_row(item["item_id"], phrases, "movielens")


def _author(item: dict[str, Any], day: str) -> dict[str, Any]:
    genres = list(item["genres"] or [])
    return author_row(item["item_id"], item["title"], genres[0] if genres else None, genres, day)


def _users(ratings: pa.Table) -> pa.Table:
    """Users; MovieLens says nothing of them."""
    ids = np.unique(ratings["user_id"].to_numpy())
    unknown = pa.array(np.full(len(ids), -1, np.int16))
    return pa.table({"user_id": ids, **dict.fromkeys(PROFILE, unknown)})


def _impressions(ratings: pa.Table, first: int) -> pa.Table:
    value = ratings["rating"].to_numpy()
    return pa.table(
        {
            "impression_id": np.arange(first, first + len(ratings), dtype=np.int64),
            "user_id": ratings["user_id"],
            "author_id": ratings["item_id"],
            "live_id": ratings["item_id"],
            "ts_ms": ratings["timestamp_s"].to_numpy() * 1000,
            **{label: (value >= least).astype(np.uint8) for label, least in LABELS.items()},
            "watch_time_s": np.zeros(len(ratings), np.float32),
        }
    )
