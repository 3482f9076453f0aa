"""What workers wrote last: kept in the driver, bounded, and shown only where a job failed.

Ray's log monitors publish what all workers of a job write, on every node, so this needs no dashboard and no shared
disk. `connected` keeps it for every job and logs it when a job fails; `last_words()` is for code that sees a failure
earlier than that, for example an engine that died and is started again.
"""

import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_WORKERS = 256
"""Workers whose lines are kept; the one that was silent for longest goes first."""
_LINES = 400
"""Lines kept of each, of at most _LINE_CHARACTERS."""
_LINE_CHARACTERS = 1000
_QUIET_S, _WAIT_S = 2.0, 8.0
"""Lines travel for a moment: wait until none came for the first, and no longer than the second."""
_TELLING = re.compile(
    r"Traceback \(most recent|\b\w*(Error|Exception)\b|\bERROR\b|Fatal|Segmentation fault|core dumped"
)
_HANDLER = "worker_logs"


@dataclass(kw_only=True, slots=True)
class _Tail:
    """What one process wrote last, its children included: they share its files."""

    name: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES))


class _Kept:
    """The tails by (address, process id), the one that wrote last at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tails: OrderedDict[tuple[str, str], _Tail] = OrderedDict()
        self._newest = 0.0

    def add(self, message: Mapping[str, Any]) -> None:
        """One message of Ray's log channel. Those of its own processes, which are no job's, are left out."""
        if not message["job"]:
            return
        key = (message["ip"], message["pid"])
        with self._lock:
            tail = self._tails.setdefault(key, _Tail())
            tail.name = message.get("actor_name") or message.get("task_name") or tail.name
            tail.lines.extend(line[:_LINE_CHARACTERS] for line in message["lines"])
            self._tails.move_to_end(key)
            while len(self._tails) > _WORKERS:
                self._tails.popitem(last=False)
            self._newest = time.monotonic()

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._tails.clear()

    def settled(self) -> list[tuple[str, list[str]]]:
        """(worker, its lines) once no more lines come, the worker that wrote last first."""
        deadline = time.monotonic() + _WAIT_S
        seen = time.monotonic()
        while (now := time.monotonic()) < deadline and now - max(self._newest, seen) < _QUIET_S:
            time.sleep(0.1)
        with self._lock:
            newest_first = reversed(self._tails.items())
            return [
                (f"{tail.name or 'worker'} (pid {pid} on {ip})", list(tail.lines)) for (ip, pid), tail in newest_first
            ]


_kept = _Kept()


@contextmanager
def kept() -> Iterator[None]:
    """Keeps what workers write, instead of printing it, for the duration of a block; `ray.init(log_to_driver=True)`
    belongs inside it, and `quiet()` right after that."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    _kept.clear()
    dispatcher.add_handler(_HANDLER, _kept.add)
    try:
        yield
    finally:
        dispatcher.remove_handler(_HANDLER)


def quiet() -> None:
    """Takes away Ray's own handler, which prints every line of every worker."""
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    dispatcher.remove_handler("ray_print_logs")


def last_words(*, max_workers: int = 2, max_lines: int = 60) -> str:
    """The last lines of workers that wrote of an error, the newest worker first; "" where none did.

    Of a worker that wrote more than `max_lines` since its first error, the beginning and the end are shown: the cause
    stands at one, what came of it at the other. Takes two to eight seconds: lines of a dead worker may be on the way.
    Works within `connected`, on whatever node the workers ran; ask at a failure, not in a loop.
    """
    told = [(worker, lines) for worker, kept in _kept.settled() if (lines := _telling(kept))]
    return "\n".join(
        "\n".join([f"last lines of {worker}:", *(f"  | {line}" for line in _shortened(lines, max_lines))])
        for worker, lines in told[:max_workers]
    )


def _telling(lines: list[str]) -> list[str]:
    """From the first line that speaks of an error."""
    first = next((number for number, line in enumerate(lines) if _TELLING.search(line)), None)
    return [] if first is None else lines[first:]


def _shortened(lines: list[str], most: int) -> list[str]:
    if len(lines) <= most:
        return lines
    head = most // 2
    return [*lines[:head], f"... {len(lines) - most} lines left out ...", *lines[-(most - head) :]]
