"""Rows of windows with the histories of their impressions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipelines.samples import window_examples, windows
from pipelines.samples.examples import ExamplesConfig
from pipelines.samples.windows_config import WindowsConfig
from pipelines.settings import Settings
from pipelines.tables.contract import ContractError
from tests.pipelines.jobs import run_job

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]
FEATURES = ["history_author_ids", "history_age_s", "history_watch_s"]


def run(settings: Settings) -> dict[str, object]:
    return window_examples.run(settings.examples, settings.open())


def of(settings: Settings, table: str) -> pa.Table:
    storage = settings.open().storage
    return pa.concat_tables([storage.read(table, day) for day in storage.days(table)])


@pytest.mark.parametrize("shards", [1, 4])
def test_an_impression_has_the_features_that_it_has_in_examples(tiny: Settings, shards: int) -> None:
    run_job(windows, tiny)
    settings = replace(tiny, examples=ExamplesConfig(history_length=6, shards=shards, chunk_rows=500))
    assert run(settings)["days_written"] == DAYS
    told, shown = of(tiny, "window_examples"), of(tiny, "examples")
    place = {int(number): row for row, number in enumerate(shown["impression_id"].to_numpy())}
    rows = pa.array([place[int(number)] for number in told["impression_id"].to_numpy()])
    assert told.num_rows > shown.num_rows and len(set(rows.to_pylist())) == shown.num_rows
    for name in ("user_id", "author_id", "live_id", "ts_ms", *FEATURES):
        assert told[name].to_pylist() == shown[name].take(rows).to_pylist(), name


def test_an_evening_impression_that_is_told_of_next_day_has_the_history_of_its_own_day(tiny: Settings) -> None:
    late = WindowsConfig(labels="fixed", window_s=6 * 3600.0)
    settings = replace(tiny, windows=late, examples=replace(tiny.examples, history_days=0))
    run_job(windows, settings)
    run(settings)
    told = of(tiny, "window_examples")
    day_of, told_on = told["ts_ms"].to_numpy() // 86_400_000, told["window_end_ms"].to_numpy() // 86_400_000
    assert (day_of < told_on).any()
    age_ms = np.array(told["history_age_s"].to_pylist()) * 1000
    within = told["ts_ms"].to_numpy() % 86_400_000
    assert age_ms.any() and (age_ms <= within[:, None]).all(), "a click of the day before"


def test_rows_are_those_of_windows_in_the_order_of_their_reports(tiny: Settings) -> None:
    run_job(windows, tiny)
    run(tiny)
    storage = tiny.open().storage
    for day in DAYS:
        told, reported = storage.read("window_examples", day), storage.read("windows", day)
        order = [("window_end_ms", "ascending"), ("impression_id", "ascending"), ("reason", "ascending")]
        assert told.select(reported.column_names).equals(reported.sort_by(order))
    assert run(tiny)["days_written"] == []


def test_it_says_which_job_comes_first(tiny: Settings) -> None:
    with pytest.raises(ContractError, match="run the job windows first"):
        run(tiny)
