"""Which days are due: what markers say, without opening all of them."""

from pathlib import Path

import pytest

from pipelines.tables.due import due_days
from pipelines.tables.storage import Storage
from tests.pipelines.counting import counting
from tests.pipelines.tables.test_newest import users

DAYS = [f"2026-01-{day:02d}" for day in range(1, 21)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Twenty days, made from "a" and checked once."""
    storage = Storage.open(str(tmp_path))
    for day in DAYS:
        storage.write("users", day, [users({1: 1})], {"of": "a"})
    assert due_days(storage, "users", made_from()) == []
    return storage


def made_from(**changed: str) -> dict[str, dict[str, str]]:
    return {day: {"of": changed.get(day[-2:], "a")} for day in DAYS}


def test_a_day_with_other_inputs_is_due(storage: Storage) -> None:
    assert due_days(storage, "users", made_from(**{"03": "b", "20": "b"})) == [DAYS[2], DAYS[19]]
    assert due_days(storage, "users", made_from()) == []


def test_a_day_that_another_wrote_over_is_due(storage: Storage) -> None:
    storage.write("users", DAYS[4], [users({1: 2})], {"of": "b"})
    assert due_days(storage, "users", made_from()) == [DAYS[4]]
    assert due_days(storage, "users", made_from()) == [DAYS[4]]


def test_a_day_that_is_gone_is_due(storage: Storage) -> None:
    storage.filesystem.delete_dir(storage.folder("users", DAYS[7]))
    assert due_days(storage, "users", made_from()) == [DAYS[7]]


def test_an_empty_day_that_is_gone_is_due(storage: Storage) -> None:
    storage.write("users", DAYS[7], [], {"of": "a"})
    assert due_days(storage, "users", made_from()) == []
    storage.filesystem.delete_dir(storage.folder("users", DAYS[7]))
    assert due_days(storage, "users", made_from()) == [DAYS[7]]


def test_days_that_were_checked_are_not_opened_again(storage: Storage) -> None:
    counted, calls = counting(storage.root)
    assert due_days(counted, "users", made_from()) == []
    assert calls["opened"] == 1  # what was checked


def test_some_days_alone_can_be_asked_for(storage: Storage) -> None:
    some = {day: {"of": "b"} for day in DAYS[5:7]}
    assert due_days(storage, "users", some) == DAYS[5:7]
    assert due_days(storage, "users", {day: {"of": "a"} for day in DAYS[5:7]}) == []
