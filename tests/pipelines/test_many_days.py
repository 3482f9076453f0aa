"""A daily run does as much on a late day as on an early one."""

from pathlib import Path

from tests.pipelines.many_days import Platform


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
