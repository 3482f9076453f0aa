"""What is measured of requests."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import pytest

from serve import observe
from serve.observe import LastMinute, NoMeter, Observe, Stages, route_of


class Kept(NoMeter):
    """A meter that keeps what it is told."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, float, dict[str, str]]] = []
        self.observed: list[tuple[str, float, dict[str, str]]] = []

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        self.counted.append((name, value, tags))

    def observe(self, name: str, value: float, **tags: str) -> None:
        self.observed.append((name, value, tags))


def asked(app: Any, path: str = "/rank", headers: list[tuple[bytes, bytes]] | None = None) -> list[dict[str, Any]]:
    """What one request is answered."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": headers or []}
    asyncio.run(app(scope, receive, send))
    return sent


def answering(status: int, after_s: float = 0.0) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(after_s)
        await send({"type": "http.response.start", "status": status, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"{}"})

    return app


def ids(sent: list[dict[str, Any]]) -> list[bytes]:
    return [value for name, value in sent[0]["headers"] if name == b"x-request-id"]


def test_every_answer_is_counted_timed_and_has_an_id() -> None:
    meter, minute = Kept(), LastMinute()
    sent = asked(Observe(answering(200, 0.02), meter, minute))
    assert sent[0]["headers"][0] == (b"a", b"b") and sent[1]["body"] == b"{}"
    (first,) = ids(sent)
    (second,) = ids(asked(Observe(answering(503), meter, minute)))
    assert len(first) == 32 and first != second
    assert meter.counted == [
        ("endpoint_requests", 1.0, {"route": "/rank", "status": "200"}),
        ("endpoint_requests", 1.0, {"route": "/rank", "status": "503"}),
    ]
    assert [(name, tags) for name, _, tags in meter.observed] == [("endpoint_seconds", {"route": "/rank"})] * 2
    assert 0.02 <= meter.observed[0][1] < 5
    figures = minute.figures()
    assert (figures["requests"], figures["failed"]) == (2, 1)
    assert figures["p50_ms"] == pytest.approx(1e3 * meter.observed[0][1], abs=0.01)


def test_the_application_sees_the_id_too() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await answering(200)(scope, receive, send)

    headers = [(b"x-request-id", b"no id"), (b"accept", b"x")]
    (found,) = ids(asked(Observe(app, NoMeter(), LastMinute()), headers=headers))
    assert seen == [[(b"accept", b"x"), (b"x-request-id", found)]]


@pytest.mark.parametrize("given", [b"abc-1.2:3_x", b"x" * 64])
def test_the_id_of_the_client_is_kept(given: bytes) -> None:
    assert ids(asked(Observe(answering(200), NoMeter(), LastMinute()), headers=[(b"x-request-id", given)])) == [given]


@pytest.mark.parametrize("given", [[b""], [b"x" * 65], [b"a\nb"], [b"a b"], [b'"'], [b"a", b"b"]])
def test_what_is_no_id_is_replaced(given: list[bytes]) -> None:
    headers = [(b"x-request-id", value) for value in given]
    (found,) = ids(asked(Observe(answering(200), NoMeter(), LastMinute()), headers=headers))
    assert len(found) == 32


def test_an_application_that_fails_is_counted_too() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    meter = Kept()
    with pytest.raises(RuntimeError):
        asked(Observe(broken, meter, LastMinute()))
    assert meter.counted == [("endpoint_requests", 1.0, {"route": "/rank", "status": "0"})]


def test_the_log_has_a_line_of_json_without_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serve.access")
    asked(
        Observe(answering(200), NoMeter(), LastMinute(), log=True),
        "/authors/123456/similar",
        [(b"x-request-id", b"r1")],
    )
    asked(Observe(answering(200), NoMeter(), LastMinute()))
    (record,) = caplog.records
    line = json.loads(record.getMessage())
    assert line.pop("ms") >= 0
    assert line == {"request_id": "r1", "method": "POST", "route": "/authors", "status": 200}


def test_routes_do_not_grow_with_what_is_asked() -> None:
    paths = ("/rank", "/rank/batch", "/authors/5", "/authors/6/similar", "/rank/", "/x", "/../etc", "/")
    assert [route_of(path) for path in paths] == [
        "/rank", "/rank/batch", "/authors", "/authors", "other", "other", "other", "other",
    ]  # fmt: skip


def test_a_minute_forgets_what_is_older(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(observe.time, "monotonic", lambda: now[0])
    minute = LastMinute()
    assert minute.figures()["p99_ms"] is None
    now[0] = 110.0
    for latency in (0.001, 0.002, 0.003):
        minute.add(latency, is_ok=True)
    minute.add(9.0, is_ok=False)
    assert minute.figures() == {
        "seconds": 10.0, "requests": 4, "failed": 1, "requests_per_s": 0.4, "p50_ms": 2.0, "p99_ms": 2.98,
    }  # fmt: skip
    now[0] = 150.0
    minute.add(0.005, is_ok=True)
    now[0] = 171.0
    figures = minute.figures()
    assert (figures["requests"], figures["p50_ms"], figures["seconds"]) == (1, 5.0, 60.0)


def test_stages_share_the_time_of_a_request() -> None:
    started = time.perf_counter()
    stages = Stages()
    time.sleep(0.01)
    stages.mark("parse")
    time.sleep(0.02)
    stages.mark("forward")
    stages.mark("parse")
    whole = time.perf_counter() - started
    assert set(stages.seconds) == {"parse", "forward"}
    assert stages.seconds["parse"] >= 0.01 and stages.seconds["forward"] >= 0.02
    assert sum(stages.seconds.values()) <= whole


def test_metrics_are_named_once_and_histograms_have_buckets() -> None:
    for name, metric in observe.METRICS.items():
        assert name.isidentifier() and metric.description.endswith(".")
        assert (metric.kind == "histogram") == bool(metric.boundaries)
        assert list(metric.boundaries) == sorted(set(metric.boundaries))
