"""Load offered to an endpoint from one process, and what became of every request.

Open loop: requests are sent when they are due, whether or not earlier ones are answered, and latency counts from when a
request was due. A server that stands still is so charged with all who would have waited, which a client that waits for
its answer before it asks again would never see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from aiohttp import ClientSession

OK, SHED, FAILED = "ok", "shed", "failed"
"""Answered 200; refused early with 503 or 429; anything else: another status, no answer, or none in time."""
_SHED = (503, 429)
_NO_ANSWER = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a load: so many requests a second, or so many clients that each wait for their answer."""

    seconds: float
    """How long it lasts."""
    rate: float | None = None
    """Requests a second, with gaps as by chance (Poisson); None = closed loop."""
    clients: int = 0
    """Of a closed loop."""

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.clients} clients" if self.rate is None else f"{self.rate:g}/s"


@dataclass(kw_only=True, slots=True)
class Recorded:
    """Every request of a step."""

    step: Step
    due_s: list[float] = field(default_factory=list)
    """When it was due, in seconds since the step began; in a closed loop, when it was sent."""
    latency_ms: list[float] = field(default_factory=list)
    """From then until its answer was there."""
    late_ms: list[float] = field(default_factory=list)
    """From when it was due until this process came to send it: where it is large, the client was too slow."""
    status: list[int] = field(default_factory=list)
    """Of HTTP; 0 where there was no answer."""
    seconds: float = 0.0
    """Until the last answer."""

    def became(self, what: str) -> npt.NDArray[np.bool_]:
        """Which requests were OK, SHED or FAILED."""
        status = np.array(self.status, np.int64)
        shed = np.isin(status, _SHED)
        found: npt.NDArray[np.bool_] = {OK: status == 200, SHED: shed, FAILED: ~shed & (status != 200)}[what]
        return found

    def figures(self) -> dict[str, float | str | None]:
        """The row of a table. Latencies are of answers; a second counts until the last answer, backlog included."""
        latency, ok, shed = np.array(self.latency_ms), self.became(OK), self.became(SHED)
        return {
            "step": self.step.name,
            "requests": len(latency),
            "ok": int(ok.sum()),
            "shed": int(shed.sum()),
            "failed": int(self.became(FAILED).sum()),
            "ok_per_s": round(float(ok.sum()) / max(self.seconds, self.step.seconds), 1),
            "mean_ms": _rounded(latency[ok].mean() if ok.any() else None),
            **{f"p{share}_ms": _percentile(latency[ok], share) for share in (50, 95, 99)},
            "max_ms": _percentile(latency[ok], 100),
            "shed_p99_ms": _percentile(latency[shed], 99),
            "client_late_p99_ms": _percentile(np.array(self.late_ms), 99),
        }


def _percentile(values: npt.NDArray[np.float64], share: float) -> float | None:
    return _rounded(float(np.percentile(values, share)) if len(values) else None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where requests go."""

    url: str
    """Of the route, such as http://127.0.0.1:8000/rank."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Beside the type of the content."""
    timeout_s: float = 10.0
    """After this a request has failed."""
    max_open: int = 1000
    """Connections. Requests beyond wait for one, and the wait counts."""


async def offer(endpoint: Endpoint, steps: Sequence[Step], bodies: Sequence[bytes], seed: int = 0) -> list[Recorded]:
    """Goes through the steps, one after another, with the bodies in turn; each step ends when its last answer is there.

    Raises ValueError without bodies.
    """
    if not bodies:
        raise ValueError("wanted bodies of requests, got none")
    import aiohttp  # here, because the door of all jobs reads this module

    timeout = aiohttp.ClientTimeout(total=endpoint.timeout_s)
    connector = aiohttp.TCPConnector(limit=endpoint.max_open)
    headers = {"content-type": "application/json", **endpoint.headers}
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
        generator = _Generator(session, endpoint.url, bodies, np.random.default_rng(seed), aiohttp.ClientError)
        return [await generator.run(step) for step in steps]


class _Generator:
    """Sends requests and notes what becomes of them."""

    def __init__(
        self,
        session: ClientSession,
        url: str,
        bodies: Sequence[bytes],
        rng: np.random.Generator,
        broken: type[Exception],
    ) -> None:
        self._session, self._url, self._bodies, self._rng = session, url, bodies, rng
        self._broken, self._sent = broken, 0

    async def run(self, step: Step) -> Recorded:
        recorded, started = Recorded(step=step), time.perf_counter()
        if step.rate is None:
            await asyncio.gather(*(self._client(recorded, started) for _ in range(step.clients)))
        else:
            await self._open(recorded, started, step.rate)
        recorded.seconds = time.perf_counter() - started
        return recorded

    async def _client(self, recorded: Recorded, started: float) -> None:
        while (now := time.perf_counter()) < started + recorded.step.seconds:
            await self._ask(recorded, started, now)

    async def _open(self, recorded: Recorded, started: float, rate: float) -> None:
        open_requests: set[asyncio.Task[None]] = set()
        due = started
        while (due := due + self._rng.exponential(1 / rate)) < started + recorded.step.seconds:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._ask(recorded, started, due))
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
        await asyncio.gather(*open_requests)

    async def _ask(self, recorded: Recorded, started: float, due: float) -> None:
        body = self._bodies[self._sent % len(self._bodies)]
        self._sent += 1
        began = time.perf_counter()
        try:
            async with self._session.post(self._url, data=body) as answer:
                await answer.read()
                status = answer.status
        except (self._broken, TimeoutError):
            status = _NO_ANSWER
        recorded.due_s.append(due - started)
        recorded.latency_ms.append(1e3 * (time.perf_counter() - due))
        recorded.late_ms.append(1e3 * (began - due))
        recorded.status.append(status)
