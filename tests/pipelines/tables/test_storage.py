"""Tables on storage: a day is seen whole or not at all, whatever dies when."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.tables import contract, rejections
from pipelines.tables.contract import ContractError
from pipelines.tables.listing import MARKER, UNCOMMITTED
from pipelines.tables.storage import Storage, batches
from tests.pipelines.counting import counting

DAY = "2026-01-01"


def users(*ids: int, age: int = 0) -> pa.Table:
    rows = [{"user_id": i, "age_band": age, "gender": 0, "region": 0, "device": 0} for i in ids]
    return pa.Table.from_pylist(rows, schema=contract.spec("users").schema)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


def dies_after(*chunks: pa.Table) -> Iterator[pa.Table]:
    yield from chunks
    raise RuntimeError("killed")


def test_what_was_written_is_read(storage: Storage):
    storage.write("users", DAY, [users(1, 2), users(3)])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1, 2, 3]
    assert storage.days("users") == [DAY]


def test_a_write_that_dies_midway_leaves_the_old_day(storage: Storage):
    storage.write("users", DAY, [users(1)])
    with pytest.raises(RuntimeError, match="killed"):
        storage.write("users", DAY, dies_after(users(8), users(9)))
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1]


def left_by_a_killed_process(storage: Storage) -> Path:
    """A part that no commit lists."""
    path = Path(storage.folder("users", DAY)) / f"{UNCOMMITTED}0123456789ab-00000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(users(77), path)
    return path


def test_a_first_write_that_dies_shows_nothing(storage: Storage):
    with pytest.raises(RuntimeError, match="killed"):
        storage.write("users", DAY, dies_after(users(1)))
    assert storage.days("users") == []
    with pytest.raises(ContractError, match="table users, day 2026-01-01: wanted Parquet files"):
        storage.read("users", DAY)


def test_the_parts_of_a_killed_process_are_never_seen(storage: Storage):
    left = left_by_a_killed_process(storage)
    assert storage.days("users") == []
    storage.write("users", DAY, [users(1)])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1] and left.exists()


def test_a_first_write_that_dies_does_not_hide_what_a_user_brought(storage: Storage):
    folder = Path(storage.folder("users", DAY))
    folder.mkdir(parents=True)
    pq.write_table(users(5), folder / "mine.parquet")
    with pytest.raises(RuntimeError, match="killed"):
        storage.write("users", DAY, dies_after(users(1)))
    assert storage.read("users", DAY)["user_id"].to_pylist() == [5]


def test_a_write_that_fails_takes_its_files_away(storage: Storage):
    storage.write("users", DAY, [users(1)])
    before = set(Path(storage.folder("users", DAY)).iterdir())
    with pytest.raises(RuntimeError, match="killed"):
        storage.write("users", DAY, dies_after(users(1), users(2)))
    with pytest.raises(ContractError, match="repeated key"):
        storage.write("users", DAY, [users(1), users(1)])
    assert set(Path(storage.folder("users", DAY)).iterdir()) == before


def test_a_write_sweeps_what_it_replaces(storage: Storage):
    storage.write("users", DAY, [users(1), users(2)])
    storage.write("users", DAY, [users(3)])
    assert len(list(Path(storage.folder("users", DAY)).iterdir())) == 2  # one file and the marker


def test_a_write_leaves_young_parts_and_a_users_file(storage: Storage):
    left, mine = left_by_a_killed_process(storage), Path(storage.folder("users", DAY)) / "mine.parquet"
    pq.write_table(users(5), mine)
    for user in (1, 2):
        storage.write("users", DAY, [users(user)])
    assert left.exists() and mine.exists()
    assert storage.read("users", DAY)["user_id"].to_pylist() == [2]


def test_a_write_sweeps_old_parts_of_a_killed_process(storage: Storage):
    left = left_by_a_killed_process(storage)
    os.utime(left, (0, 0))
    storage.write("users", DAY, [users(1)])
    assert not left.exists()
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1]


def another_job_writes(storage: Storage, *ids: int) -> str:
    """What another job is told that writes the day at this moment, "" where it may."""
    told = [""]

    def write() -> None:
        try:
            Storage.open(storage.url).write("users", DAY, [users(*ids)])
        except ContractError as error:
            told[0] = str(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    return told[0]


def test_of_two_writers_at_once_the_second_is_told_and_changes_nothing(storage: Storage):
    told = []

    def another_writes_in_the_middle() -> Iterator[pa.Table]:
        yield users(1)
        told.append(another_job_writes(storage, 9))
        yield users(2)

    storage.write("users", DAY, another_writes_in_the_middle())
    assert "users/day=2026-01-01: another job is writing it" in told[0]
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1, 2]
    assert len(list(Path(storage.folder("users", DAY)).iterdir())) == 3  # two files and the marker
    assert another_job_writes(storage, 9) == ""


def test_a_job_holds_a_day_from_before_it_writes(storage: Storage):
    with storage.lease("users", DAY):
        assert "another job is writing it" in another_job_writes(storage, 9)
        storage.write("users", DAY, [users(1)])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1]


def test_a_day_whose_files_are_gone_is_not_current(storage: Storage):
    storage.write("users", DAY, [users(1)], {"config": "a"})
    next(Path(storage.folder("users", DAY)).glob("*.parquet")).unlink()
    assert not storage.is_current("users", DAY, {"config": "a"})
    storage.write("users", DAY, [users(1)], {"config": "a"})
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1]


def test_a_repeated_key_across_chunks_is_refused(storage: Storage):
    with pytest.raises(ContractError, match="repeated key"):
        storage.write("users", DAY, [users(1), users(1)])
    assert storage.days("users") == []


def test_a_missing_column_is_refused_on_write(storage: Storage):
    with pytest.raises(ContractError, match=r"missing column\(s\) region"):
        storage.write("users", DAY, [users(1).drop_columns("region")])


def test_a_wrong_type_is_refused_on_write(storage: Storage):
    with pytest.raises(ContractError, match="column user_id: wanted int64, got string"):
        storage.write("users", DAY, [users(1).set_column(0, "user_id", pa.array(["1"]))])


def test_rows_are_added_to_those_of_before_and_a_death_changes_nothing(storage: Storage):
    storage.append("users", DAY, [users(1)], {"offset": "1"})
    first = storage.fingerprint("users", DAY)
    storage.append("users", DAY, [users(3), users(2)], {"offset": "3"})
    with pytest.raises(RuntimeError, match="killed"):
        storage.append("users", DAY, dies_after(users(8)), {"offset": "4"})
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1, 3, 2]
    commit = storage.commit_of("users", DAY)
    assert commit is not None and commit.rows == 3 and commit.made_from == {"offset": "3"}
    second = storage.fingerprint("users", DAY)
    storage.append("users", DAY, [], {"offset": "9"})
    assert storage.fingerprint("users", DAY) == second != first
    assert storage.is_current("users", DAY, {"offset": "9"}) and storage.days("users") == [DAY]


def test_rows_are_not_added_to_what_a_user_brought(storage: Storage):
    path = Path(storage.folder("users", DAY)) / "mine.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(users(5), path)
    with pytest.raises(ContractError, match="wanted a day that a job wrote, to add rows to it"):
        storage.append("users", DAY, [users(1)])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [5]


def test_an_empty_day_is_committed_but_holds_no_data(storage: Storage):
    storage.write("users", DAY, [], {"config": "a"})
    assert storage.read("users", DAY).num_rows == 0
    assert storage.read("users", DAY).schema == contract.spec("users").schema
    assert storage.days("users") == []
    assert storage.is_current("users", DAY, {"config": "a"})


def test_an_empty_day_stays_empty_beside_a_write_that_died(storage: Storage):
    storage.write("users", DAY, [])
    with pytest.raises(RuntimeError, match="killed"):
        storage.write("users", DAY, dies_after(users(1)))
    assert storage.days("users") == [] and not storage.holds("users", DAY)
    storage.write("users", DAY, [users(1)])
    assert storage.days("users") == [DAY] and storage.holds("users", DAY)


def test_the_days_are_told_without_opening_a_file(tmp_path: Path):
    storage, calls = counting(str(tmp_path))
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        storage.write("users", day, [users(1)])
    calls.clear()
    assert len(storage.days("users")) == 3
    assert dict(calls) == {"listings": 1}


def test_a_history_changes_with_its_days_and_no_others(storage: Storage):
    for day in ("2026-01-01", "2026-01-02", "2026-01-03"):
        storage.write("users", day, [users(1)])
    before = storage.listing("users")
    storage.write("users", "2026-01-02", [users(2)])
    after = storage.listing("users")
    assert after.history(before="2026-01-02") == before.history(until="2026-01-01") != ""
    assert after.history(until="2026-01-02") != before.history(until="2026-01-02")
    assert after.stamp("2026-01-03") == before.stamp("2026-01-03") == before.stamp("2026-01-02")
    assert after.stamp("2026-01-02") != before.stamp("2026-01-02") and after.stamp("2026-01-09") == ""


def test_what_another_writer_is_about_to_put_is_left_alone(storage: Storage):
    storage.write("users", DAY, [users(1)])
    unfinished = Path(storage.folder("users", DAY)) / f"{MARKER}.12ab.tmp"
    unfinished.write_text("{")
    storage.write("users", DAY, [users(2)])
    assert unfinished.is_file()


def test_files_brought_by_a_user_are_read_and_conformed(storage: Storage):
    folder = Path(storage.folder("users", DAY))
    folder.mkdir(parents=True)
    narrow = users(4).set_column(0, "user_id", pa.array([4], pa.int32()))
    pq.write_table(narrow, folder / "mine.parquet")
    assert storage.read("users", DAY).schema == contract.spec("users").schema
    assert storage.read("users", DAY, ["user_id"]).schema.field("user_id").type == pa.int64()


def test_columns_come_in_the_order_asked_for(storage: Storage):
    storage.write("users", DAY, [users(1)])
    assert storage.read("users", DAY, ["region", "user_id"]).column_names == ["region", "user_id"]


def test_rows_can_be_filtered(storage: Storage):
    storage.write("users", DAY, [users(1, 2, 3)])
    assert storage.read("users", DAY, ["user_id"], pc.field("user_id") > 1)["user_id"].to_pylist() == [2, 3]


def test_a_damaged_file_is_named(storage: Storage):
    storage.write("users", DAY, [users(1)])
    (file,) = Path(storage.folder("users", DAY)).glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ContractError, match="table users, day 2026-01-01.*replace the damaged file"):
        storage.read("users", DAY)


def test_a_damaged_marker_is_named(storage: Storage):
    storage.write("users", DAY, [users(1)])
    (Path(storage.folder("users", DAY)) / MARKER).write_text('{"files": ["a.par')
    with pytest.raises(ContractError, match="table users, day 2026-01-01: wanted a commit marker"):
        storage.read("users", DAY)


def test_a_look_at_the_files_of_a_day_is_one_request_however_many_there_are(storage: Storage):
    asked = []
    for files in (1, 30):
        storage.write("users", DAY, [users(number) for number in range(files)], {"config": "a"})
        counted, calls = counting(storage.root)
        assert counted.is_current("users", DAY, {"config": "a"})
        asked.append(dict(calls))
    assert asked[0] == asked[1]


def test_a_day_is_current_only_for_the_inputs_it_was_made_from(storage: Storage):
    storage.write("users", DAY, [users(1)], {"config": "a"})
    assert storage.is_current("users", DAY, {"config": "a"})
    assert not storage.is_current("users", DAY, {"config": "b"})
    assert not storage.is_current("users", "2026-01-02", {"config": "a"})


def test_the_fingerprint_follows_the_content(storage: Storage):
    first = storage.write("users", DAY, [users(1)]).fingerprint
    assert storage.write("users", DAY, [users(1)]).fingerprint == first == storage.fingerprint("users", DAY)
    assert storage.write("users", DAY, [users(2)]).fingerprint != first


def test_the_simulators_truth_is_closed_to_ordinary_jobs(tmp_path: Path):
    row = {"author_id": 1, **{name: ["x"] for name in contract.FIELDS}}
    truth = pa.Table.from_pylist([row], schema=contract.spec("oracle_anchors").schema)
    Storage.open(str(tmp_path)).write("oracle_anchors", DAY, [truth])
    with pytest.raises(ContractError, match="may not read it"):
        Storage.open(str(tmp_path)).read("oracle_anchors", DAY)
    assert Storage.open(str(tmp_path), oracle=True).read("oracle_anchors", DAY).num_rows == 1


def test_batches_are_bounded_and_in_order(storage: Storage):
    storage.write("users", DAY, [users(*range(1, 8)), users(8, 9)])
    pieces = [b["user_id"].to_pylist() for b in batches(storage.dataset("users", DAY), 3, ["user_id"])]
    assert max(map(len, pieces)) <= 3
    assert sum(pieces, []) == list(range(1, 10))


def refusal(key: str, reason: str = "bad_chat") -> dict[str, str]:
    return {"key": key, "reason": reason, "detail": "why"}


def test_a_stage_replaces_only_its_own_rejections(storage: Storage):
    rejections.replace(storage, DAY, "ingest", [refusal("a"), refusal("b")])
    rejections.replace(storage, DAY, "anchors", [{**refusal("a", "invalid_json"), "attempts": 3}])
    rejections.replace(storage, DAY, "ingest", [refusal("c")])
    rows = {(r["stage"], r["key"], r["reason"], r["attempts"]) for r in storage.read("rejections", DAY).to_pylist()}
    assert rows == {("ingest", "c", "bad_chat", 1), ("anchors", "a", "invalid_json", 3)}


def test_a_stage_that_rejects_nothing_clears_its_rows(storage: Storage):
    rejections.replace(storage, DAY, "ingest", [refusal("a")])
    rejections.replace(storage, DAY, "ingest", [])
    assert storage.read("rejections", DAY).num_rows == 0
    assert rejections.of_stage(storage, DAY, "ingest").num_rows == 0


def test_a_reason_outside_the_list_is_refused(storage: Storage):
    with pytest.raises(ValueError, match="got mood"):
        rejections.replace(storage, DAY, "ingest", [refusal("a", "mood")])


def _inodes(storage: Storage) -> set[int]:
    return {file.stat().st_ino for file in Path(storage.folder("users", DAY)).glob("*.parquet")}


def test_an_adopted_day_is_the_others_without_a_second_copy(storage: Storage, tmp_path: Path):
    other = Storage.open(str(tmp_path / "other"))
    other.write("users", DAY, [users(1, 2), users(3)], {"config": "a"})
    storage.write("users", DAY, [users(9)])
    storage.adopt("users", DAY, other)
    assert storage.read("users", DAY) == other.read("users", DAY)
    assert storage.commit_of("users", DAY) == other.commit_of("users", DAY)
    assert _inodes(storage) == _inodes(other)  # the row of before is swept


def test_who_adopts_and_who_is_adopted_can_write_again(storage: Storage, tmp_path: Path):
    other = Storage.open(str(tmp_path / "other"))
    other.write("users", DAY, [users(1)])
    storage.adopt("users", DAY, other)
    other.write("users", DAY, [users(2)])
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1]
    storage.adopt("users", DAY, other)
    storage.write("users", DAY, [users(3)])
    assert other.read("users", DAY)["user_id"].to_pylist() == [2]


def test_a_day_brought_without_a_marker_is_adopted_once(storage: Storage, tmp_path: Path):
    other = Storage.open(str(tmp_path / "other"))
    folder = Path(other.folder("users", DAY))
    folder.mkdir(parents=True)
    pq.write_table(users(5, 6), folder / "mine.parquet")
    storage.adopt("users", DAY, other)
    first, marker = storage.commit_of("users", DAY), Path(storage.folder("users", DAY)) / MARKER
    assert first is not None and first.rows == 2 and first.fingerprint == other.fingerprint("users", DAY)
    written = marker.stat().st_mtime_ns
    storage.adopt("users", DAY, other)
    assert marker.stat().st_mtime_ns == written


def test_where_a_disk_has_no_links_an_adopted_day_is_copied(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("pipelines.tables.storage.os.link", refuse)
    other = Storage.open(str(tmp_path / "other"))
    other.write("users", DAY, [users(1)])
    storage.adopt("users", DAY, other)
    assert storage.read("users", DAY)["user_id"].to_pylist() == [1] and not _inodes(storage) & _inodes(other)
