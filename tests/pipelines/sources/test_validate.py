"""`validate`: everything that is wrong with the tables below a root, in one go."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.runtime import config
from pipelines.settings import Settings
from pipelines.sources import validate
from pipelines.tables import contract
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.jobs import run_job
from tests.pipelines.tables.test_contract import MIDNIGHT_MS, impressions
from tests.pipelines.tables.test_storage import users
from tests.pipelines.tables.test_values import changed

DAY = "2026-01-01"


def check(root: Path, **section: Any) -> dict[str, Any]:
    return run_job(validate, config.build(Settings, {"storage": {"root": str(root)}, "validate": section}))


def bring(root: Path, name: str, day: str, table: pa.Table, file: str = "a.parquet") -> Path:
    """A file that a user puts into a day by hand."""
    path = Path(Storage.open(str(root)).folder(name, day)) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def segments(images: list[list[bytes]]) -> pa.Table:
    rows = [
        {
            "author_id": 1,
            "live_id": 2,
            "segment": number,
            "start_ts_ms": MIDNIGHT_MS + number * 30_000,
            "frames": [{"offset_ms": 1000 * i, "jpeg": image} for i, image in enumerate(frames)],
            "speech": None,
            "comments": [],
            "viewers": 0,
            "likes": 0,
            "gifts": 0,
        }
        for number, frames in enumerate(images)
    ]
    return pa.Table.from_pylist(rows, schema=contract.spec("segments").schema)


def test_sound_tables_pass_with_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    storage = Storage.open(str(tmp_path))
    storage.write("users", DAY, [users(1, 2), users(3)])
    storage.write("segments", DAY, [segments([[jpeg()]])])
    assert check(tmp_path) == {"validate/days": 2, "validate/rows": 4, "validate/warnings": []}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["users", DAY, "3", "rows", "ok"],
        ["segments", DAY, "1", "rows", "ok"],
    ]


def test_all_errors_are_reported_not_only_the_first(tmp_path: Path):
    bring(tmp_path, "users", DAY, users(1).drop_columns(["region"]))
    bring(tmp_path, "users", "2026-01-02", users(2, 2))
    bring(tmp_path, "users", "2026-01-03", users(3).set_column(1, "age_band", pa.array(["old"])))
    with pytest.raises(ContractError) as caught:
        check(tmp_path)
    text = str(caught.value)
    assert text.startswith("3 error(s)")
    assert "table users, day 2026-01-01: missing column(s) region" in text
    assert "table users, day 2026-01-02: wanted unique (user_id)" in text
    assert "table users, day 2026-01-03, column age_band: wanted int16, got string" in text


def test_a_key_repeated_in_two_files_is_found(tmp_path: Path):
    bring(tmp_path, "users", DAY, users(1, 2))
    bring(tmp_path, "users", DAY, users(2, 3), "b.parquet")
    with pytest.raises(ContractError, match="repeated key"):
        check(tmp_path)


def test_files_of_one_day_may_differ_only_within_the_contract(tmp_path: Path):
    bring(tmp_path, "users", DAY, users(1))
    bring(tmp_path, "users", DAY, users(2).set_column(0, "user_id", pa.array([2.5])), "b.parquet")
    with pytest.raises(ContractError, match="column user_id: wanted int64, got double"):
        check(tmp_path)


def test_a_damaged_file_does_not_hide_the_others(tmp_path: Path):
    bring(tmp_path, "users", DAY, users(1)).write_bytes(b"PAR1 this is not it")
    bring(tmp_path, "users", DAY, users(2, 2), "b.parquet")
    with pytest.raises(ContractError, match=r"(?s)2 error\(s\).*wanted a Parquet file.*repeated key"):
        check(tmp_path)


def test_a_missing_file_of_a_committed_day_is_found(tmp_path: Path):
    storage = Storage.open(str(tmp_path))
    storage.write("users", DAY, [users(1), users(2)])
    next(Path(storage.folder("users", DAY)).glob("*.parquet")).unlink()
    with pytest.raises(ContractError, match="wanted a Parquet file"):
        check(tmp_path)


def test_an_empty_day_is_found(tmp_path: Path):
    bring(tmp_path, "users", DAY, users())
    with pytest.raises(ContractError, match="wanted at least one row"):
        check(tmp_path)


def test_a_truncated_frame_is_named(tmp_path: Path):
    whole = jpeg()
    Storage.open(str(tmp_path)).write("segments", DAY, [segments([[whole, whole], [whole, whole[: len(whole) // 2]]])])
    with pytest.raises(ContractError, match="author_id 1, live_id 2, segment 1, offset_ms 1000") as caught:
        check(tmp_path)
    assert "1 error(s)" in str(caught.value)


def test_frames_are_left_alone_where_none_are_sampled(tmp_path: Path):
    Storage.open(str(tmp_path)).write("segments", DAY, [segments([[b"no jpeg"]])])
    assert check(tmp_path, sample_frames=0)["validate/rows"] == 1


def test_a_sample_is_spread_over_the_whole_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[bytes] = []

    def remember(image: bytes) -> str:
        opened.append(image)
        return ""

    monkeypatch.setattr(validate, "_damage", remember)
    images = [[b"%d-%d" % (row, frame) for frame in range(2)] for row in range(300)]
    Storage.open(str(tmp_path)).write("segments", DAY, [segments(images)])
    check(tmp_path, sample_frames=10)
    rows = [int(image.split(b"-")[0]) for image in opened]
    assert rows == list(range(0, 300, 30))


def test_only_the_tables_asked_for_are_checked(tmp_path: Path):
    bring(tmp_path, "users", DAY, users(1, 1))
    Storage.open(str(tmp_path)).write("segments", DAY, [segments([[jpeg()]])])
    assert check(tmp_path, tables=["segments"])["validate/days"] == 1


def test_a_table_asked_for_and_absent_is_an_error(tmp_path: Path):
    with pytest.raises(ContractError, match="table users: wanted a day"):
        check(tmp_path, tables=["users"])


def test_nothing_to_check_is_an_error(tmp_path: Path):
    with pytest.raises(ContractError, match="wanted tables, got none"):
        check(tmp_path)
    with pytest.raises(config.ConfigError, match="unknown table 'fans'"):
        check(tmp_path, tables=["fans"])


def test_a_folder_that_is_no_day_is_an_error_beside_those_of_other_tables(tmp_path: Path):
    bring(tmp_path, "users", "2026-1-5", users(1))
    bring(tmp_path, "segments", DAY, segments([[jpeg()]]).slice(0, 0))
    with pytest.raises(ContractError, match=r"(?s)2 error.*table users: .*got day=2026-1-5; rename it.*an empty day"):
        check(tmp_path)


def test_a_fault_is_found_once_with_its_row_in_the_file(tmp_path: Path):
    bring(tmp_path, "users", DAY, users(*range(3)))
    table = users(*range(10, 10 + 2 * validate.ROWS_PER_BATCH))
    wrong = [0] * (validate.ROWS_PER_BATCH + 7) + [-2] * (validate.ROWS_PER_BATCH - 7)
    bring(tmp_path, "users", DAY, table.set_column(1, "age_band", pa.array(wrong, pa.int16())), "b.parquet")
    row = validate.ROWS_PER_BATCH + 7
    with pytest.raises(ContractError) as caught:
        check(tmp_path)
    assert str(caught.value).splitlines()[0] == "1 error(s)"
    assert f"column age_band: wanted numbers >= -1, got -2 (first at row {row}) in b.parquet" in str(caught.value)


def test_a_period_that_a_job_wrote_as_a_day_passes(tmp_path: Path):
    """As `movielens` does; of what a user brought, each time is of the day."""
    late = changed(impressions([0, 1]), ts_ms=pa.array([MIDNIGHT_MS, MIDNIGHT_MS + 90 * 86_400_000], pa.int64()))
    Storage.open(str(tmp_path / "ours")).write("impressions", DAY, [late])
    assert check(tmp_path / "ours", tables=["impressions"])["validate/rows"] == 2
    bring(tmp_path / "brought", "impressions", DAY, late)
    with pytest.raises(ContractError, match="column ts_ms: .*which is 2026-04-01"):
        check(tmp_path / "brought")
