"""Load as it is offered, and what is noted of it."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from pipelines.serving.offered import FAILED, OK, SHED, Endpoint, Recorded, Step, offer
from tests.pipelines.serving.endpoint import Endpoint as Server


def offered(server: Server, *steps: Step, bodies: int = 5, **endpoint: Any) -> list[Recorded]:
    there = Endpoint(url=f"{server.url}/rank", **endpoint)
    return asyncio.run(offer(there, steps, [b'{"n": %d}' % n for n in range(bodies)], seed=3))


def test_clients_go_through_all_bodies_on_a_connection_each(endpoint: Server):
    (step,) = offered(endpoint, Step(seconds=0.4, clients=2), headers={"authorization": "Bearer x"})
    figures = step.figures()
    assert figures["requests"] == figures["ok"] == len(endpoint.asked) > 10
    assert endpoint.connections == 2
    assert {body["n"] for _, _, body in endpoint.asked} == set(range(5))
    assert {path for _, path, _ in endpoint.asked} == {"/rank"}
    assert {headers["authorization"] for headers in endpoint.headers} == {"Bearer x"}
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures["ok_per_s"] == pytest.approx(figures["ok"] / step.seconds, rel=0.01)


def test_an_open_loop_sends_what_is_due_whatever_is_answered(endpoint: Server):
    """The server stands still for the first half second: a client who waits would have sent one request."""
    stands_still = threading.Event()
    threading.Timer(0.5, stands_still.set).start()

    def answer(path: str, body: Any) -> tuple[int, Any]:
        stands_still.wait(10)
        return 200, {}

    endpoint.answer = answer
    (step,) = offered(endpoint, Step(seconds=1.0, rate=100.0))
    assert len(step.due_s) == pytest.approx(100, abs=40)
    due, latency = np.array(step.due_s), np.array(step.latency_ms)
    assert np.all((due > 0) & (due < 1.0))
    # Each of the first ones waited from when it was due until the server moved, and not from when it was heard.
    early = due < 0.4
    assert early.sum() > 10
    assert np.all(latency[early] >= 1e3 * (0.5 - due[early]) - 50)
    gaps = np.diff(np.sort(due))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.5), "gaps as by chance"


def test_a_wait_for_a_connection_counts(endpoint: Server):
    def answer(path: str, body: Any) -> tuple[int, Any]:
        time.sleep(0.05)
        return 200, {}

    endpoint.answer = answer
    (step,) = offered(endpoint, Step(seconds=0.5, rate=100.0), max_open=1)
    assert endpoint.connections == 1
    assert max(step.latency_ms) > 500


def test_what_became_of_requests(endpoint: Server):
    statuses = [200, 503, 429, 500, 404]
    endpoint.answer = lambda path, body: (statuses[body["n"]], {})
    (step,) = offered(endpoint, Step(seconds=0.3, clients=1))
    assert step.status == [statuses[number % 5] for number in range(len(step.status))]
    assert np.array_equal(step.became(OK), np.array(step.status) == 200)
    assert np.array_equal(step.became(SHED), np.isin(step.status, [503, 429]))
    assert np.array_equal(step.became(FAILED), np.isin(step.status, [500, 404]))
    parts = [int(step.became(what).sum()) for what in (OK, SHED, FAILED)]
    figures = step.figures()
    assert [figures[name] for name in ("ok", "shed", "failed")] == parts
    assert figures["shed_p99_ms"] > 0


def test_no_answer_and_a_late_one_have_failed(endpoint: Server):
    def answer(path: str, body: Any) -> tuple[int, Any]:
        if body["n"]:
            raise ConnectionError("the server dies")
        time.sleep(0.5)
        return 200, {}

    endpoint.answer = answer
    (step,) = offered(endpoint, Step(seconds=0.1, clients=1), bodies=2, timeout_s=0.2)
    assert step.status[:1] == [0] and set(step.status) == {0}
    assert step.figures()["p50_ms"] is None


def test_steps_follow_one_another_and_are_named(endpoint: Server):
    steps = offered(endpoint, Step(seconds=0.1, rate=20.0), Step(seconds=0.1, clients=3))
    assert [step.figures()["step"] for step in steps] == ["20/s", "3 clients"]


def test_the_same_seed_has_the_same_times(endpoint: Server):
    first, second = (offered(endpoint, Step(seconds=0.3, rate=50.0))[0].due_s for _ in range(2))
    assert np.allclose(sorted(first), sorted(second), atol=1e-6)


def test_bodies_are_wanted():
    with pytest.raises(ValueError, match="wanted bodies"):
        asyncio.run(offer(Endpoint(url="http://127.0.0.1:1"), [Step(seconds=1, clients=1)], []))
