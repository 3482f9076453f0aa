"""Views in a user's row: the same whatever the order of events, bounded, and what is written is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.online.config import StoreConfig
from models.online.errors import RowError
from models.online.user_row import Views, fold
from tests.models.online.event_streams import START_MS, Event, View, columns_of, views_in

CONFIG = StoreConfig(views_per_user=100, exposures_per_user=100, open_view_s=50.0)
KINDS = ("exposure", "click", "exit", "follow", "gift")


def events_of(user_ids: int = 3) -> st.SearchStrategy[list[Event]]:
    event = st.builds(
        lambda user, live, second, kind, value: Event(
            user, live + 100, live, START_MS + second * 1000, kind, value if kind == "exit" else 0.0
        ),
        st.integers(0, user_ids - 1),
        st.integers(0, 1),
        st.integers(0, 12),
        st.sampled_from(KINDS),
        st.sampled_from([0.0, 4.0, 30.0]),
    )
    return st.lists(event, max_size=24)


def folded(rows: list[bytes | None], events: list[Event], config: StoreConfig = CONFIG) -> list[bytes | None]:
    columns = columns_of(events)
    return list(fold(rows, columns["user_id"], columns, config, START_MS))


def read(row: bytes | None) -> list[View]:
    views = Views.of(row)
    columns = (views.author_id, views.live_id, views.ts_ms, views.watch_s, views.is_clicked)
    return [View(*each) for each in zip(*(column.tolist() for column in columns), strict=True)]


@given(events_of(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_views_are_those_of_the_events_in_any_order_in_any_batches_and_however_often(events, random, parts) -> None:
    wanted = [views_in(events, user, CONFIG.open_view_s) for user in range(3)]
    told = events + random.sample(events, len(events) // 2)
    random.shuffle(told)
    rows: list[bytes | None] = [None] * 3
    for part in range(parts):
        rows = folded(rows, told[part::parts])
    assert [read(row) for row in rows] == wanted


def test_an_exit_that_says_nothing_lasted_from_the_exposure_also_when_that_comes_late() -> None:
    late, exit_event = Event(0, 7, 1, START_MS + 4_000, "exposure"), Event(0, 7, 1, START_MS + 9_000, "exit", np.nan)
    (row,) = folded([None], [Event(0, 7, 1, START_MS, "exposure"), exit_event])
    assert [view.watch_s for view in read(row)] == [9.0]
    (row,) = folded([row], [late])
    assert [view.watch_s for view in read(row)] == [4.0, 5.0]


def test_the_newest_clicked_views_stay_and_apart_from_them_the_newest_others() -> None:
    config = StoreConfig(views_per_user=3, exposures_per_user=2)
    events = [Event(0, live, live, START_MS + live * 1000, "exposure") for live in range(20)]
    events += [Event(0, live, live, START_MS + live * 1000 + 500, "click") for live in (1, 2, 5, 8)]
    (row,) = folded([None], events, config)
    assert [(view.live_id, view.is_clicked) for view in read(row)] == [
        (2, True), (5, True), (8, True), (18, False), (19, False),
    ]  # fmt: skip


def test_a_row_is_bounded_whatever_comes() -> None:
    config, row = StoreConfig(views_per_user=5, exposures_per_user=5), None
    for second in range(0, 500, 50):
        noise = [Event(0, 1, s % 3, START_MS + s * 1000, kind) for s in range(second, second + 50) for kind in KINDS]
        (row,) = folded([row], noise[second % 2 :: 2], config)
        assert row is not None and len(row) < 2_000


def test_views_that_are_much_older_than_the_newest_are_forgotten() -> None:
    events = [Event(0, 1, 1, START_MS, "exposure"), Event(0, 1, 1, START_MS, "click")]
    newer = [Event(0, 2, 2, START_MS + 61_000, "exposure")]
    (row,) = folded([None], events + newer, StoreConfig(ttl_s=60))
    assert [view.live_id for view in read(row)] == [2]


def test_extreme_ids_are_kept() -> None:
    (row,) = folded([None], [Event(0, -(2**63), 2**63 - 1, START_MS, "exposure")])
    assert [(view.author_id, view.live_id) for view in read(row)] == [(-(2**63), 2**63 - 1)]


def test_a_user_without_events_has_no_views() -> None:
    views = Views.of(None)
    assert len(views.ts_ms) == 0 and views.newest_ms is None


@pytest.mark.parametrize("damage", [lambda row: row[:-1], lambda row: b"", lambda row: row[:4] + b"\x09" + row[5:]])
def test_bytes_that_are_no_row_are_refused(damage) -> None:
    (row,) = folded([None], [Event(0, 1, 1, START_MS, "exposure")])
    with pytest.raises(RowError, match="wanted .* got .*; empty the store"):
        Views.of(damage(row))
