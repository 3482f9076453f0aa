"""Files of released data sets: what cells count as, how rows are told, and what is wrong with a whole file."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.delimited import Dialect
from pipelines.sources.release_file import RUNNING, ReleaseFile
from pipelines.tables.contract import ContractError

NOON = 1_746_446_400_000  # 2025-05-05 12:00 UTC
MOMENT = datetime(2025, 5, 5, 12)


def _text(folder: Path, content: str, columns: str = "id at", **more: Any) -> ReleaseFile:
    (folder / "some.csv").write_bytes(content.encode())
    return ReleaseFile(folder / "some.csv", columns.split(), job="kuailive", **more)


def _parquet(folder: Path, **columns: Any) -> ReleaseFile:
    pq.write_table(pa.table(columns), folder / "some.parquet")
    return ReleaseFile(folder / "some.parquet", list(columns), job="kuailive")


def _keys(file: ReleaseFile) -> list[str]:
    return [row["key"] for row in file.refused]


def test_integers_may_be_written_as_floats(tmp_path: Path) -> None:
    file = _text(tmp_path, "id\n1.0\n2\n2.5\n\nx\n-3\n18446744073709551615\n", "id")
    assert file.ids("id").tolist() == [1, 2, 0, 0, -3, 0]
    assert _keys(file) == ["some.csv line 4", "some.csv line 6", "some.csv line 8"]
    assert "column id: wanted an integer id, got '2.5'; correct it" in file.refused[0]["detail"]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([1.0, None, np.nan, 2.5, 3.0]),
        pa.array(["1", None, "nan", "2.5", " 3.0 "]),
        pa.array(["1", "", "NaN", "x", "3"]).dictionary_encode(),
        pa.array([Decimal("1.0"), None, None, Decimal("2.5"), Decimal("3.0")]),
    ],
    ids=["float", "text", "categorical", "decimal"],
)
def test_ids_of_a_parquet_file_have_any_type(tmp_path: Path, ids: pa.Array) -> None:
    file = _parquet(tmp_path, id=ids)
    kept = file.kept({"id": file.ids("id")})
    assert kept.to_pylist() == [{"id": 1, "row": 1}, {"id": 3, "row": 5}]
    assert _keys(file) == ["some.parquet row 2", "some.parquet row 3", "some.parquet row 4"]


def test_an_id_that_a_float_cannot_hold_is_refused(tmp_path: Path) -> None:
    file = _parquet(tmp_path, id=pa.array([2.0**53 - 1, 2.0**53]))
    assert file.ids("id")[0] == 2**53 - 1 and _keys(file) == ["some.parquet row 2"]
    assert _parquet(tmp_path, id=pa.array([2**63 - 1])).ids("id").tolist() == [2**63 - 1]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([MOMENT], pa.timestamp("s")),
        pa.array([MOMENT], pa.timestamp("ms")),
        pa.array([MOMENT], pa.timestamp("us")),
        pa.array([MOMENT], pa.timestamp("ns")),
        pa.array([datetime(2025, 5, 5, 20, tzinfo=timezone(timedelta(hours=8)))], pa.timestamp("ns", "Asia/Shanghai")),
        pa.array([MOMENT.replace(tzinfo=UTC)], pa.timestamp("us", "UTC")),
        pa.array([NOON]),
        pa.array([float(NOON)]),
        pa.array([str(NOON)]),
        pa.array(["2025-05-05 12:00:00.000"]),
        pa.array(["2025-05-05T12:00:00Z"]),
        pa.array(["2025-05-05 20:00:00.000+08:00"]),
    ],
    ids=str,
)
def test_times_have_any_type(tmp_path: Path, times: pa.Array) -> None:
    assert _parquet(tmp_path, at=times).times("at").tolist() == [NOON]


def test_an_offset_is_for_times_without_a_zone_alone(tmp_path: Path) -> None:
    cells = ["2025-05-05 20:00:00.123", "2025-05-05 12:00:00.123Z", str(NOON + 123), "2025-05-05 20:00:00.123456"]
    for chosen in (cells, cells[:1], cells[1:2], cells[2:3], cells[3:]):
        file = _text(tmp_path, "\n".join(["at", *chosen, ""]), "at", utc_offset_h=8)
        assert set(file.times("at").tolist()) == {NOON + 123}, chosen
    pq.write_table(pa.table({"at": pa.array([MOMENT], pa.timestamp("ns"))}), tmp_path / "a.parquet")
    there = ReleaseFile(tmp_path / "a.parquet", ["at"], job="kuailive", utc_offset_h=-5.5)
    assert there.times("at").tolist() == [NOON + 5.5 * 3_600_000]


@pytest.mark.parametrize("none", ["", "0", "0.0", "NaN", "nan", "NULL", "\\N", "None", "NaT", "1970-01-01 08:00:00"])
def test_what_has_not_ended_runs(tmp_path: Path, none: str) -> None:
    file = _text(tmp_path, f"id,at\n1,{none}\n2,{NOON}\n3,{none}\n")
    assert file.times("at", may_run=True).tolist() == [RUNNING, NOON, RUNNING] and not file.refused
    assert _text(tmp_path, f"id,at\n1,{none}\n").times("at", may_run=True).tolist() == [RUNNING]


@pytest.mark.parametrize(
    ("cell", "unit"),
    [("1746446400", "seconds"), ("1746446400000000", "microseconds"), ("1746446400000000000", "nanoseconds")],
)
def test_a_column_of_another_unit_is_refused(tmp_path: Path, cell: str, unit: str) -> None:
    file = _text(tmp_path, f"id,at\n1,\n2,{cell}\n3,{cell}\n")
    with pytest.raises(ContractError, match=rf"some.csv line 3, column at: wanted milliseconds .*{cell}.* is {unit}"):
        file.times("at")
    one_of_two = _text(tmp_path, f"id,at\n1,{NOON}\n2,{cell}\n")
    one_of_two.times("at")
    assert _keys(one_of_two) == ["some.csv line 3"]


def test_seconds_are_read_where_they_are_the_unit(tmp_path: Path) -> None:
    assert _text(tmp_path, f"at\n{NOON // 1000}\n", "at").times("at", "seconds").tolist() == [NOON]
    with pytest.raises(ContractError, match="is milliseconds"):
        _text(tmp_path, f"at\n{NOON}\n", "at").times("at", "seconds")


def test_numbers_are_bounded_and_blanks_may_stand_for_one(tmp_path: Path) -> None:
    file = _text(tmp_path, "n\n1\n\nNaN\n-1\ninf\n6\n", "n")
    assert file.numbers("n", "a count", most=5, blank=0)[:2].tolist() == [1, 0]
    assert _keys(file) == ["some.csv line 5", "some.csv line 6", "some.csv line 7"]
    strict = _text(tmp_path, "n,m\n,1\n2,1\n", "n")
    strict.numbers("n", "a count")
    assert "wanted a count, got nothing" in strict.refused[0]["detail"]


def test_blank_text_is_none_and_other_text_stays_as_it_is(tmp_path: Path) -> None:
    file = _text(tmp_path, 'id,t\n1, a \n2,\n3,"  "\n4,NA\n5,007\n6,"x, ""y"""\n', "id", texts=["t"])
    assert file.texts("t").to_pylist() == [" a ", None, None, "NA", "007", 'x, "y"']


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    """Empty lines are no rows, rows with other numbers of cells are told, and every row is kept or told."""
    file = _text(tmp_path, "id,at\r\n1,2\r\n\r\n3\r\n4,5,6\r\n  \r\nx,7\r\n8,9\r\n\r\n")
    kept = file.kept({"id": file.ids("id")})
    assert kept.to_pylist() == [{"id": 1, "row": 2}, {"id": 8, "row": 8}]
    assert _keys(file) == [f"some.csv line {line}" for line in (4, 5, 6, 7)]
    assert "wanted 2 cells, got 3" in file.refused[1]["detail"]


