"""When each label is reported: visits written by hand, rule by rule, with windows counted from midnight."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from pipelines.samples.event_reader import event_columns
from pipelines.samples.label_figures import LabelFigures
from pipelines.samples.replay import Replay
from pipelines.samples.windows_config import WindowsConfig
from tests.pipelines.samples.logs import START_MS, Event, Told, as_table, reference, told, visit

ZEROS = dict.fromkeys(("click", "follow", "like", "comment", "gift", "long_view"))


def replayed(events: Iterable[Event], **config: Any) -> dict[str, Told]:
    """What is told of the newest exposure of a log."""
    made, log = WindowsConfig(**config), list(events)
    replay = Replay(
        rule=made.rule,
        lateness_ms=0,
        ids=lambda exposures: np.arange(len(exposures["ts_ms"])),
        since_ms=START_MS - 10**9,
        figures=LabelFigures(made.tasks),
    )
    replay.take(event_columns(as_table(sorted(log, key=lambda e: e.s))))
    found = told(replay.rows(START_MS + 10**9), made.tasks)
    assert found == reference(log, made)
    return found[max(found, key=lambda key: key[2], default=(0, 0, 0))]


def all_but(told: dict[str, Told], *tasks: str) -> set[Told]:
    return {said for task, said in told.items() if task not in tasks}


def test_moment_tells_a_behaviour_with_its_window_and_the_others_at_the_exit() -> None:
    found = replayed(visit(click=1, follow=40, exit=(50, 49.0)))
    assert found["click"] == (30, 1, "positive")
    assert found["follow"] == (60, 1, "positive")
    assert all_but(found, "click", "follow") == {(60, 0, "exit")}


def test_moment_counts_the_first_of_a_repeated_behaviour_only() -> None:
    gifts = [Event(5, "gift", value=1), Event(65, "gift", value=1), Event(70, "comment"), Event(95, "comment")]
    found = replayed([*visit(click=1, exit=(100, 99.0)), *gifts])
    assert found["gift"] == (30, 1, "positive") and found["comment"] == (90, 1, "positive")


def test_moment_s_windows_are_aligned_to_the_epoch_and_half_open() -> None:
    assert replayed(visit(at=29.999, click=0))["click"] == (30, 1, "positive")
    assert replayed(visit(at=29.999, click=0.001))["click"] == (60, 1, "positive")


def test_an_exposure_without_a_click_is_over_after_a_minute_with_zeros_for_all_tasks() -> None:
    assert set(replayed(visit(at=10)).values()) == {(90, 0, "timeout")}
    assert replayed(visit(at=10)).keys() == ZEROS.keys()
    assert set(replayed(visit(at=10), click_timeout_s=15).values()) == {(30, 0, "timeout")}


def test_a_click_at_the_last_moment_keeps_the_visit_open_and_a_later_one_is_only_told_in_the_same_window() -> None:
    assert replayed(visit(click=60, follow=200, exit=(300, 240.0)))["follow"] == (210, 1, "positive")
    found = replayed(visit(click=61, follow=200, exit=(300, 240.0)))
    assert found["click"] == (90, 1, "positive") and found["follow"] == (90, 0, "timeout")
    assert replayed(visit(click=95))["click"] == (90, 0, "timeout")


def test_a_clicked_visit_without_an_exit_is_over_after_hours() -> None:
    found = replayed(visit(click=1))
    assert found["click"] == (30, 1, "positive") and found["long_view"] == (90, 1, "positive")
    assert all_but(found, "click", "long_view") == {(4 * 3600 + 30, 0, "timeout")}
    assert all_but(replayed(visit(click=1), visit_timeout_s=600), "click", "long_view") == {(630, 0, "timeout")}


@pytest.mark.parametrize(
    ("exit_s", "value", "said"),
    [
        (60.999, 59.9, (90, 0, "exit")),  # a millisecond short of a minute
        (61, 60.0, (90, 1, "positive")),
        (61, 0.0, (90, 1, "positive")),  # to the millisecond
        (40, 60.0, (60, 1, "positive")),  # the exit itself says a minute
        (40, 59.9, (60, 0, "exit")),
        (500, 499.0, (90, 1, "positive")),  # known a minute after the click, long before the exit
    ],
)
def test_a_long_view_is_known_a_minute_after_the_click_or_by_the_exit(exit_s: float, value: float, said: Told) -> None:
    assert replayed(visit(click=1, exit=(exit_s, value)))["long_view"] == said


def test_the_next_exposure_ends_a_visit_and_takes_what_follows() -> None:
    log = [*visit(click=1), *visit(at=20, click=1, gift=5, exit=(10, 9.0))]
    made = WindowsConfig()
    first = reference(log, made)[1, 10, START_MS]
    assert first["click"] == (30, 1, "positive") and first["gift"] == (30, 0, "timeout")
    assert replayed(log)["gift"] == (30, 1, "positive")


def test_what_follows_in_the_window_of_the_exit_is_told_and_nothing_later() -> None:
    found = replayed(visit(click=1, exit=(10, 9.0), follow=25, like=35))
    assert found["follow"] == (30, 1, "positive") and found["like"] == (30, 0, "exit")


def test_sliver_s_windows_count_from_the_exposure() -> None:
    found = replayed(visit(at=10, click=1, follow=31, exit=(59, 58.0)), labels="sliver")
    assert found["click"] == (40, 1, "positive") and found["follow"] == (70, 1, "positive")
    assert all_but(found, "click", "follow") == {(70, 0, "exit")}


def test_sliver_tells_of_tasks_after_a_click_only_where_it_came_before() -> None:
    assert replayed(visit(at=10), labels="sliver") == {"click": (100, 0, "timeout")}
    assert "follow" not in replayed(visit(follow=5, click=30, exit=(45, 15.0)), labels="sliver")
    assert replayed(visit(follow=5, click=29.999, exit=(45, 15.0)), labels="sliver")["follow"] == (30, 1, "positive")
    found = replayed(visit(follow=5, like=40, click=35, exit=(45, 10.0)), labels="sliver")
    assert "follow" not in found and found["like"] == (60, 1, "positive") and found["gift"] == (60, 0, "exit")


def test_fixed_tells_all_at_once_and_drops_what_comes_later() -> None:
    log = visit(at=7, click=1, follow=299.999, gift=300, exit=(400, 399.0))
    found = replayed(log, labels="fixed", window_s=300)
    assert found["follow"] == (307, 1, "timeout") and found["gift"] == (307, 0, "timeout")
    assert found["long_view"] == (307, 1, "timeout") and found.keys() == ZEROS.keys()
    assert replayed(log, labels="fixed", window_s=3600)["gift"] == (3607, 1, "timeout")


def test_tasks_are_those_of_the_configuration() -> None:
    assert list(replayed(visit(click=1), tasks=("gift", "click"))) == ["click", "gift"]
