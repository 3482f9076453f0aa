"""What jobs left when they died goes, once it is old; what a job uses stays."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.tables.artifacts import Artifacts
from pipelines.tables.storage import Storage
from pipelines.tables.sweep import sweep
from tests.pipelines.counting import counting
from tests.pipelines.tables.test_newest import users

DAY = "2026-01-01"
DAYS = 86_400


def aged(path: Path, seconds: float) -> Path:
    """A file, or a folder with all in it, that was written so long ago."""
    for each in (*path.rglob("*"), path):
        moment = time.time() - seconds
        os.utime(each, (moment, moment))
    return path


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Two old days of users."""
    storage = Storage.open(str(tmp_path))
    for day in (DAY, "2026-01-02"):
        storage.write("users", day, [users({1: 1}), users({2: 1})])
    aged(tmp_path / "tables", 9 * DAYS)
    return storage


@contextmanager
def held_by_another(storage: Storage, name: str) -> Iterator[None]:
    """While another job, here a thread, holds a lease."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with storage.leases.hold(name):
            taken.set()
            done.wait()

    job = threading.Thread(target=hold)
    job.start()
    taken.wait()
    try:
        yield
    finally:
        done.set()
        job.join()


def left_part(storage: Storage, day: str = DAY, name: str = "part-run-0123456789ab-00000-00ff.parquet") -> Path:
    path = Path(storage.folder("users", day)) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PAR1")
    return path


def test_what_is_committed_stays_and_costs_two_listings(storage: Storage) -> None:
    counted, calls = counting(storage.root)
    assert sweep(counted) == []
    assert dict(calls) == {"listings": 2}
    assert storage.read("users", DAY).num_rows == 2


@pytest.mark.parametrize("day", [DAY, "2026-01-09"])
@pytest.mark.parametrize("name", ["part-run-0123456789ab-00000-00ff.parquet", "_COMMIT.json.0123abcd.tmp"])
def test_parts_of_a_write_that_died_go_with_a_line(
    storage: Storage, day: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    part = aged(left_part(storage, day, name), 2 * DAYS)
    with caplog.at_level(logging.INFO):
        assert sweep(storage) == [f"tables/users/day={day}/{name}"]
    assert not part.exists() and f"write of users, day={day}" in caplog.text
    assert storage.read("users", DAY).num_rows == 2


def test_parts_beside_an_empty_day_go(storage: Storage) -> None:
    storage.write("users", DAY, [])
    part = aged(left_part(storage), 2 * DAYS)
    assert sweep(storage) and not part.exists()
    assert storage.holds("users", "2026-01-02") and not storage.holds("users", DAY)


def test_young_parts_and_what_users_brought_stay(storage: Storage) -> None:
    young = left_part(storage)
    brought = aged(left_part(storage, name="mine.parquet"), 9 * DAYS)
    assert sweep(storage) == []
    assert young.exists() and brought.exists()


def test_parts_of_a_day_that_a_job_writes_stay(storage: Storage) -> None:
    part = aged(left_part(storage), 2 * DAYS)
    with held_by_another(storage, "users/day=" + DAY):
        assert sweep(storage) == []
    assert part.exists()


def test_a_day_whose_marker_is_damaged_is_named_and_left(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    part = aged(left_part(storage), 2 * DAYS)
    (part.parent / "_COMMIT.json").write_text("{")
    assert sweep(storage) == [] and part.exists()
    assert "table users, day=2026-01-01 is not swept" in caplog.text


def test_staging_goes_after_a_week_but_not_a_running_job_s(storage: Storage, tmp_path: Path) -> None:
    folders = [tmp_path / "staging" / f"anchors-0f0f-2026-01-0{day}" for day in (1, 2, 3)]
    for folder, days in zip(folders, (9, 9, 2), strict=True):
        folder.mkdir(parents=True)
        (folder / "part-1.parquet").write_bytes(b"PAR1")
        aged(folder, days * DAYS)
    with held_by_another(storage, "anchors/day=2026-01-02"):
        assert sweep(storage) == ["staging/anchors-0f0f-2026-01-01"]
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_a_part_of_today_keeps_its_folder_of_staging(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "staging" / "anchors-0f0f-2026-01-01"
    folder.mkdir(parents=True)
    (folder / "part-1.parquet").write_bytes(b"PAR1")
    aged(folder, 9 * DAYS)
    (folder / "part-2.parquet").write_bytes(b"PAR1")
    assert sweep(storage) == []


def test_half_versions_go_when_the_next_of_their_kind_is_published(storage: Storage, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "weights.bin").write_text("one")
    Artifacts(storage).publish("sarm", made, "r1", {})
    kinds = tmp_path / "artifacts"
    for name in ("sarm/v=old", "sarm/v=young", "base/v=old"):
        (kinds / name).mkdir(parents=True)
        (kinds / name / "weights.bin").write_text("half")
    for name in ("sarm/v=old", "sarm/v=r1", "base/v=old"):
        aged(kinds / name, 2 * DAYS)
    Artifacts(storage).publish("sarm", made, "r2", {})
    assert sorted(folder.name for folder in (kinds / "sarm").glob("v=*")) == ["v=r1", "v=r2", "v=young"]
    assert (kinds / "base" / "v=old").exists()
