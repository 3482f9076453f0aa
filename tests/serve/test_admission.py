"""What is let in, and when: turns at ranking, and bodies that are late, large or many."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from models.artifacts.manifest import ArtifactError
from serve.admission import Line, OverloadedError, ReadBody, ReplicaFront
from serve.args import AdmissionConfig
from tests.serve.test_auth import Echo, status_of

Message = MutableMapping[str, Any]


def read_body(app: Echo, **config: Any) -> ReadBody:
    admission = AdmissionConfig(**config)
    return ReadBody(app, admission, Line(admission))


def test_work_of_another_thread_is_done_where_turns_are_taken() -> None:
    line = Line(AdmissionConfig())

    async def scenario() -> tuple[int, int]:
        turned = await line.turn(threading.get_ident, 1)
        return turned, await asyncio.to_thread(line.between, threading.get_ident)

    assert line.between(threading.get_ident) == threading.get_ident()  # nobody has asked yet, so nobody waits
    turned, between = asyncio.run(scenario())
    assert between == turned == threading.get_ident()


def test_what_work_between_turns_raises_is_the_callers() -> None:
    line = Line(AdmissionConfig())

    def fails() -> None:
        raise ArtifactError("another bank")

    async def scenario() -> None:
        await line.turn(int, 1)
        with pytest.raises(ArtifactError, match="another bank"):
            await asyncio.to_thread(line.between, fails)

    asyncio.run(scenario())


def test_a_body_within_the_bound_arrives_whole() -> None:
    app = Echo()
    assert status_of(read_body(app, max_body_bytes=6), chunks=[b"abc", b"", b"def"]) == 200
    assert app.bodies == [b"abcdef"]


def test_a_body_beyond_the_bound_is_413() -> None:
    app = Echo()
    assert status_of(read_body(app, max_body_bytes=5), chunks=[b"abc", b"def"]) == 413
    assert app.bodies == []


def test_an_announced_length_beyond_the_bound_is_413_without_reading() -> None:
    app = Echo()
    headers = [(b"content-length", b"999999999999999999999999")]
    assert status_of(read_body(app, max_body_bytes=5), headers=headers, chunks=[b"a"]) == 413
    assert app.bodies == []


def test_a_client_that_goes_away_is_no_request() -> None:
    app = Echo()
    assert status_of(read_body(app), chunks=[b"abc"], ends=False) is None
    assert app.bodies == []


async def asked(app: Any, *, chunks: Sequence[bytes] = (b"",), stalls: bool = False) -> int | None:
    """Status of one request, whose body never ends where it stalls."""
    left: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    left[-1]["more_body"] = stalls
    sent: list[Message] = []

    async def receive() -> Message:
        return left.pop(0) if left else await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "path": "/rank", "headers": []}, receive, send)
    return next((message["status"] for message in sent if message["type"] == "http.response.start"), None)


def test_a_body_that_stalls_is_408_and_keeps_nobody_out() -> None:
    app = Echo()
    guarded = read_body(app, body_timeout_s=0.2, max_bodies=3)

    async def crowd() -> tuple[list[int | None], list[int | None]]:
        slow = [asyncio.create_task(asked(guarded, chunks=[b"a"], stalls=True)) for _ in range(20)]
        await asyncio.sleep(0.01)
        # Those that were there first are given up for those that come, long before their time.
        early = [task.result() for task in slow if task.done()]
        good = [await asked(guarded, chunks=[b"b", b"c"]) for _ in range(20)]
        assert [await task for task in slow] == [408] * 20
        return early, good

    early, good = asyncio.run(crowd())
    assert early == [408] * 17 and good == [200] * 20
    assert app.bodies == [b"bc"] * 20


def in_line(line: Line, coroutine: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        return await coroutine()

    return asyncio.run(run())


def test_turns_are_taken_one_after_another_in_order_of_arrival() -> None:
    line, log = Line(AdmissionConfig()), []

    def work(number: int) -> int:
        log.append((number, threading.current_thread() is threading.main_thread()))
        return number * number

    async def many() -> list[int]:
        return await asyncio.gather(*(line.turn(lambda n=n: work(n), 1) for n in range(20)))

    assert in_line(line, many) == [n * n for n in range(20)]
    assert log == [(n, True) for n in range(20)]
    assert line.expected_wait_s == 0.0


@pytest.mark.parametrize("pauses", range(8))
def test_who_comes_while_the_last_one_ends_has_a_turn(pauses: int) -> None:
    line = Line(AdmissionConfig())

    async def one_after_another() -> int:
        first = asyncio.create_task(line.turn(lambda: 1, 1))
        for _ in range(pauses):
            await asyncio.sleep(0)
        second = await asyncio.wait_for(line.turn(lambda: 2, 1), timeout=10)
        return second - await first

    assert in_line(line, one_after_another) == 1


def test_with_an_executor_so_many_have_their_turn_at_once() -> None:
    here, barrier = threading.get_ident(), threading.Barrier(3, timeout=10)

    def work() -> bool:
        barrier.wait()
        return threading.get_ident() != here

    with ThreadPoolExecutor(3) as executor:
        line = Line(AdmissionConfig(), executor, 3)

        async def many() -> list[bool]:
            return await asyncio.gather(*(line.turn(work, 1) for _ in range(6)))

        assert in_line(line, many) == [True] * 6


def test_an_error_of_the_work_is_the_caller_s_alone() -> None:
    line = Line(AdmissionConfig())

    def fail() -> int:
        raise LookupError("of the work")

    async def many() -> list[Any]:
        return await asyncio.gather(line.turn(fail, 1), line.turn(lambda: 7, 1), return_exceptions=True)

    failed, fine = in_line(line, many)
    assert isinstance(failed, LookupError) and fine == 7 and line.expected_wait_s == 0.0


def test_the_wait_is_expected_by_what_turns_took_and_by_their_sizes() -> None:
    line = Line(AdmissionConfig(max_wait_s=0.05))

    async def many() -> tuple[float, list[Any]]:
        for _ in range(40):
            await line.turn(lambda: time.sleep(0.002), 2)
        waiting = [asyncio.create_task(line.turn(lambda: 1, 2)) for _ in range(5)]
        await asyncio.sleep(0)
        expected = line.expected_wait_s
        # Ten times as much work: those behind it would wait for longer than they may.
        waiting.append(asyncio.create_task(line.turn(lambda: 2, 100)))
        await asyncio.sleep(0)
        waiting += [asyncio.create_task(line.turn(lambda: 3, 2)) for _ in range(3)]
        return expected, await asyncio.gather(*waiting, return_exceptions=True)

    expected, answers = in_line(line, many)
    assert expected >= 5 * 0.001
    assert answers[:6] == [1] * 5 + [2]
    assert [type(answer) for answer in answers[6:]] == [OverloadedError] * 3


def test_no_more_wait_than_are_allowed() -> None:
    line = Line(AdmissionConfig(max_waiting=4))

    async def many() -> list[Any]:
        return await asyncio.gather(*(line.turn(lambda: 1, 1) for _ in range(10)), return_exceptions=True)

    answers = in_line(line, many)
    assert answers[:4] == [1] * 4 and all(isinstance(each, OverloadedError) for each in answers[4:])


def test_who_has_waited_twice_as_long_as_allowed_is_turned_away_in_spite_of_all() -> None:
    line = Line(AdmissionConfig(max_wait_s=0.02))

    async def many() -> list[Any]:
        stuck = [line.turn(lambda: time.sleep(0.06), 1), line.turn(lambda: 1, 1)]
        return await asyncio.gather(*stuck, return_exceptions=True)

    first, second = in_line(line, many)
    assert first is None and isinstance(second, OverloadedError)


def test_who_has_gone_is_not_ranked() -> None:
    line, ranked = Line(AdmissionConfig()), []

    async def many() -> None:
        tasks = [asyncio.create_task(line.turn(lambda n=n: ranked.append(n), 1)) for n in range(4)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    in_line(line, many)
    assert ranked == [0, 1, 3] and line.expected_wait_s == 0.0


@pytest.mark.parametrize("in_front_of_serve", [True, False])
def test_where_the_line_is_full_requests_for_turns_are_503_unread_and_others_pass(
    monkeypatch: pytest.MonkeyPatch, in_front_of_serve: bool
) -> None:
    admission, app = AdmissionConfig(max_waiting=1), Echo()
    line = Line(admission)
    guarded = ReplicaFront(app) if in_front_of_serve else ReadBody(app, admission, line)
    monkeypatch.setattr(ReplicaFront, "line", line)

    async def many() -> tuple[int | None, list[str]]:
        waits = asyncio.create_task(line.turn(lambda: 1, 1))
        await asyncio.sleep(0)
        refused = await asked(guarded, chunks=[b"never read"], stalls=True)
        left: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            return left.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        await guarded({"type": "http", "path": "/healthz", "headers": []}, receive, send)
        await waits
        return refused, [message["status"] for message in sent if "status" in message]

    assert in_line(line, many) == (503, [200])


@pytest.mark.parametrize("ready", [True, False])
def test_haproxy_is_told_whether_there_is_a_bank_and_questions_of_others_pass(
    monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    monkeypatch.setattr(ReplicaFront, "line", Line(AdmissionConfig()))
    monkeypatch.setattr(ReplicaFront, "is_ready", lambda: ready, raising=False)
    assert status_of(ReplicaFront(Echo()), path="/-/healthz") == (200 if ready else 503)
    assert status_of(ReplicaFront(Echo()), path="/healthz") == 200


def test_processes_without_a_replica_let_all_pass() -> None:
    assert ReplicaFront.line is None and status_of(ReplicaFront(Echo()), path="/-/healthz") == 200


@pytest.mark.parametrize(
    "wrong", [{"max_bodies": 0}, {"max_wait_s": 0.0}, {"body_timeout_s": -1.0}, {"max_waiting": 0}]
)
def test_bounds_that_let_nobody_in_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdmissionConfig(**wrong)
