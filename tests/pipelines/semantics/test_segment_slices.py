"""A day of segments in slices: every row once, in order, whatever else is wrong with the rows beside it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.semantics import segment_slices
from pipelines.semantics.segment_slices import SLICE_ROWS, Slice, SliceReader, check_keys, slices_of
from pipelines.tables import contract
from pipelines.tables.contract import SEGMENT_MS, ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.semantics.test_gather import DAY, nullable, segment, stored


def numbered(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [segment(1, frames=[]) | {"segment": number} | changes for number in range(count)]


def write(storage: Storage, *chunks: list[dict[str, Any]]) -> None:
    schema = contract.spec("segments").schema
    storage.write("segments", DAY, [pa.Table.from_pylist(rows, schema=schema) for rows in chunks])


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 3 * SLICE_ROWS), min_size=1, max_size=3), group=st.integers(1, 150), data=st.data()
)
def test_slices_hold_every_row_once_in_any_order_of_reading(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], group: int, data: st.DataObject
):
    storage = Storage.open(str(tmp_path_factory.mktemp("s")))
    folder = Path(storage.folder("segments", DAY))
    folder.mkdir(parents=True)
    rows, schema = numbered(sum(sizes)), contract.spec("segments").schema
    for file, size in enumerate(sizes):
        of_file, rows = rows[:size], rows[size:]
        pq.write_table(pa.Table.from_pylist(of_file, schema=schema), folder / f"{file}.parquet", row_group_size=group)
    slices = list(slices_of(storage, DAY))
    assert max(each.rows for each in slices) <= SLICE_ROWS and len({each.name for each in slices}) == len(slices)
    reader, found = SliceReader(storage), {}
    for each in data.draw(st.permutations(slices)):
        found[each] = [key[2] for key in reader.read(each)]
    assert [number for each in slices for number in found[each]] == list(range(sum(sizes)))


def test_a_row_ends_thirty_seconds_after_its_start(tmp_path: Path):
    storage = stored(tmp_path, [segment(1)])
    (row,) = SliceReader(storage).read(*slices_of(storage, DAY)).values()
    assert isinstance(row, dict) and row["end_ts_ms"] == segment(1)["start_ts_ms"] + 30_000 and SEGMENT_MS == 30_000


def test_a_row_that_cannot_be_read_costs_no_other(tmp_path: Path):
    rows = numbered(3)
    rows[1] |= {"start_ts_ms": None}
    storage = stored(tmp_path, rows)
    found = SliceReader(storage).read(*slices_of(storage, DAY))
    assert [isinstance(row, ValueError) for row in found.values()] == [False, True, False]
    assert "start_ts_ms" in str(found[1, 1, 1])


def test_of_damaged_pages_the_keys_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segment_slices.time, "sleep", lambda _: None)
    storage = stored(tmp_path, numbered(100, speech="said " * 9))
    (file,) = Path(storage.folder("segments", DAY)).glob("*.parquet")
    column = next(
        pq.ParquetFile(file).metadata.row_group(0).column(at)
        for at in range(pq.ParquetFile(file).metadata.num_columns)
        if pq.ParquetFile(file).metadata.row_group(0).column(at).path_in_schema == "speech"
    )
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(content)
    first, second = slices_of(storage, DAY)
    reader = SliceReader(storage)
    for each in (first, second):
        found = reader.read(each)
        assert len(found) == each.rows and all("replace the damaged file" in str(row) for row in found.values())


def test_a_slice_keeps_its_name_while_its_file_does(tmp_path: Path):
    storage = Storage.open(str(tmp_path))
    old = numbered(5)
    write(storage, old)
    (before,) = slices_of(storage, DAY)
    write(storage, [segment(2)], old)
    names = [each.name for each in slices_of(storage, DAY)]
    assert len(names) == 2 and names[1] == before.name and names[0] != before.name


def test_a_storage_that_fails_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage = stored(tmp_path, numbered(3))
    real, failed = SliceReader._stream, []

    def flaky(self: SliceReader, wanted: Slice, columns: Any) -> Any:
        if not failed:
            failed.append(1)
            raise OSError("connection reset")
        return real(self, wanted, columns)

    monkeypatch.setattr(SliceReader, "_stream", flaky)
    monkeypatch.setattr(segment_slices.time, "sleep", lambda _: None)
    assert len(SliceReader(storage).read(*slices_of(storage, DAY))) == 3 and failed


def test_repeated_and_missing_keys_are_told_before_anybody_works(tmp_path: Path):
    assert check_keys(stored(tmp_path / "good", numbered(7)), DAY) == 7
    with pytest.raises(ContractError, match=r"wanted unique \(author_id, live_id, segment\)"):
        check_keys(stored(tmp_path / "twice", [*numbered(2), segment(1)]), DAY)
    with pytest.raises(ContractError, match="live_id: wanted no nulls"):
        check_keys(stored(tmp_path / "null", numbered(2, live_id=None)), DAY)


def test_types_that_a_user_brought_are_cast_row_by_row(tmp_path: Path):
    storage = Storage.open(str(tmp_path))
    folder = Path(storage.folder("segments", DAY))
    folder.mkdir(parents=True)
    schema = pa.schema(
        [
            pa.field(f.name, pa.int64() if f.name == "likes" else nullable(f.type), True)
            for f in contract.spec("segments").schema
        ]
    )
    rows = [row | {"likes": likes} for row, likes in zip(numbered(3), (1, 2**40, 2), strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "a.parquet")
    found = SliceReader(storage).read(*slices_of(storage, DAY))
    assert [row["likes"] if isinstance(row, dict) else "bad" for row in found.values()] == [1, "bad", 2]
