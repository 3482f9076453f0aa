"""Ranges of rows against the whole day, sorted."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from pipelines.tables.time_order import TimeOrder

DAY, MIDNIGHT = "2026-01-02", 1_767_312_000_000
COLUMNS = ["impression_id", "user_id", "ts_ms"]


def _impressions(ts_ms: np.ndarray, ids: np.ndarray) -> pa.Table:
    count = len(ids)
    return pa.table(
        {
            "impression_id": ids.astype(np.int64),
            "user_id": ids.astype(np.int64) * 7,
            "author_id": np.ones(count, np.int64),
            "live_id": np.ones(count, np.int64),
            "ts_ms": MIDNIGHT + ts_ms.astype(np.int64),
            "click": np.zeros(count, np.uint8),
            "watch_time_s": np.zeros(count, np.float32),
        }
    )


def _stored(root: Path, chunks: list[pa.Table]) -> Storage:
    storage = Storage.open(str(root))
    storage.write("impressions", DAY, chunks)
    return storage


def _in_order(storage: Storage) -> pa.Table:
    return storage.read("impressions", DAY, COLUMNS).sort_by([("ts_ms", "ascending"), ("impression_id", "ascending")])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_ranges_of_any_day_are_those_of_the_sorted_day(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sizes = data.draw(st.lists(st.integers(1, 2500), min_size=1, max_size=4))
    ts_ms = rng.integers(0, data.draw(st.sampled_from([3, 5000, 80_000_000])), sum(sizes))
    if data.draw(st.booleans()):  # as our jobs write a day
        ts_ms = np.sort(ts_ms)
    chunks = np.split(_numbered(ts_ms), np.cumsum(sizes)[:-1])
    storage = _stored(tmp_path_factory.mktemp("store"), [_impressions(part[:, 0], part[:, 1]) for part in chunks])
    whole, order = _in_order(storage), TimeOrder(storage.dataset("impressions", DAY), "impression_id")
    assert len(order) == whole.num_rows
    ends = data.draw(st.lists(st.integers(0, len(order)), min_size=2, max_size=8, unique=True).map(sorted))
    ranges = [range(start, stop) for start, stop in zip(ends[::2], ends[1::2], strict=False)]
    wanted = pa.concat_tables([whole.slice(of.start, len(of)) for of in ranges])
    assert order.read(ranges, COLUMNS).equals(wanted)


def _numbered(ts_ms: np.ndarray) -> np.ndarray:
    return np.stack([ts_ms, np.arange(len(ts_ms))], axis=1)


def test_a_day_in_order_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = _stored(tmp_path, [_impressions(np.arange(5000), np.arange(5000))])
    rows = storage.dataset("impressions", DAY)
    monkeypatch.setattr(rows, "batches", lambda *_: pytest.fail("all rows were read to find their order"))
    read: list[int] = []
    table_of = rows.table_of
    monkeypatch.setattr(rows, "table_of", lambda groups, columns: read.append(len(groups)) or table_of(groups, columns))
    order = TimeOrder(rows, "impression_id")
    assert order.read([range(1000, 1100)], COLUMNS)["impression_id"].to_pylist() == list(range(1000, 1100))
    assert read == [2], "row groups have 1024 rows"


def test_files_that_a_user_brought_are_cast(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    folder = tmp_path / "tables" / "impressions" / f"day={DAY}"
    folder.mkdir(parents=True)
    table = _impressions(np.array([30, 10, 20]), np.arange(3))
    narrow = table.set_column(1, "user_id", table["user_id"].cast(pa.int32()))
    pq.write_table(narrow, folder / "mine.parquet")
    order = TimeOrder(storage.dataset("impressions", DAY), "impression_id")
    read = order.read([range(1, 3)], COLUMNS)
    assert read["impression_id"].to_pylist() == [2, 0] and read.schema.field("user_id").type == pa.int64()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    storage = _stored(tmp_path, [_impressions(np.arange(3000), np.arange(3000)) for _ in range(1)])
    (file,) = (tmp_path / "tables" / "impressions" / f"day={DAY}").glob("*.parquet")
    content = bytearray(file.read_bytes())
    content[100:4000] = bytes(3900)
    file.write_bytes(content)
    with pytest.raises(ContractError, match=f"table impressions, day {DAY}"):
        TimeOrder(storage.dataset("impressions", DAY), "impression_id").read([range(3000)], COLUMNS)
