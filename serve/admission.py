"""What is let in, and when: bodies are read in good time or not at all, and requests take turns at ranking.

Requests that would wait too long are turned away at once, so that those that are let in are answered in time, and as
many as without the others. Ray Serve's own limits lie far beyond and never decide.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from starlette.middleware import Middleware

from serve.args import AdmissionConfig
from serve.auth import App, Receive, Scope, Send, refuse

AnswerT = TypeVar("AnswerT")

RANKED = ("/rank", "/rank/batch", "/retrieve")
"""Paths whose requests take turns."""
_HAPROXY_ASKS = "/-/healthz"
_RETRY_AFTER = {b"retry-after": b"1"}
_NEWEST = 0.1
"""Weight of the newest turn in the mean of what one takes."""


class OverloadedError(RuntimeError):
    """So many requests wait that this one would not have its turn in time."""


@dataclass(slots=True, eq=False)
class _Turn(Generic[AnswerT]):
    work: Callable[[], AnswerT]
    size: int
    answer: asyncio.Future[AnswerT]
    came_s: float


class Line:
    """Requests in order of arrival, of which `at_once` have their turn, each in a thread of `executor`.

    Without one, turns are taken in the event loop's own thread, which costs a sixth less than handing them over does;
    between two of them the loop reads, answers and turns away.
    """

    def __init__(self, config: AdmissionConfig, executor: Executor | None = None, at_once: int = 1) -> None:
        self._config, self._executor, self._at_once = config, executor, at_once if executor else 1
        self._waiting: deque[_Turn[Any]] = deque()
        self._workers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._size = 0
        """Of all that wait and of those that have their turn."""
        self._s_by_size = 0.0
        """Seconds between two ends of turns, for one of size 1: a mean of the newest."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """Whose thread turns are taken in; not known before the first one."""

    @property
    def expected_wait_s(self) -> float:
        """How long a request that comes now waits for its turn, by what the newest ones took."""
        return self._size * self._s_by_size

    def check(self) -> None:
        """Raises OverloadedError where a request that comes now would wait longer than `max_wait_s`."""
        if self.expected_wait_s > self._config.max_wait_s or len(self._waiting) >= self._config.max_waiting:
            raise OverloadedError(f"{len(self._waiting)} requests wait to be ranked; ask again in a second")

    async def turn(self, work: Callable[[], AnswerT], size: int) -> AnswerT:
        """What `work` returns, called when it is its turn; `size` is about how much work it is.

        Raises OverloadedError at once where it would wait too long, and later where it has waited twice as long as that
        in spite of all; and what `work` raises.
        """
        self.check()
        self._loop = loop = asyncio.get_running_loop()
        turn = _Turn(work, size, loop.create_future(), time.perf_counter())
        self._waiting.append(turn)
        self._size += size
        if self._workers < self._at_once:
            self._workers += 1
            worker = loop.create_task(self._take_turns())
            self._tasks.add(worker)  # a loop keeps no task alive
            worker.add_done_callback(self._tasks.discard)
        answer: AnswerT = await turn.answer
        return answer

    def between(self, work: Callable[[], AnswerT]) -> AnswerT:
        """What `work` returns, called between two turns where these are taken in the loop's thread; for another thread.

        Beside a turn it would share Python's lock with it: one that takes 2 ms alone waits for it at each of its steps,
        50 ms in all. So whoever has more to do than that calls this for each part of it.
        """
        if self._loop is None or self._executor is not None:
            return work()

        async def called() -> AnswerT:
            return work()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    async def _take_turns(self) -> None:
        """Until nobody waits."""
        ended_s = time.perf_counter()
        try:
            while self._waiting:
                turn = self._waiting.popleft()
                try:
                    await self._take(turn)
                finally:
                    self._size -= turn.size
                now_s = time.perf_counter()
                took_s = (now_s - ended_s) / turn.size / self._at_once
                self._s_by_size += _NEWEST * (took_s - self._s_by_size)
                ended_s = now_s
                await asyncio.sleep(0)
        finally:
            self._workers -= 1  # at once, and not when the task's end is told: one may come in between

    async def _take(self, turn: _Turn[Any]) -> None:
        if turn.answer.done():  # its client has gone
            return
        if time.perf_counter() - turn.came_s > 2 * self._config.max_wait_s:
            turn.answer.set_exception(OverloadedError("waited too long to be ranked; ask again in a second"))
            return
        try:
            if self._executor is None:
                answer = turn.work()
            else:
                answer = await asyncio.get_running_loop().run_in_executor(self._executor, turn.work)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            if not turn.answer.done():
                turn.answer.set_exception(error)
        else:
            if not turn.answer.done():
                turn.answer.set_result(answer)


class ReadBody:
    """Reads a body before the application sees it: up to a bound, else 413, and within a time, else 408.

    Where more bodies are being read than are allowed, the oldest is given up for the newest: those who promise a body
    and send none keep nobody out. Requests that `line` would not take are turned away unread, with 503.
    """

    def __init__(self, app: App, config: AdmissionConfig, line: Line) -> None:
        self._app, self._config, self._line = app, config, line
        self._reading: deque[asyncio.Timeout] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._config.max_body_bytes
        announced = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(value.isdigit() and int(value[:20]) > most for value in announced):
            await self._refuse_size(send)
            return
        if await _is_turned_away(self._line, scope, send):
            return
        try:
            messages = await self._read(receive)
        except TimeoutError:
            detail = f"the body did not come within {self._config.body_timeout_s:g} s; send it with the head"
            await refuse(send, 408, detail, {b"connection": b"close"})
            return
        if messages is None:
            await self._refuse_size(send)
            return
        messages.reverse()

        async def replay() -> MutableMapping[str, Any]:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> list[MutableMapping[str, Any]] | None:
        """All messages of a body; None where it is too large. Raises TimeoutError where it is late."""
        messages, size = [], 0
        async with asyncio.timeout(self._config.body_timeout_s) as limit:
            if len(self._reading) >= self._config.max_bodies:
                self._reading.popleft().reschedule(asyncio.get_running_loop().time())
            self._reading.append(limit)
            try:
                while True:
                    message = await receive()
                    messages.append(message)
                    size += len(message.get("body", b""))
                    if size > self._config.max_body_bytes:
                        return None
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return messages
            finally:
                if limit in self._reading:
                    self._reading.remove(limit)

    async def _refuse_size(self, send: Send) -> None:
        detail = f"the body is larger than {self._config.max_body_bytes} bytes; send fewer candidates"
        await refuse(send, 413, detail, {})


class ReplicaFront:
    """Stands before all that Ray Serve does in a replica for a request to its own port.

    Turns away what the replica would not take, and tells HAProxy whether it can answer: one without a bank is asked
    nothing while others have one. Serve puts it there where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `in_front`.
    """

    line: ClassVar[Line | None] = None
    """The replica's; None in other processes, where all pass."""
    is_ready: ClassVar[Callable[[], bool]]
    """Whether it has a bank."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if self.line is None or scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == _HAPROXY_ASKS and not type(self).is_ready():
            await refuse(send, 503, "no bank is loaded yet", {})
        elif not await _is_turned_away(self.line, scope, send):
            await self._app(scope, receive, send)


def in_front() -> list[Middleware]:
    """What Serve calls."""
    return [Middleware(ReplicaFront)]


async def _is_turned_away(line: Line, scope: Scope, send: Send) -> bool:
    """Whether a request that would take a turn was answered with 503."""
    if scope["path"] not in RANKED:
        return False
    try:
        line.check()
    except OverloadedError as error:
        await refuse(send, 503, str(error), _RETRY_AFTER)
        return True
    return False
