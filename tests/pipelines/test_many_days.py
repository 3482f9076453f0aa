"""A daily run does as much on a late day as on an early one."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipelines.counting import counting
from tests.pipelines.many_days import JOBS, Platform


def test_a_daily_run_opens_as_many_files_however_many_days_there_are(tmp_path: Path) -> None:
    platform, asked = Platform(tmp_path), []
    for day in (6, 24):
        platform.grow(day - 1)
        platform.run()
        platform.run()  # finds that what was caught up is done, and need not be looked at again
        platform.grow(day)
        asked.append(dict(platform.run()[1]))
    assert asked[0] == asked[1]
    assert 0 < asked[0]["opened"] < 120


def test_a_daily_run_with_nothing_new_writes_no_table(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    platform.run()
    platform.run()
    assert platform.run()[1]["written"] == 0


@pytest.mark.parametrize("job", ["anchors", "examples"])
def test_the_first_look_at_a_history_asks_as_much_of_each_day(tmp_path: Path, job: str) -> None:
    """Nothing is due, and nothing says that it was looked at before."""
    platform, asked = Platform(tmp_path), []
    for days in (8, 16, 32):
        platform.grow(days)
        platform.run()
        (tmp_path / "store" / "tables" / job / "_CHECKED.json").unlink()
        storage, calls = counting(platform.settings.storage.root)
        JOBS[job].run(getattr(platform.settings, job), replace(platform.settings.open(), storage=storage))
        asked.append(sum(calls.values()))
    assert asked[2] - asked[1] == 2 * (asked[1] - asked[0]) <= 4 * 16
