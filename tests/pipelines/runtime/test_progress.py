"""Lines of progress: they reach the log, and whoever hands one over never waits for the actor that carries them."""

import logging
import time
from collections.abc import Callable

import psutil
import pytest

from pipelines.runtime.progress import progress_lines
from tests.pipelines.machines import PROGRESS, is_titled, kill

log = logging.getLogger(__name__)


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.ray
def test_lines_reach_the_log_in_their_order(ray_cluster: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, __name__)
    with progress_lines(log) as lines:
        for number in range(5):
            lines.put(f"line {number}")
    assert caplog.messages == [f"line {number}" for number in range(5)]


@pytest.mark.ray
def test_lines_go_on_after_their_actor_died_and_the_log_says_so_once(
    ray_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, __name__)
    with progress_lines(log) as lines:
        lines.put("before")
        until(lambda: "before" in caplog.messages)
        actors = [p for p in psutil.Process().children(recursive=True) if is_titled(p, PROGRESS)]
        assert len(actors) == 1
        kill(*actors)

        def arrives() -> bool:
            lines.put("after")
            return "after" in caplog.messages

        until(arrives)
    assert sum("some lines of progress are lost" in message for message in caplog.messages) == 1