@pytest.mark.parametrize("last", ["12", "12,", "12,17464"])
def test_a_file_that_ends_within_a_row_was_cut(tmp_path: Path, last: str) -> None:
    def read() -> None:
        file = _text(tmp_path, f"id,at\n1,{NOON}\n{last}")
        file.times("at")
        file.kept({})

    with pytest.raises(ContractError, match=r"^some.csv line 3: .* it was cut; download it again$"):
        read()


def test_a_last_line_may_lack_its_break(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = _text(tmp_path, f"id,at\nx,{NOON}\n2,{NOON}")
    file.ids("id")
    assert file.kept({"at": file.times("at")})["row"].to_pylist() == [3]
    assert "does not end with a line break" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "some.csv is empty; download it again"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        ("id,when\n1,2\n", "wanted column at, got id, when"),
        ("id,at,at\n1,2,3\n", "wanted column at, got 2 of that name"),
        ('id,at\n1,2\n2,"3\n4,5\n6,7\n', "some.csv line 3: a cell has a quote that the line does not close"),
    ],
)
def test_what_is_wrong_with_a_whole_file_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(ContractError, match=said) as caught:
        _text(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,t\n1,caf\xe9\n")
    with pytest.raises(ContractError, match="a.csv: .*utf-8"):
        ReleaseFile(tmp_path / "a.csv", ["id"], texts=["t"], job="kuailive")
    (tmp_path / "a.csv").write_bytes(b"id,t\n" + b"1,x\n" * 10_000 + b"1,caf\xe9\n")
    with pytest.raises(ContractError, match="a.csv, column t: wanted .* UTF-8"):
        ReleaseFile(tmp_path / "a.csv", ["t"], job="kuailive")


def test_half_a_parquet_file_and_columns_of_lists_are_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1] * 1000, "at": [[1]] * 1000}), tmp_path / "a.parquet")
    with pytest.raises(ContractError, match="a.parquet, column at: wanted numbers"):
        ReleaseFile(tmp_path / "a.parquet", ["id", "at"], job="kuailive")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ContractError, match=r"a.parquet: .*; download it again"):
        ReleaseFile(tmp_path / "a.parquet", ["id"], job="kuailive")


def test_most_rows_of_a_large_file_are_no_rejections(tmp_path: Path) -> None:
    file = _text(tmp_path, "id,at\n" + "x,1\n" * 900 + "1,1\n" * 899)
    with pytest.raises(ContractError, match=r"some.csv, column id: .* 900 of 1799 rows have none, the first 'x' in"):
        file.ids("id")


def test_a_file_without_a_header_has_another_delimiter_and_latin_1(tmp_path: Path) -> None:
    (tmp_path / "films.dat").write_bytes(b'1::"Quoted" Caf\xe9 (1995)::A|B\n2::x\n3::Plain::\n')
    dialect = Dialect(delimiter="::", names=("id", "title", "genres"), plain=False)
    file = ReleaseFile(tmp_path / "films.dat", ["id"], texts=["title", "genres"], dialect=dialect, job="movielens")
    kept = file.kept({"title": file.texts("title"), "genres": file.texts("genres")}).to_pylist()
    assert [tuple(row.values()) for row in kept] == [('"Quoted" Café (1995)', "A|B", 1), ("Plain", None, 3)]
    assert _keys(file) == ["films.dat line 2"]
