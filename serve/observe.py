"""What is measured of requests: metrics, a log, and the figures of the last minute that the page shows.

Nothing of a user's content is kept: no ids, no histories, no bodies.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np

access_log = logging.getLogger("serve.access")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = b"x-request-id"
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_ROUTES = (
    "/rank/batch", "/rank", "/retrieve", "/events", "/lives", "/explain", "/bank", "/index", "/healthz", "/models",
    "/stats",
)  # fmt: skip
_WINDOW_S = 60.0
_MOST_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of Prometheus, as the endpoint exports it."""

    kind: str
    """counter, gauge or histogram."""
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets."""


_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_DIFFERENCES = (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
METRICS = {
    "endpoint_requests": Metric("counter", "Requests by route and status.", ("route", "status")),
    "endpoint_seconds": Metric("histogram", "Seconds from a request's head to its answer.", ("route",), _SECONDS),
    "rank_stage_seconds": Metric("histogram", "Seconds of one stage of ranking.", ("stage",), _SECONDS),
    "rank_candidates": Metric("histogram", "Candidates of a request.", (), (1, 10, 30, 100, 200, 500, 1000, 2000)),
    "rank_cold_authors": Metric("counter", "Candidates that the bank does not know."),
    "rank_unknown_users": Metric("counter", "Requests of users that the model does not know."),
    "rank_degraded": Metric("counter", "Answers for which something could not be had in time."),
    "rank_answers": Metric("counter", "Answers by arm, and the versions that they are of.", ("arm", "bank", "model")),
    "rank_histories": Metric("counter", "Answers by where the history came from.", ("source",)),
    "shadow_difference": Metric(
        "histogram", "Mean difference of a task's probabilities, shadow against answer.", ("arm", "task"), _DIFFERENCES
    ),
    "shadow_first": Metric("counter", "Whether a shadow has the same first candidate.", ("arm", "same")),
    "shadow_failures": Metric("counter", "Requests that a shadow could not score.", ("arm",)),
    "retrieve_stage_seconds": Metric("histogram", "Seconds of one stage of retrieval.", ("stage",), _SECONDS),
    "retrieve_answers": Metric("counter", "Answers of retrieval by the version of the towers.", ("towers",)),
    "retrieve_degraded": Metric("counter", "Answers of retrieval for which the online store did not answer."),
    "rank_screen_age_s": Metric("gauge", "Seconds since the newest screen that the newest answer knew."),
    "screen_load_failures": Metric("gauge", "Loads of what came on screen, and looks for it, that failed."),
    "index_until_age_s": Metric("gauge", "Seconds since the moment whose screens the index of lives knows."),
    "index_load_failures": Metric("gauge", "Loads of an index of lives, and looks for one, that failed."),
    "store_age_s": Metric("gauge", "Seconds since the newest event that the online store has taken."),
    "events": Metric("counter", "Events by what became of them.", ("outcome",)),
}
"""By name; Ray puts ray_ before each."""


class Meter(Protocol):
    """Where metrics go."""

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """Adds to a counter."""

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Notes a value of a histogram."""

    def set(self, name: str, value: float, **tags: str) -> None:
        """Sets a gauge."""


class NoMeter:
    """Keeps nothing."""

    def count(self, name: str, value: float = 1.0, **tags: str) -> None:
        """See Meter."""

    def observe(self, name: str, value: float, **tags: str) -> None:
        """See Meter."""

    def set(self, name: str, value: float, **tags: str) -> None:
        """See Meter."""


class Stages:
    """The time of one request, from mark to mark."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """By stage."""
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """What has passed since the last mark belongs to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


Mark = Callable[[str], None]
"""See Stages.mark."""


def unmarked(stage: str) -> None:
    """A Mark that measures nothing."""


class LastMinute:
    """Requests of this process in the last minute: what the page shows. Bounded, however many there are."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ended: deque[tuple[float, float, bool]] = deque(maxlen=_MOST_KEPT)
        self._started = time.monotonic()

    def add(self, seconds: float, *, is_ok: bool) -> None:
        """One request that has been answered."""
        with self._lock:
            self._ended.append((time.monotonic(), seconds, is_ok))

    def figures(self) -> dict[str, float | int | None]:
        """{seconds, requests, failed, requests_per_s, p50_ms, p99_ms}; null where nothing was answered."""
        now = time.monotonic()
        with self._lock:
            while self._ended and self._ended[0][0] < now - _WINDOW_S:
                self._ended.popleft()
            ended = list(self._ended)
        window = min(_WINDOW_S, max(now - self._started, 1e-3))
        latencies = 1e3 * np.array([seconds for _, seconds, is_ok in ended if is_ok])
        p50, p99 = np.percentile(latencies, [50, 99]).tolist() if len(latencies) else (None, None)
        return {
            "seconds": round(window, 1),
            "requests": len(ended),
            "failed": len(ended) - len(latencies),
            "requests_per_s": round(len(ended) / window, 2),
            "p50_ms": None if p50 is None else round(p50, 2),
            "p99_ms": None if p99 is None else round(p99, 2),
        }


def route_of(path: str) -> str:
    """The route of a path, without ids: metrics must not grow with what is asked."""
    if path.startswith("/authors/"):
        return "/authors"
    return path if path in _ROUTES else "other"


class Observe:
    """Gives every request an id, and tells meter, log and the last minute how it ended. Plain ASGI, outermost."""

    def __init__(self, app: App, meter: Meter, minute: LastMinute, *, log: bool = False) -> None:
        """Args: `log` = a line of JSON for each request, at the level INFO of the logger serve.access."""
        self._app, self._meter, self._minute, self._log = app, meter, minute, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id, status = time.perf_counter(), _id_of(scope), 0
        others = [header for header in scope["headers"] if header[0] != REQUEST_ID]
        scope = {**scope, "headers": [*others, (REQUEST_ID, request_id)]}

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, request_id)]}
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            self._tell(scope, request_id.decode(), status, time.perf_counter() - started)

    def _tell(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = route_of(scope["path"])
        self._meter.count("endpoint_requests", route=route, status=str(status))
        self._meter.observe("endpoint_seconds", seconds, route=route)
        if route == "/rank":
            self._minute.add(seconds, is_ok=status == 200)
        if self._log:
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(1e3 * seconds, 2),
            }
            access_log.info("%s", json.dumps(line, separators=(",", ":")))


def _id_of(scope: Scope) -> bytes:
    """The id that the client gave, where it is one, else a new one."""
    given = [value for name, value in scope["headers"] if name == REQUEST_ID]
    if len(given) == 1 and _GIVEN_ID.fullmatch(given[0]):
        return bytes(given[0])
    return uuid.uuid4().hex.encode()
