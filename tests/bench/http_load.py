"""A load of one route from a process of its own, which takes little of the machine: one thread, raw sockets.

Closed loop: so many clients, each sends when it has its answer. Open loop: requests leave at a fixed rate whatever
becomes of them, each on a connection that is free, and latency counts from when it was meant to leave.
"""

from __future__ import annotations

import heapq
import json
import selectors
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FAILED, LATE = 0, -1
"""In the place of a status: the connection broke; no answer within `timeout_s`."""
_MOST_CONNECTIONS = 1500


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What is sent."""

    port: int
    bodies: tuple[str, ...]
    seconds: float
    path: str = "/rank"
    clients: int | None = None
    """Of a closed loop."""
    rate: float | None = None
    """Requests a second of an open loop."""
    retry_after_s: float | None = None
    """A request whose connection broke, or that was answered 503, is sent once more after this; None = it is not."""
    timeout_s: float = 30.0


class Answers(NamedTuple):
    """One row for each request."""

    at_s: Any
    """[n], when it was meant to leave, from the start."""
    took_s: Any
    """[n], until its answer."""
    status: Any
    """[n], FAILED or LATE where there was none."""
    retried: int
    """Requests that were sent a second time."""
    said: dict[str, str]
    """By status that is not 200: the beginning of the first answer with it, head and all."""

    def percentile_ms(self, percentile: float, status: int = 200) -> float | None:
        """Of the latencies of answers with this status; None where there are none."""
        chosen = self.took_s[self.status == status]
        return round(1e3 * float(np.percentile(chosen, percentile)), 2) if len(chosen) else None

    def between(self, start_s: float, end_s: float) -> Answers:
        """Those that were meant to leave then."""
        chosen = (self.at_s >= start_s) & (self.at_s < end_s)
        return Answers(self.at_s[chosen], self.took_s[chosen], self.status[chosen], self.retried, self.said)

    def goodput(self, start_s: float, end_s: float) -> float:
        """Answers of 200 a second that came then."""
        came = (self.at_s + self.took_s)[self.status == 200]
        return round(float(((came >= start_s) & (came < end_s)).sum()) / (end_s - start_s), 1)


def start(load: Load) -> subprocess.Popen[str]:
    """The process, running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.http_load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(load)))
    process.stdin.close()
    return process


def answers(process: subprocess.Popen[str]) -> Answers:
    """What it saw, when it has ended."""
    assert process.stdout is not None
    with process:
        said = json.loads(process.stdout.read())
    rows = np.array(said["rows"], float).reshape(-1, 3)
    return Answers(rows[:, 0], rows[:, 1], rows[:, 2].astype(int), said["retried"], said["said"])


def run(load: Load) -> Answers:
    """Sends the load and waits for it."""
    return answers(start(load))


