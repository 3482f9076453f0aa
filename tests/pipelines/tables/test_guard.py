"""A good day is not replaced by a far worse one, unless the user says so."""

import logging
from pathlib import Path

import pytest

from pipelines.tables.contract import ContractError
from pipelines.tables.guard import Guard
from pipelines.tables.storage import Storage
from tests.pipelines.tables.test_storage import DAY, users


def guarded(root: Path, *, share: float = 0.5, replace: bool = False) -> Storage:
    return Storage.open(str(root)).guarded(Guard(job="ingest", least_share=share, replace=replace))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = guarded(tmp_path)
    storage.write("users", DAY, [users(1, 2, 3, 4)])
    return storage


def test_an_empty_result_replaces_nothing(storage: Storage):
    with pytest.raises(ContractError, match=r"wanted at least 50% of the 4 rows there .*--set ingest.replace=true"):
        storage.write("users", DAY, [])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1, 2, 3, 4]


def test_as_many_rows_of_others_replace_nothing(storage: Storage):
    with pytest.raises(ContractError, match="got 1 of them among the 4 new rows"):
        storage.write("users", DAY, [users(4, 5), users(6, 7)])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1, 2, 3, 4]


def test_half_of_the_rows_are_enough_and_what_goes_is_logged(storage: Storage, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    storage.write("users", DAY, [users(3, 4, 5)])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [3, 4, 5]
    assert "table users, day 2026-01-01: 2 of 4 rows go, 1 are new" in caplog.text


def test_the_user_may_replace_it_all_the_same(storage: Storage, tmp_path: Path):
    guarded(tmp_path, replace=True).write("users", DAY, [])
    assert storage.read("users", DAY).num_rows == 0


def test_the_share_is_the_users(storage: Storage, tmp_path: Path):
    with pytest.raises(ContractError, match="wanted at least 100%"):
        guarded(tmp_path, share=1.0).write("users", DAY, [users(1, 2, 3)])
    guarded(tmp_path, share=0.0).write("users", DAY, [users(9)])


def test_a_day_that_nobody_can_read_is_written_anew(storage: Storage, caplog: pytest.LogCaptureFixture):
    next(Path(storage.folder("users", DAY)).glob("*.parquet")).write_bytes(b"no Parquet")
    storage.write("users", DAY, [users(8)])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [8] and "written anew" in caplog.text


def test_a_first_version_and_other_days_are_free(storage: Storage):
    storage.write("users", "2026-01-02", [])
    storage.write("users", "2026-01-02", [users(1)])
