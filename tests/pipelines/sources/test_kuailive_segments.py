"""KuaiLive-M3's embeddings of segments, from small shards made to their schema."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import kuailive, kuailive_segments
from pipelines.sources.kuailive_segments import FOLDER, TABLE
from pipelines.tables import contract
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job
from tests.pipelines.sources.test_kuailive import D1, D2, H, _m3, _rejected, _settings

Shard = list[tuple[Any, Any, Any, Any]]


def vector(number: float) -> list[float]:
    return [number, *[0.5] * 127]


LISTS, MS = pa.list_(pa.float32()), pa.int64()


def m3(root: Path, *shards: Shard, kind: pa.DataType = LISTS, time: pa.DataType = MS) -> str:
    """Rooms 11 (author 1, from D1 on, still running) and 12 (author 3, an empty moment at D2), and shards."""
    source = _m3(root)
    for number, rows in enumerate(shards):
        live, segment, vectors, end = (list(column) for column in zip(*rows, strict=True))
        columns = {"live_stream_id": live, "segment_id": segment, "feature_128": pa.array(vectors, kind)}
        path = Path(source, FOLDER, f"part-{number:02}.parquet")
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns | {"timestamp": pa.array(end, MS).cast(time)}), path, row_group_size=3)
    return source


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 128)])
def test_segments_lie_on_the_day_of_their_live_and_end_at_their_timestamp(tmp_path: Path, kind: pa.DataType) -> None:
    first = [(11, 1, vector(1.0), D1 + 60_000), (11, 0, vector(0.25), D1 + 30_000)]
    source = m3(tmp_path / "in", first, [(11, 2880, vector(2.0), D2 + 30_000)], kind=kind)
    settings = _settings(tmp_path, source, "m3")
    assert run_job(kuailive, settings)["segment_embeddings"] == 3
    storage = Storage.open(settings.storage.root)
    assert storage.days(TABLE) == ["2025-05-05"]
    rows = storage.read(TABLE, "2025-05-05")
    assert rows.schema == contract.spec(TABLE).schema
    said = [(r["author_id"], r["live_id"], r["segment"], r["end_ts_ms"], r["model"]) for r in rows.to_pylist()]
    assert said == [
        (1, 11, 1, D1 + 60_000, FOLDER), (1, 11, 0, D1 + 30_000, FOLDER), (1, 11, 2880, D2 + 30_000, FOLDER)
    ]  # fmt: skip
    vectors = np.array(rows["embedding"].to_pylist(), np.float32)
    assert vectors.shape == (3, 128) and vectors[:, 0].tolist() == [1.0, 0.25, 2.0]


@pytest.mark.parametrize("pieces", [2, 65_536])
def test_rows_that_cannot_be_used_are_rejections_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    monkeypatch.setattr(kuailive_segments, "_ROWS", pieces)
    end = D1 + 30_000
    shard: Shard = [
        (11, 0, vector(1.0), end),
        (None, 1, vector(1.0), end),
        (11, 2, None, end),
        (11, 3, vector(1.0)[:64], end),
        (11, 4, vector(np.nan), end),
        (11, 5, vector(1e6), end),  # more than float16 holds
        (99, 6, vector(1.0), end),
        (99, 7, None, end),
        (11, 8, vector(1.0), D1),
        (11, 9, vector(1.0), None),
        (11, 10, [None, *vector(1.0)[1:]], end),
        (12, 0, vector(1.0), D2 + 60_000),
    ]
    again: Shard = [(11, 0, vector(3.0), end), (11, 20, vector(4.0), end + 1), (11, 20, vector(5.0), end + 2)]
    settings = _settings(tmp_path, m3(tmp_path / "in", shard, again), "m3")
    counts = run_job(kuailive, settings)
    storage = Storage.open(settings.storage.root)
    rows = storage.read(TABLE, "2025-05-05").to_pylist()
    assert [(r["segment"], float(r["embedding"][0])) for r in rows] == [(0, 1.0), (20, 4.0)]
    rejected = _rejected(settings)
    bad = {2: "live_stream_id", **dict.fromkeys((3, 4, 5, 6, 11), "feature_128"), 10: "timestamp"}
    for row, column in bad.items():
        reason, detail = rejected.pop(f"part-00.parquet row {row}")
        assert reason == "bad_row" and f"column {column}: wanted" in detail
    for row, segment in ((1, 0), (3, 20)):
        reason, detail = rejected.pop(f"part-01.parquet row {row}")
        assert reason == "bad_row" and detail.startswith(f"segment {segment} of live 11 is in a row above")
    assert rejected == {
        "part-00.parquet live 99, no such room": ("not_on_air", "2 segment(s): no such room"),
        "part-00.parquet live 11, they lie outside the time of the room": (
            "not_on_air", "1 segment(s): they lie outside the time of the room"
        ),
        "part-00.parquet live 12, they lie outside the time of the room": (
            "not_on_air", "1 segment(s): they lie outside the time of the room"
        ),
    }  # fmt: skip
    refused_rows = len(bad) + 2 + 2 + 1 + 1
    assert counts["segment_embeddings"] == len(rows) == len(shard) + len(again) - refused_rows
    assert not [*Path(settings.run_dir).glob("segments-*")]


def test_date_times_are_read_with_the_release_s_offset(tmp_path: Path) -> None:
    source = m3(tmp_path / "in", [(11, 0, vector(1.0), D1 + 8 * H + 30_000)], time=pa.timestamp("ms"))
    settings = _settings(tmp_path, source, "m3", utc_offset_h=8.0)
    run_job(kuailive, settings)
    rows = Storage.open(settings.storage.root).read(TABLE, "2025-05-05")
    assert rows["end_ts_ms"].to_pylist() == [D1 + 30_000]


def test_a_run_without_the_folder_takes_nothing_back_unasked(tmp_path: Path) -> None:
    settings = _settings(tmp_path, m3(tmp_path / "with", [(11, 0, vector(1.0), D1 + 30_000)]), "m3")
    run_job(kuailive, settings)
    without = _settings(tmp_path, m3(tmp_path / "without"), "m3")
    with pytest.raises(ContractError, match=f"table {TABLE}, all days: wanted at least 50%"):
        run_job(kuailive, without)
    assert Storage.open(settings.storage.root).days(TABLE) == ["2025-05-05"]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("feature_128", ["0.1 0.2"], "column feature_128: wanted lists of numbers, got string"),
        ("timestamp", [D1 // 1000], "which is seconds"),
        ("live_stream_id", None, "wanted column live_stream_id"),
    ],
)
def test_a_shard_that_cannot_be_used_is_named(tmp_path: Path, column: str, values: Any, said: str) -> None:
    source = m3(tmp_path / "in", [(11, 0, vector(1.0), D1 + 30_000)])
    path = Path(source, FOLDER, "part-00.parquet")
    table = pq.read_table(path)
    at = table.column_names.index(column)
    pq.write_table(table.remove_column(at) if values is None else table.set_column(at, column, pa.array(values)), path)
    with pytest.raises(ContractError, match=said) as caught:
        run_job(kuailive, _settings(tmp_path, source, "m3"))
    assert "part-00.parquet" in str(caught.value)
    assert not Storage.open(str(tmp_path / "store")).days("impressions")