class _Connection:
    """One request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(5.0)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(None)
        self.sent_s = self.meant_s = 0.0
        self.body = b""
        self.is_second = False
        self._read, self._wanted = bytearray(), 0

    def send(self, body: bytes, meant_s: float, is_second: bool) -> None:
        self.body, self.meant_s, self.is_second, self.sent_s = body, meant_s, is_second, time.perf_counter()
        self._read.clear()
        self._wanted = 0
        self.socket.sendall(body)

    @property
    def answer(self) -> str:
        """The beginning of what came."""
        return bytes(self._read[:600]).decode(errors="replace")

    def status(self) -> int | None:
        """Of the whole answer; None while some of it is missing. Raises OSError where the connection has ended."""
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionResetError
        self._read += piece
        if not self._wanted and (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._read[:end]).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            if not length:  # chunked: of Serve's own errors alone, which are short
                return int(self._read[9:12]) if self._read.endswith(b"0\r\n\r\n") else None
            self._wanted = end + 4 + int(length)
        if not self._wanted or len(self._read) < self._wanted:
            return None
        return int(self._read[9:12])


class _Sender:
    def __init__(self, load: Load) -> None:
        self.load, self.selector = load, selectors.DefaultSelector()
        self.bodies = [_request(load.path, body) for body in load.bodies]
        self.free: list[_Connection] = []
        self.busy: set[_Connection] = set()
        self.due: list[tuple[float, int, float, bytes, bool]] = []
        """Heap of (when, number, when it was meant, body, is it the second time)."""
        self.rows: list[tuple[float, float, int]] = []
        self.retried = self.turn = 0
        self.said: dict[int, str] = {}
        self.started = self.swept_s = time.perf_counter()

    def run(self) -> None:
        load, end = self.load, self.started + self.load.seconds
        for _ in range(load.clients or 0):
            self.add(self.started, self.started)
        sent = 0
        while True:
            now = time.perf_counter()
            if load.rate is not None:
                while (meant := self.started + sent / load.rate) <= min(now, end):
                    self.add(meant, meant)
                    sent += 1
            while self.due and self.due[0][0] <= now:
                self.send(*heapq.heappop(self.due)[2:])
            if now >= end and not self.due and not self.busy:
                return
            upcoming = [self.due[0][0]] if self.due else []
            if load.rate is not None and now < end:
                upcoming.append(self.started + sent / load.rate)
            wait = max(0.0, min([*upcoming, now + 0.2]) - now)
            for key, _ in self.selector.select(wait):
                self.receive(key.data)
            self.give_up()

    def add(self, when: float, meant: float, body: bytes | None = None) -> None:
        self.turn += 1
        heapq.heappush(
            self.due, (when, self.turn, meant, body or self.bodies[self.turn % len(self.bodies)], bool(body))
        )

    def send(self, meant: float, body: bytes, is_second: bool) -> None:
        if len(self.busy) >= _MOST_CONNECTIONS:
            self.done(meant, FAILED)
            return
        connection = None
        try:
            connection = self.free.pop() if self.free else self.opened()
            connection.send(body, meant, is_second)
            self.busy.add(connection)
        except OSError:
            if connection is not None:
                self.close(connection)
            self.broke(meant, body, is_second)

    def opened(self) -> _Connection:
        connection = _Connection(self.load.port)
        self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def close(self, connection: _Connection) -> None:
        self.selector.unregister(connection.socket)
        connection.socket.close()

    def receive(self, connection: _Connection) -> None:
        was_busy = connection in self.busy
        try:
            status = connection.status()
        except OSError:
            self.close(connection)
            if was_busy:
                self.busy.discard(connection)
                self.broke(connection.meant_s, connection.body, connection.is_second)
            else:
                self.free.remove(connection)
            return
        if status is not None and was_busy:
            self.busy.discard(connection)
            self.free.append(connection)
            if status != 200:
                self.said.setdefault(status, connection.answer)
            if status == 503:
                self.broke(connection.meant_s, connection.body, connection.is_second, status)
            else:
                self.done(connection.meant_s, status)

    def broke(self, meant: float, body: bytes, is_second: bool, status: int = FAILED) -> None:
        if self.load.retry_after_s is not None and not is_second:
            self.retried += 1
            self.add(time.perf_counter() + self.load.retry_after_s, meant, body)
        else:
            self.done(meant, status)

    def done(self, meant: float, status: int) -> None:
        now = time.perf_counter()
        self.rows.append((meant - self.started, now - meant, status))
        if self.load.clients and now < self.started + self.load.seconds:
            # One that was turned away at once must not spin.
            when = now if status == 200 else now + 0.01
            self.add(when, when)

    def give_up(self) -> None:
        now = time.perf_counter()
        if now - self.swept_s < 0.5:
            return
        self.swept_s = now
        for connection in [each for each in self.busy if now - each.sent_s > self.load.timeout_s]:
            self.busy.discard(connection)
            self.close(connection)
            self.done(connection.meant_s, LATE)


def _request(path: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"
    return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def main() -> None:
    """Reads a load from stdin, sends it, prints its rows as JSON."""
    given = json.load(sys.stdin)
    sender = _Sender(Load(**given | {"bodies": tuple(given["bodies"])}))
    sender.run()
    print(json.dumps({"rows": sender.rows, "retried": sender.retried, "said": sender.said}))


if __name__ == "__main__":
    main()
