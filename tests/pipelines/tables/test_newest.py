"""Newest rows carried from day to day: those of a scan of all days, whoever carried and whatever was rewritten."""

import os
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tables import contract, newest
from pipelines.tables.storage import Storage
from tests.pipelines.counting import counting

DAYS = [f"2026-01-{day:02d}" for day in range(1, 7)]
Rows = dict[int, int]
"""Age band by user."""


def users(rows: Rows) -> pa.Table:
    listed = [{"user_id": u, "age_band": age, "gender": 0, "region": 0, "device": 0} for u, age in rows.items()]
    return pa.Table.from_pylist(listed, schema=contract.spec("users").schema)


def bring(storage: Storage, day: str, rows: Rows) -> None:
    """A day as a user brings it: one file, no marker, the rows in any order."""
    folder = Path(storage.folder("users", day))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(users(rows), folder / "mine.parquet")


def scanned(history: dict[str, Rows], days: list[str]) -> list[dict[str, object]]:
    found: dict[int, dict[str, object]] = {}
    for day in days:
        for user_id, age in history.get(day, {}).items():
            found[user_id] = {"user_id": user_id, "age_band": age, "since": date.fromisoformat(day)}
    return [found[user_id] for user_id in sorted(found)]


def read(storage: Storage, **bounds: str) -> list[dict[str, object]]:
    return newest.read(storage, "users", columns=["user_id", "age_band", "since"], **bounds).to_pylist()


DAY = st.sampled_from(DAYS)
ROWS = st.dictionaries(st.integers(0, 5), st.integers(0, 9), max_size=4)
STEP = st.one_of(
    st.tuples(st.just("write"), DAY, ROWS), st.tuples(st.just("carry"), DAY), st.tuples(st.just("read"), DAY)
)


@settings(max_examples=30, deadline=None)
@given(st.lists(STEP, max_size=14), st.integers(1, 3), st.integers(2, 40))
def test_carried_rows_are_those_of_a_scan_of_all_days(steps: list[tuple], rows_per_file: int, rows_held: int) -> None:
    """Days come in any order, are written again, and are carried or read in between."""
    history: dict[str, Rows] = {}
    with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr(newest, "ROWS_PER_FILE", rows_per_file)
        patch.setattr(newest, "_ROWS_HELD", rows_held)
        storage = Storage.open(root)
        for kind, day, *rows in steps:
            if kind == "write":
                history[day] = rows[0]
                storage.write("users", day, [users(rows[0])] if rows[0] else [])
            elif kind == "carry":
                newest.carry(storage, "users", until=day)
            else:
                assert read(storage, until=day) == scanned(history, [d for d in DAYS if d <= day])
        for day in DAYS:
            assert read(storage, before=day) == scanned(history, [d for d in DAYS if d < day])
            assert read(storage, until=day) == scanned(history, [d for d in DAYS if d <= day])


@given(ROWS, ROWS)
@settings(max_examples=25, deadline=None)
def test_nothing_of_the_day_itself_is_known_before_it(earlier: Rows, today: Rows) -> None:
    with TemporaryDirectory() as root:
        storage = Storage.open(root)
        storage.write("users", DAYS[0], [users(earlier)] if earlier else [])
        known = read(storage, before=DAYS[1])
        print_of = newest.fingerprint(storage, "users", before=DAYS[1])
        storage.write("users", DAYS[1], [users(today)] if today else [])
        newest.carry(storage, "users")
        assert read(storage, before=DAYS[1]) == known
        assert newest.fingerprint(storage, "users", before=DAYS[1]) == print_of


def test_who_carried_leaves_no_trace(tmp_path: Path) -> None:
    prints = []
    for name in ("day by day", "at once"):
        storage = Storage.open(str(tmp_path / name))
        for index, day in enumerate(DAYS):
            storage.write("users", day, [users({index % 4: index, 9: index})])
            if name == "day by day":
                newest.carry(storage, "users", until=day)
        newest.read(storage, "users")
        prints.append(storage.fingerprint("newest_users", DAYS[-1]))
    assert prints[0] == prints[1]


def test_a_file_that_a_user_replaces_is_noticed(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    bring(storage, DAYS[0], {2: 1, 1: 1})
    bring(storage, DAYS[1], {3: 1})
    assert [row["user_id"] for row in read(storage)] == [1, 2, 3]
    bring(storage, DAYS[0], {1: 7, 2: 1})
    os.utime(Path(storage.folder("users", DAYS[0])) / "mine.parquet", ns=(1, 1))
    assert [row["age_band"] for row in read(storage)] == [7, 1, 1]


def test_of_a_key_that_a_day_repeats_the_last_row_counts(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    folder = Path(storage.folder("users", DAYS[0]))
    folder.mkdir(parents=True)
    pq.write_table(pa.concat_tables([users({1: 1}), users({1: 2})]), folder / "mine.parquet")
    assert [row["age_band"] for row in read(storage)] == [2]


def test_nothing_known_is_an_empty_table(tmp_path: Path) -> None:
    rows = newest.read(Storage.open(str(tmp_path)), "users")
    assert rows.num_rows == 0 and rows.schema.names == [*contract.spec("users").schema.names, "since"]
    assert newest.read(Storage.open(str(tmp_path)), "users", columns=["since"]).column_names == ["since"]


def test_a_rewritten_past_day_changes_the_fingerprint_even_of_rows_that_are_replaced(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    storage.write("users", DAYS[0], [users({1: 1})])
    storage.write("users", DAYS[1], [users({1: 2})])
    before, rows = newest.fingerprint(storage, "users"), read(storage)
    storage.write("users", DAYS[0], [users({1: 5})])
    assert newest.fingerprint(storage, "users") != before and read(storage) == rows
    storage.write("users", DAYS[0], [users({1: 1})])
    assert newest.fingerprint(storage, "users") == before


def test_a_reader_opens_as_many_files_on_any_day(tmp_path: Path) -> None:
    storage, calls = counting(str(tmp_path))
    opened = []
    for number in range(1, 29):
        day = f"2026-02-{number:02d}"
        storage.write("users", day, [users({number % 3: number})])
        calls.clear()
        newest.carry(storage, "users", until=day)
        read(storage, until=day)
        opened.append(dict(calls))
    assert opened[3:] == [opened[3]] * len(opened[3:])
