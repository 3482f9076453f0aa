"""Which folders of a table are days, and what is said of others."""

from pathlib import Path

import pytest

from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage
from tests.pipelines.tables.test_storage import users


def put(root: Path, *paths: str) -> Storage:
    storage = Storage.open(str(root))
    storage.write("users", "2026-01-01", [users(1)])
    for path in paths:
        file = root / "tables/users" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return storage


@pytest.mark.parametrize(
    "folder",
    [
        "day=2026-1-5",
        "day=__HIVE_DEFAULT_PARTITION__",
        "day=2026-01-05 00%3A00%3A00",
        "day=2026-02-30",
        "day=20260105",
        "dt=2026-01-05",
    ],
)
def test_a_folder_that_is_no_iso_date_is_named(tmp_path: Path, folder: str):
    storage = put(tmp_path, f"{folder}/a.parquet")
    with pytest.raises(ContractError) as caught:
        storage.days("users")
    assert str(caught.value) == f"table users: wanted folders named day=YYYY-MM-DD, got {folder}; rename it"


@pytest.mark.parametrize(
    "path, got",
    [
        ("day=2026-01-05/hour=3/a.parquet", "day=2026-01-05/hour=3"),
        ("region=eu/day=2026-01-05/a.parquet", "region=eu/day=2026-01-05"),
        ("day=2026-01-05/a.parquet/part-0.parquet", "day=2026-01-05/a.parquet"),
        ("a.parquet", "files that lie in none"),
    ],
)
def test_rows_that_lie_elsewhere_are_named(tmp_path: Path, path: str, got: str):
    storage = put(tmp_path, path)
    with pytest.raises(ContractError, match=f"got {got}; move its files into such folders"):
        storage.listing("users")


def test_several_such_folders_are_counted(tmp_path: Path):
    storage = put(tmp_path, "day=2026-1-5/a.parquet", "day=2026-1-6/a.parquet", "day=2026-1-7/a.parquet")
    with pytest.raises(ContractError, match=r"got day=2026-1-5; rename it and 2 other\(s\)"):
        storage.days("users")


def test_hidden_files_and_folders_without_rows_are_passed_over(tmp_path: Path):
    paths = ("day=2026-1-5/_SUCCESS", "_temporary/0/a.parquet", "_delta_log/1.checkpoint.parquet", ".trash/a.parquet")
    storage = put(tmp_path, *paths, "day=2026-01-02/._a.parquet", "day=2026-01-02/.a.parquet.crc", "notes.txt")
    assert storage.days("users") == ["2026-01-01"]
