"""Point-in-time histories: against a plain reference, against leakage, and over storage."""

from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.history import HISTORY_PAD, known_at
from pipelines.samples import examples
from pipelines.samples.examples import Clicks, ExamplesConfig, anchor_days, history_of
from pipelines.settings import Settings
from pipelines.tables.columns import to_numpy
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage, StorageConfig
from tests.pipelines.jobs import run_job

LENGTH = 3


@dataclass(frozen=True)
class Shown:
    """One impression, as the tests write it."""

    user: int
    author: int
    ts: int
    click: bool
    watch: float


SHOWN = st.builds(
    Shown,
    user=st.integers(0, 2),
    author=st.integers(0, 5),
    ts=st.integers(0, 40).map(lambda t: t * 1000),
    click=st.booleans(),
    watch=st.sampled_from([0.5, 3.0, 100.0]),
)


def _clicks(events: list[Shown]) -> Clicks:
    clicked = [(i, e) for i, e in enumerate(events) if e.click]
    return Clicks.of(
        {
            "impression_id": np.array([i for i, _ in clicked], dtype=np.int64),
            "user_id": np.array([e.user for _, e in clicked], dtype=np.int64),
            "author_id": np.array([e.author for _, e in clicked], dtype=np.int64),
            "ts_ms": np.array([e.ts for _, e in clicked], dtype=np.int64),
            "watch_time_s": np.array([e.watch for _, e in clicked], dtype=np.float32),
        }
    )


def _row(events: list[Shown], at: Shown, delay_ms: int = 0) -> tuple[list[int], list[float], list[float]]:
    history, age, watch = history_of(_clicks(events), np.array([at.user]), np.array([at.ts]), LENGTH, delay_ms)
    return history[0].tolist(), age[0].tolist(), watch[0].tolist()


@given(st.lists(SHOWN, max_size=25), SHOWN, st.sampled_from([0, 2000]))
def test_history_is_the_newest_clicks_strictly_before(events: list[Shown], at: Shown, delay_ms: int) -> None:
    before = [e for e in events if e.user == at.user and e.click and e.ts + delay_ms < at.ts]
    newest = sorted(before, key=lambda e: e.ts)[-LENGTH:]
    pad = LENGTH - len(newest)
    history, age, watch = _row(events, at, delay_ms)
    assert history[:pad] == [-1] * pad and age[:pad] == [0.0] * pad and watch[:pad] == [0.0] * pad
    assert age[pad:] == [(at.ts - e.ts) / 1000 for e in newest]
    assert history[pad:] == [e.author for e in newest]
    assert watch[pad:] == [min(e.watch, (at.ts - e.ts) / 1000) for e in newest]


@given(st.lists(SHOWN, max_size=25), st.lists(SHOWN, min_size=1, max_size=5), st.sampled_from([0, 2000]))
def test_many_rows_at_once_are_what_known_at_gives_for_each(
    events: list[Shown], rows: list[Shown], delay_ms: int
) -> None:
    clicks = _clicks(events)
    history, age, watch = history_of(
        clicks, np.array([row.user for row in rows]), np.array([row.ts for row in rows]), LENGTH, delay_ms
    )
    for number, row in enumerate(rows):
        mine = clicks.user_ids[clicks.user] == row.user
        known, ages_s, watched_s = known_at(row.ts, clicks.ts_ms[mine], clicks.watch_time_s[mine], LENGTH, delay_ms)
        pad = LENGTH - len(known)
        assert history[number].tolist() == [HISTORY_PAD] * pad + clicks.author_id[mine][known].tolist()
        assert age[number].tolist() == [0.0] * pad + ages_s.tolist()
        assert watch[number].tolist() == [0.0] * pad + watched_s.tolist()


