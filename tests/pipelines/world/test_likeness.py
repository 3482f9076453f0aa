"""Figures of a world, against small tables whose figures are known."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.tables.contract import TASKS_COLUMNS, ContractError
from pipelines.tables.storage import Storage
from pipelines.world.behaviour import events
from pipelines.world.likeness import as_table, likeness

DAY = "2026-01-01"


def stored(root: Path, rows: list[tuple[int, int, int, int, int, float]]) -> Storage:
    """Rows of (user, author, second of exposure, click, gift, seconds watched), 10 authors in all."""
    storage = Storage.open(str(root), oracle=True)
    user, author, second, click, gift, watch = (np.array(column) for column in zip(*rows, strict=True))
    ids = np.arange(len(rows))
    impressions = pa.table({
        "impression_id": ids, "user_id": user, "author_id": author, "live_id": author, "ts_ms": 1000 * second,
        "click": click.astype(np.uint8), "follow": 0 * click.astype(np.uint8), "gift": gift.astype(np.uint8),
        "long_view": (watch >= 60).astype(np.uint8), "watch_time_s": watch.astype(np.float32),
    })  # fmt: skip
    storage.write("impressions", DAY, [impressions])
    storage.write("events", DAY, events(impressions, 1000 * np.minimum(watch, 11.0)))
    storage.write("users", DAY, [pa.table({"user_id": np.unique(user)} | dict.fromkeys(
        ("age_band", "gender", "region", "device"), np.zeros(len(np.unique(user)), np.int16)))])  # fmt: skip
    truth = {task: np.linspace(0.1, 0.9, len(rows), dtype=np.float32) for task in TASKS_COLUMNS}
    storage.write("oracle_impressions", DAY, [pa.table({"impression_id": ids} | truth)])
    authors = {
        "author_id": np.arange(10), "profile": ["p"] * 10, "category": ["c"] * 10, "tags": [["t"]] * 10,
        "first_live_day": pa.array([0] * 10, pa.date32()),
    }  # fmt: skip
    storage.write("authors", DAY, [pa.table(authors)])
    return storage


def test_the_figures_of_a_small_table(tmp_path: Path):
    rows = [
        (1, 1, 0, 0, 0, 0.0),
        (1, 2, 10, 1, 1, 5.0),  # a gift at once; leaves before the next
        (1, 1, 20, 1, 1, 90.0),  # a late gift; the next exposure comes while he is inside
        (1, 3, 30, 0, 0, 0.0),
        (2, 1, 40, 0, 0, 0.0),
    ]
    figures = likeness(stored(tmp_path, rows))
    assert figures["exposures a day"] == 5
    assert figures["clicks, % of exposures"] == pytest.approx(40)
    assert figures["gifts, % of clicks"] == pytest.approx(100)
    assert figures["long views, % of exposures"] == pytest.approx(20)
    assert figures["seconds watched, mean of exposures"] == pytest.approx(19)
    assert figures["clicks followed by an exposure before leaving, %"] == pytest.approx(50)
    assert figures["gifts within 10 s of entering, %"] == pytest.approx(50)
    assert figures["user-author pairs that meet again, %"] == pytest.approx(25)
    assert figures["exposures of such pairs, %"] == pytest.approx(40)
    assert figures["exposures of the top 1 % of authors, %"] == pytest.approx(60)
    assert figures["authors ever shown, %"] == pytest.approx(30)
    # Seven authors without exposures, then 1, 1 and 3 of 5.
    assert figures["Gini index of exposures over authors"] == pytest.approx(0.78)
    assert figures["oracle's AUC, click"] == pytest.approx(100 / 3)
    assert "| clicks, % of exposures | 40 | 28 |" in as_table({"mine": figures})


def test_a_world_that_nobody_watched_is_refused(tmp_path: Path):
    with pytest.raises(ContractError, match="wanted at least one day"):
        likeness(Storage.open(str(tmp_path)))
