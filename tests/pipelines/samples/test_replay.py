"""Events replayed in batches: the rows depend on neither order, repeats nor batches, and what is told stays told."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.visits import EVENT_KINDS
from pipelines.samples.event_reader import event_columns
from pipelines.samples.impression_ids import hashed
from pipelines.samples.label_figures import LabelFigures
from pipelines.samples.replay import Replay
from pipelines.samples.windows_config import WindowsConfig
from tests.pipelines.samples.logs import START_MS, Event, as_table, reference, told, visit

LATENESS_S = 100
RULES = ({"labels": "moment"}, {"labels": "sliver"}, {"labels": "fixed", "window_s": 120.0})
SHORT: dict[str, Any] = {"visit_timeout_s": 400.0, "grace_s": 50.0, "lateness_s": LATENESS_S}
EVENT = st.builds(
    Event,
    s=st.integers(0, 900),
    kind=st.sampled_from(EVENT_KINDS),
    user=st.integers(1, 2),
    live=st.integers(10, 11),
    value=st.sampled_from([0.0, 59.0, 60.0]),
)
LOG = st.lists(EVENT, max_size=40)
RULE = st.sampled_from(RULES)


def open_replay(config: WindowsConfig) -> Replay:
    return Replay(
        rule=config.rule,
        lateness_ms=round(config.lateness_s * 1000),
        ids=lambda e: hashed(e["user_id"], e["live_id"], e["ts_ms"]),
        since_ms=START_MS,
        figures=LabelFigures(config.tasks),
    )


def replayed(events: Sequence[Event], config: WindowsConfig, batch: int) -> tuple[pa.Table, Replay]:
    """All rows of a log in the order of its arrival, by batches, and the replay afterwards."""
    replay, tables = open_replay(config), []
    for first in range(0, len(events), batch):
        replay.take(event_columns(as_table(events[first : first + batch])))
        tables.append(replay.rows(replay.watermark_ms))
    return pa.concat_tables([*tables, replay.rows(START_MS + 10**8)]), replay


def counts(replay: Replay) -> Any:
    return replay.duplicates, replay.unmatched, replay.figures.as_dict()


def arrives(events: Sequence[Event], lateness_s: float, seed: int) -> list[Event]:
    """An order of arrival of which nothing is late: each event within the lateness of all that came before."""
    rng = random.Random(seed)
    return sorted(events, key=lambda e: e.s + rng.uniform(0, lateness_s))


@given(LOG, RULE, st.integers(1, 50))
def test_it_is_what_the_plain_reference_says(events: list[Event], rule: dict[str, Any], batch: int) -> None:
    config = WindowsConfig(**SHORT, **rule)
    rows, _ = replayed(sorted(events, key=lambda e: e.s), config, batch)
    assert told(rows, config.tasks) == reference(events, config)


@given(LOG, RULE, st.integers(1, 50), st.integers(0, 9), st.data())
def test_order_within_the_lateness_repeats_and_batches_change_nothing(
    events: list[Event], rule: dict[str, Any], batch: int, seed: int, data: st.DataObject
) -> None:
    config = WindowsConfig(**SHORT, **rule)
    unique = list({(e.user, e.live, e.s, e.kind): e for e in events}.values())
    expected, first = replayed(sorted(unique, key=lambda e: e.s), config, len(events) + 1)
    repeated = data.draw(st.lists(st.sampled_from(unique), max_size=5)) if unique else []
    rows, second = replayed(arrives([*unique, *repeated], LATENESS_S, seed), config, batch)
    assert rows.equals(expected)
    assert second.duplicates == len(repeated) and first.duplicates == 0
    assert counts(second)[1:] == counts(first)[1:]


@given(LOG, RULE, st.integers(1, 50))
def test_rows_come_in_the_order_of_time_with_unique_keys(events: list[Event], rule: dict[str, Any], batch: int) -> None:
    rows, _ = replayed(sorted(events, key=lambda e: e.s), WindowsConfig(**SHORT, **rule), batch)
    assert (np.diff(rows["window_end_ms"].to_numpy()) >= 0).all()
    keys = list(zip(*(rows[c].to_pylist() for c in ("impression_id", "window_end_ms", "reason")), strict=True))
    assert len(set(keys)) == len(keys)


@given(LOG, RULE, st.integers(0, 1000), st.data())
def test_nothing_from_a_window_s_end_on_changes_its_rows(
    events: list[Event], rule: dict[str, Any], now: int, data: st.DataObject
) -> None:
    config = WindowsConfig(**SHORT, **rule)
    past = [e for e in events if e.s < now]
    future = [replace(e, s=e.s + now) for e in data.draw(LOG)]
    known = open_replay(config)
    known.take(event_columns(as_table(past)), ceiling_ms=0)
    rows = known.rows(START_MS + now * 1000)
    later = open_replay(config)
    later.take(event_columns(as_table([*past, *future])), ceiling_ms=0)
    everything = later.rows(START_MS + 10**8)
    assert everything.slice(0, rows.num_rows).equals(rows)
    assert (everything["window_end_ms"].to_numpy()[rows.num_rows :] > START_MS + now * 1000).all()


@given(st.permutations([*visit(click=1, gift=20, exit=(70, 69.0)), Event(500, "exposure", user=2)]), st.integers(1, 5))
def test_late_events_are_those_behind_the_newest_before_them(events: list[Event], batch: int) -> None:
    config = WindowsConfig(**SHORT)
    newest, late = -1.0, []
    for event in events:
        if event.s < newest - LATENESS_S:
            late.append(event)
        newest = max(newest, event.s)
    replay, found = open_replay(config), []
    for first in range(0, len(events), batch):
        part = events[first : first + batch]
        found += np.array(part)[replay.take(event_columns(as_table(part)))].tolist()
        replay.rows(replay.watermark_ms)
    assert found == late


def test_a_late_behaviour_is_no_row() -> None:
    config = WindowsConfig(**SHORT)
    log = [*visit(click=1, exit=(70, 69.0)), Event(400, "exposure", user=2), Event(60, "gift")]
    rows, _ = replayed(log, config, 1)
    assert told(rows, config.tasks)[1, 10, START_MS]["gift"] == (90, 0, "exit")
    assert told(replayed(log, config, 9)[0], config.tasks) == told(rows, config.tasks)


def test_memory_is_what_is_not_over() -> None:
    config = WindowsConfig(**SHORT)
    replay = open_replay(config)
    for user in range(200):
        log = visit(at=10.0 * user, user=user, click=1, exit=(5, 4.0))
        replay.take(event_columns(as_table(log)))
        replay.rows(replay.watermark_ms)
    # 30 s of a window, 50 s of grace and 100 s of lateness are 18 visits of 3 events.
    assert sum(len(part["ts_ms"]) for part in replay._held) <= 20 * 3
    replay.rows(START_MS + 10**8)
    assert replay.figures.as_dict()["visits"] == 200 and replay.unmatched == 0


def test_figures_tell_accuracy_and_delay() -> None:
    config = WindowsConfig(labels="fixed", window_s=300, tasks=("click", "gift"))
    log = [
        *visit(click=1, gift=400, exit=(500, 499.0)),
        *visit(user=2, click=11, gift=12, exit=(50, 39.0)),
        *visit(user=3),
    ]
    _, replay = replayed(sorted(log, key=lambda e: e.s), config, 4)
    figures = replay.figures.as_dict()
    assert figures["visits"] == 3 and figures["rows_by_reason"] == {"positive": 0, "exit": 0, "timeout": 3}
    click, gift = figures["tasks"]["click"], figures["tasks"]["gift"]
    assert click == {
        "reported": 3, "accuracy": 1.0, "happened": 2, "found": 2, "delay_mean_s": 294.0, "delay_p90_s": 299,
    }  # fmt: skip
    assert (gift["accuracy"], gift["happened"], gift["found"], gift["delay_mean_s"]) == (0.666667, 2, 1, 288.0)


@pytest.mark.parametrize(("gift_s", "happened"), [(139.999, 1), (140, 0)])
def test_the_truth_ends_when_a_visit_is_forgotten(gift_s: float, happened: int) -> None:
    """Nobody clicked: over after 60 s, told at 90, and remembered for 50 s more."""
    _, replay = replayed(visit(gift=gift_s), WindowsConfig(**SHORT), 1)
    gift = replay.figures.as_dict()["tasks"]["gift"]
    assert (gift["reported"], gift["happened"], gift["found"]) == (1, happened, 0)
    assert gift["accuracy"] == 1 - happened and replay.unmatched == 1 - happened


def test_the_truth_of_a_fixed_window_is_that_of_the_whole_visit() -> None:
    log = visit(click=1, gift=1500, exit=(2000, 1999.0))
    _, replay = replayed(log, WindowsConfig(labels="fixed", window_s=300, grace_s=0), 1)
    gift = replay.figures.as_dict()["tasks"]["gift"]
    assert (gift["accuracy"], gift["happened"]) == (0.0, 1)


@pytest.mark.parametrize("values", [(0.0, 60.0), (60.0, 0.0)])
def test_of_repeats_that_differ_the_largest_counts_whichever_comes_first(values: tuple[float, float]) -> None:
    log = [*visit(click=1), *(Event(20, "exit", value=value) for value in values)]
    config = WindowsConfig(**SHORT)
    assert told(replayed(log, config, 1)[0], config.tasks)[1, 10, START_MS]["long_view"] == (30, 1, "positive")


def test_events_of_no_visit_are_counted() -> None:
    config = WindowsConfig(**SHORT)
    log = [Event(1, "click", user=5), *visit(click=1, exit=(5, 4.0)), Event(300, "like"), Event(301, "exposure")]
    _, replay = replayed(sorted(log, key=lambda e: e.s), config, 2)
    assert replay.unmatched == 2


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_an_exposure_may_arrive_after_its_click(batch: int) -> None:
    config = WindowsConfig(**SHORT)
    log = [Event(50, "click"), Event(49, "exposure"), Event(400, "exposure", user=2)]
    assert told(replayed(log, config, batch)[0], config.tasks)[1, 10, START_MS + 49_000]["click"][1] == 1
