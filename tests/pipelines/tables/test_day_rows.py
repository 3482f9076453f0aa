"""A day that a user brought: files of different types are one table, and what is wrong is named with file and row."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.tables import contract
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, batches
from tests.pipelines.tables.test_contract import DAY, MIDNIGHT_MS, impressions, users
from tests.pipelines.tables.test_values import changed, segment, table_of

CLICKED = pc.field("click") == 1


def brought(root: Path, name: str, *files: pa.Table) -> Storage:
    storage = Storage.open(str(root))
    folder = Path(storage.folder(name, DAY))
    folder.mkdir(parents=True)
    for letter, file in zip("abcdef", files, strict=False):
        nullable = pa.schema([field.with_nullable(True) for field in file.schema])
        pq.write_table(file.cast(nullable), folder / f"{letter}.parquet")
    return storage


def shown(first_id: int, *watched: float) -> pa.Table:
    ids = pa.array(range(first_id, first_id + len(watched)), pa.int64())
    return changed(impressions([1] * len(watched)), impression_id=ids, watch_time_s=pa.array(watched, pa.float32()))


def retyped(table: pa.Table, **kinds: pa.DataType) -> pa.Table:
    for name, kind in kinds.items():
        column = pa.nulls(len(table)) if pa.types.is_null(kind) else table[name].cast(kind)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def test_files_of_different_types_are_read_as_one(tmp_path: Path):
    spark = retyped(shown(0, 1.5, 2.5), click=pa.bool_(), user_id=pa.decimal128(20, 0), ts_ms=pa.timestamp("ms", "UTC"))
    pandas = retyped(shown(2, 3.5), click=pa.int64(), user_id=pa.int32(), watch_time_s=pa.float64())
    storage = brought(tmp_path, "impressions", spark, pandas, shown(3, 4.5))
    rows = storage.read("impressions", DAY, where=CLICKED)
    assert rows.schema == contract.spec("impressions").schema
    assert rows["watch_time_s"].to_pylist() == [1.5, 2.5, 3.5, 4.5]
    assert set(rows["ts_ms"].to_pylist()) == {MIDNIGHT_MS}
    pieces = list(batches(storage.dataset("impressions", DAY), 1, ["click", "impression_id"]))
    assert [piece.to_pylist()[0]["impression_id"] for piece in pieces] == [0, 1, 2, 3]
    assert storage.dataset("impressions", DAY).count_rows() == 4


def test_a_column_without_a_value_in_the_first_file_has_them_in_the_second(tmp_path: Path):
    def author(author_id: int, category: str | None) -> pa.Table:
        row = {"author_id": author_id, "profile": "", "category": category, "tags": [], "first_live_day": 0}
        return table_of("authors", row)

    storage = brought(tmp_path, "authors", retyped(author(1, None), category=pa.null()), author(2, "music"))
    assert storage.read("authors", DAY)["category"].to_pylist() == [None, "music"]
    assert storage.read("authors", DAY, ["category"]).schema.types == [pa.string()]


def test_a_filter_may_ask_for_a_column_that_is_not_read(tmp_path: Path):
    table = changed(shown(0, 1.0, 2.0), click=pa.array([1, 0], pa.uint8()))
    storage = brought(tmp_path, "impressions", retyped(table, click=pa.bool_()))
    assert storage.read("impressions", DAY, ["impression_id"], CLICKED)["impression_id"].to_pylist() == [0]


def test_a_filter_that_no_row_passes_leaves_an_empty_table(tmp_path: Path):
    storage = brought(tmp_path, "users", retyped(users(), user_id=pa.int32()))
    none = storage.read("users", DAY, ["user_id"], pc.field("user_id") == 99)
    assert none.num_rows == 0 and none.schema.types == [pa.int64()]


@pytest.mark.parametrize("where", [None, CLICKED])
@pytest.mark.parametrize("click", [pa.uint8(), pa.bool_()])
def test_a_wrong_value_is_found_when_it_is_read(tmp_path: Path, where: pc.Expression | None, click: pa.DataType):
    bad = retyped(shown(2, 1.0, 2.0, float("nan")), click=click)
    storage = brought(tmp_path, "impressions", shown(0, 1.0, 2.0), bad)
    wanted = r"column watch_time_s: .*got NaN \(first at row 2\) in b.parquet"
    with pytest.raises(ContractError, match=wanted):
        storage.read("impressions", DAY, ["impression_id", "watch_time_s"], where)
    with pytest.raises(ContractError, match=wanted):
        list(batches(storage.dataset("impressions", DAY), 2, ["watch_time_s"]))
    assert storage.read("impressions", DAY, ["impression_id"], where).num_rows == 5


def test_a_column_that_one_file_lacks_is_missing(tmp_path: Path):
    storage = brought(tmp_path, "users", users(), users().drop_columns(["region"]))
    with pytest.raises(ContractError, match=r"missing column\(s\) region; got user_id"):
        storage.read("users", DAY)
    assert storage.read("users", DAY, ["user_id"]).num_rows == 4


def test_a_label_of_one_file_is_a_label_of_the_day(tmp_path: Path):
    first = shown(0, 1.0).append_column("stay", pa.array([1], pa.int64()))
    second = shown(1, 1.0).append_column("stay", pa.array([False]))
    storage = brought(tmp_path, "impressions", first, second)
    assert storage.labels("impressions", DAY) == ["click", "stay"]
    assert storage.read("impressions", DAY)["stay"].to_pylist() == [1, 0]


def test_a_column_of_days_inside_the_files_is_passed_over(tmp_path: Path):
    storage = brought(tmp_path, "impressions", shown(0, 1.0).append_column("day", pa.array([5], pa.uint8())))
    assert storage.labels("impressions", DAY) == ["click"]
    assert "day" not in storage.read("impressions", DAY).column_names


def test_a_column_that_is_there_twice_is_named(tmp_path: Path):
    storage = brought(tmp_path, "users", users().append_column("gender", pa.array([0, 0])))
    with pytest.raises(ContractError, match="wanted one column gender, got 2 in .*a.parquet"):
        storage.read("users", DAY)


def test_a_damaged_file_beside_good_ones_is_named(tmp_path: Path):
    storage = brought(tmp_path, "users", users(), users())
    (Path(storage.folder("users", DAY)) / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(ContractError, match=r"wanted a Parquet file, got .*b\.parquet"):
        storage.read("users", DAY)


def test_a_bad_segment_is_left_to_those_who_read_it(tmp_path: Path):
    """The job anchors rejects that author alone."""
    bad = segment(segment=1, frames=[None], likes=None)
    storage = brought(tmp_path, "segments", table_of("segments", segment(), bad))
    assert storage.read("segments", DAY)["frames"].to_pylist() == [[], [None]]
    storage.write("segments", DAY, [table_of("segments", segment(comments=[None]))])
    assert storage.read("segments", DAY)["comments"].to_pylist() == [[None]]


def test_a_segment_of_no_author_is_refused(tmp_path: Path):
    storage = brought(tmp_path, "segments", table_of("segments", segment(author_id=None)))
    with pytest.raises(ContractError, match="column author_id: wanted no nulls"):
        storage.read("segments", DAY)


def test_what_a_job_writes_is_checked_before_anything_is_seen(tmp_path: Path):
    storage = Storage.open(str(tmp_path))
    with pytest.raises(ContractError, match="column watch_time_s: wanted finite numbers >= 0, got -1.0"):
        storage.write("impressions", DAY, [shown(0, 1.0), shown(1, -1.0)])
    assert storage.days("impressions") == []