@given(st.lists(SHOWN, max_size=25), SHOWN, st.data())
def test_nothing_from_the_impression_on_changes_its_row(events: list[Shown], at: Shown, data: st.DataObject) -> None:
    changed = []
    for event in events:
        if event.ts < at.ts:
            # How long the user stays from now on is the future, too.
            still_there = event.ts + event.watch * 1000 >= at.ts
            changed.append(replace(event, watch=event.watch + data.draw(st.floats(0, 50))) if still_there else event)
            continue
        kept = data.draw(st.sampled_from(["deleted", "shifted", "flipped", "as it was"]))
        if kept == "shifted":
            changed.append(replace(event, ts=event.ts + data.draw(st.integers(1, 10_000))))
        elif kept == "flipped":
            changed.append(replace(event, click=not event.click, author=event.author + 1))
        elif kept == "as it was":
            changed.append(event)
    assert _row(changed, at) == _row(events, at)


def test_a_store_has_one_example_an_impression_in_time_order(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    for day in storage.days("impressions"):
        rows, shown = storage.read("examples", day), storage.read("impressions", day)
        assert set(rows["impression_id"].to_pylist()) == set(shown["impression_id"].to_pylist())
        assert (np.diff(rows["ts_ms"].to_numpy()) >= 0).all()
        assert pc.all(pc.equal(pc.list_value_length(rows["history_author_ids"]), tiny.examples.history_length)).as_py()


def test_histories_reach_back_over_days(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    day = storage.days("impressions")[1]
    start = int(storage.read("impressions", day)["ts_ms"].to_numpy().min())
    rows = storage.read("examples", day)
    age = np.array(rows["history_age_s"].to_pylist())
    assert ((rows["ts_ms"].to_numpy()[:, None] - age * 1000 < start) & (age > 0)).any()


def test_history_days_cuts_the_lookback(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    day = storage.days("impressions")[-1]
    run_job(examples, replace(tiny, examples=replace(tiny.examples, history_days=0)))
    rows = storage.read("examples", day)
    start = int(storage.read("impressions", day)["ts_ms"].to_numpy().min())
    age = np.array(rows["history_age_s"].to_pylist())
    assert (rows["ts_ms"].to_numpy()[:, None] - age * 1000 >= start - 1000).all()


def test_anchor_day_is_the_newest_strictly_before(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    authors_of = {d: set(storage.read("anchors", d)["author_id"].to_pylist()) for d in storage.days("anchors")}
    seen = set()
    for day in storage.days("examples"):
        for row in storage.read("examples", day, ["author_id", "anchor_day"]).to_pylist():
            earlier = [d for d in authors_of if d < day and row["author_id"] in authors_of[d]]
            assert row["anchor_day"] == (date.fromisoformat(max(earlier)) if earlier else None)
            seen.add(row["anchor_day"] is None)
    assert seen == {True, False}


def test_no_anchor_table_means_no_anchor_day(tiny: Settings) -> None:
    authors, days = anchor_days(Storage.open(tiny.storage.root), "2000-01-01")
    assert len(authors) == len(days) == 0


def test_shards_and_chunks_do_not_change_the_rows(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    day = storage.days("examples")[-1]
    whole = storage.read("examples", day).sort_by("impression_id")
    metrics = run_job(examples, replace(tiny, examples=replace(tiny.examples, shards=4, chunk_rows=50)))
    assert day in metrics["days_written"]
    assert storage.read("examples", day).sort_by("impression_id").equals(whole)


def test_a_second_run_writes_nothing(tiny: Settings) -> None:
    assert run_job(examples, tiny)["days_written"] == []


def test_new_anchors_of_a_day_make_later_days_stale_and_no_others(tiny: Settings) -> None:
    storage = Storage.open(tiny.storage.root)
    first, second, third = storage.days("anchors")
    storage.write("anchors", second, [storage.read("anchors", second).slice(1)])
    assert run_job(examples, tiny)["days_written"] == [third]


def test_no_impressions_is_an_error_that_names_the_table(tmp_path) -> None:
    with pytest.raises(ContractError, match="impressions"):
        run_job(examples, Settings(storage=StorageConfig(root=str(tmp_path))))


@pytest.mark.parametrize("wrong", [{"shards": 3}, {"history_length": 0}, {"delay_s": -1.0}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        ExamplesConfig(**wrong)


def test_to_numpy_gives_list_columns_as_matrices() -> None:
    table = pa.table({"a": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64())), "b": pa.array([5, 6])})
    columns = to_numpy(table.slice(1))
    assert columns["a"].tolist() == [[3, 4]] and columns["b"].tolist() == [6]
