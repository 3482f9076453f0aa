"""MovieLens as tables of the contract: real interactions over items that carry text. It is not live streaming.

A film is an author, its own text its anchor, a rating an impression; time order is kept. The ratings are cut into
periods of equal size; a period is a day of the tables, named by the date of its first rating, so that the newest one
is the test. Every anchor stands on the day before the first period.
Run: python -m pipelines movielens --config pipelines/configs/movielens.yaml --set movielens.source=DIR
"""

import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from models.config import PathText
from pipelines.runtime.run import Run
from pipelines.semantics import base_tokenizer
from pipelines.semantics.base_tokenizer import BaseTokenizerConfig
from pipelines.sources.movielens_files import read
from pipelines.sources.refusals import summary
from pipelines.sources.rows import anchor_row, author_row, to_table
from pipelines.sources.written import Written
from pipelines.tables.contract import PROFILE, ContractError

log = logging.getLogger(__name__)
STAGE = "movielens"
TABLES = ("authors", "anchors", "users", "impressions")
"""What it writes beside rejections."""
LABELS = {"click": 3.0, "long_view": 4.0, "follow": 4.5, "gift": 5.0}
"""Least rating that counts as each label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MovieLensConfig:
    """Where the ratings are, and how they are cut."""

    source: PathText = ""
    """Unpacked folder of GroupLens (ml-latest-small, ml-25m, ml-1m, ml-100k and their like), or a folder with
    ratings.parquet and items.parquet."""
    periods: int = 5
    """Periods of equal size; the last one is the test."""
    vocabulary: int = 8192
    """Tokens of the base tokenizer that is made from the films' text."""
    replace: bool = False
    """Whether a source of far fewer rows (storage.least_share) may replace what an earlier one made."""

    def __post_init__(self) -> None:
        if self.periods < 2 or self.vocabulary < 256:
            raise ValueError(f"wanted periods >= 2 and vocabulary >= 256, got {self.periods} and {self.vocabulary}")


def run(config: MovieLensConfig, run: Run) -> dict[str, Any]:
    """Writes users, authors, anchors and impressions, and has the job base_tokenizer make one from the films' text.

    Rows of the source that cannot be used become rejections of the day of the anchors.
    """
    source = read(config.source)
    ratings = source.ratings
    for line in summary(source.files):
        log.warning("movielens | %s", line)
    days = _periods(ratings["timestamp_s"].to_numpy(), config.periods)
    before = (date.fromisoformat(days[0][0]) - timedelta(days=1)).isoformat()
    items = source.items.to_pylist()
    written = Written(run.storage, STAGE)
    written.check(run.guard(STAGE, config.replace), "impressions", len(ratings))
    written.write("authors", before, to_table("authors", [_author(item, before) for item in items]))
    written.write("anchors", before, to_table("anchors", [_film(item) for item in items]))
    written.write("users", days[0][0], _users(ratings))
    for day, rows in days:
        written.write("impressions", day, _impressions(ratings.slice(rows.start, rows.stop - rows.start), rows.start))
        log.info("movielens | %s | %d ratings", day, rows.stop - rows.start)
    refused = [row for file in source.files for row in file.refused]
    written.finish(TABLES, {before: refused})
    made = base_tokenizer.run(BaseTokenizerConfig(size=config.vocabulary), run)
    counts = {
        "films": len(items),
        "ratings": len(ratings),
        "rejections": len(refused),
        "days": [day for day, _ in days],
    }
    return counts | {"tokenizer": made["tokenizer"]}


def _periods(seconds: np.ndarray, count: int) -> list[tuple[str, range]]:
    """Day name and rows of each period. Raises ContractError where two periods begin on one date."""
    bounds = np.arange(count + 1) * len(seconds) // count
    # Ratings of one second stay in one period, so that the test holds nothing of the training's last moment.
    starts = [0, *np.searchsorted(seconds, seconds[bounds[1:-1]], side="left").tolist(), len(seconds)]
    names = [datetime.fromtimestamp(int(seconds[start]), UTC).date().isoformat() for start in starts[:-1]]
    if (dates := len(set(names))) < count:
        raise ContractError(
            f"movielens.periods: {count} periods of {len(seconds)} rating(s) begin on {dates} dates; "
            "take fewer periods, or bring ratings of more dates"
        )
    return [(name, range(a, b)) for name, a, b in zip(names, starts[:-1], starts[1:], strict=True)]


def _film(item: dict[str, Any]) -> dict[str, Any]:
    """The film's own text as an anchor: people, title, genres, rating board, plot."""
    people = [item["director"], *(item["actors"] or "").split(", ")]
    phrases = {
        "point_of_interest": [name for name in people if name],
        "theme": [item["title"]] if item["title"] else [],
        "topic": list(item["genres"] or []),
        "target_audience": [item["rated"]] if item["rated"] else [],
        "scene": [item["plot"]] if item["plot"] else [],
    }
    return anchor_row(item["item_id"], phrases, "movielens")


def _author(item: dict[str, Any], day: str) -> dict[str, Any]:
    genres = list(item["genres"] or [])
    return author_row(item["item_id"], item["title"] or "", genres[0] if genres else None, genres, day)


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
