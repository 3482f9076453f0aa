"""Who was being worked on when a worker died: so that one bad row costs three attempts, and no job restarts for ever.

Ray starts dead workers again, as often as they die, and gives them the same rows. So the workers of a pool tell one
`Attempts` which rows they take up and which they finish. A worker that is started again asks it which rows were in its
hands when it died: these are taken up in small groups, then one by one, and a row that was there at three deaths is
given up. Where nothing at all comes of it the job ends, with what the dead worker last wrote.
"""

import math
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row")
LIMIT = 3
"""Attempts of a row."""
PATIENCE = 10
"""Deaths in a row, without anything finished between them, that end a job."""
PROBE = "probe"
"""The row that shows whether a worker can work at all: if it dies of that, it is to blame, and not the rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a worker writes: its engine logs to the standard output, the interpreter to the standard error."""

    host: str
    out: str
    err: str

    @classmethod
    def here(cls) -> "Place":
        """Of this process: the files behind its two streams, which its children share."""
        out, err = (os.path.realpath(f"/proc/self/fd/{stream}") for stream in (1, 2))
        return cls(host=os.uname().nodename, out=out, err=err)

    def last_words(self) -> str:
        """What a process of this host wrote last, then the file; only the file, for one of another host."""
        logs = [Path(log) for log in (self.out, self.err) if Path(log).is_file()]
        if self.host != os.uname().nodename or not logs:
            return f"it left no words\nits log: {self.host}:{self.err}"
        words, log = last_words(*logs)
        return f"{words}\nits log: {self.host}:{log}"


class Attempts:
    """What is in whose hands. One for each pool of workers of a job, as a Ray actor that has no work of its own."""

    def __init__(self) -> None:
        self._hands: dict[str, set[Hashable]] = {}
        self._places: dict[str, Place] = {}
        self._deaths: dict[Hashable, int] = {}
        self._in_vain, self._finished_any = 0, False
        self._failed_starts: list[str] = []
        self._verdict = ""

    def started(self, worker: str, place: Place) -> Place | None:
        """A worker begins. Returns where the one before it, which died, wrote its log; None for a first one."""
        before, self._places[worker] = self._places.get(worker), place
        return before

    def mourn(self, worker: str, words: str) -> str:
        """A worker died with these last words. Returns why the job must end; "" where it may go on."""
        held = self._hands.pop(worker, set())
        self._in_vain += 1
        for row in held:
            self._deaths[row] = self._deaths.get(row, 0) + 1
        if PROBE in held:
            self._verdict = f"it died of the plainest request as well as of the first rows:\n{words}"
        elif self._in_vain >= PATIENCE:
            self._verdict = f"it died {PATIENCE} times in a row without finishing anything:\n{words}"
        return self._verdict

    def failed_to_start(self, words: str) -> str:
        """A worker could not begin. Returns why the job must end: the same fault twice, or three faults."""
        again = bool(self._failed_starts) and self._failed_starts[-1] == _last_line(words)
        self._failed_starts.append(_last_line(words))
        if again or len(self._failed_starts) >= LIMIT:
            self._verdict = f"it did not start, {len(self._failed_starts)} times:\n{words}"
        return self._verdict

    def verdict(self) -> str:
        """Why the job must end; "" where it need not."""
        return self._verdict

    def took(self, worker: str, rows: Sequence[Hashable]) -> None:
        """A worker takes rows up."""
        self._hands.setdefault(worker, set()).update(rows)

    def finished(self, worker: str, rows: Sequence[Hashable]) -> None:
        """A worker has done with rows: they were not what it died of."""
        self._hands.setdefault(worker, set()).difference_update(rows)
        for row in rows:
            self._deaths.pop(row, None)
        if rows != [PROBE]:
            self._in_vain, self._failed_starts, self._finished_any = 0, [], True

    def gave_up(self, rows: Sequence[Hashable]) -> None:
        """Rows are rejected: nobody waits for them any more."""
        for row in rows:
            self._deaths.pop(row, None)

    def deaths(self, rows: Sequence[Hashable]) -> list[int]:
        """At how many deaths each row was in a worker's hands."""
        return [self._deaths.get(row, 0) for row in rows]

    def suspects(self) -> int:
        """Rows that were there at a death and have neither been finished nor given up since."""
        return len(self._deaths)

    def finished_any(self) -> bool:
        """Whether any row was ever finished."""
        return self._finished_any


def begin(attempts: Any, worker: str) -> bool:
    """A worker's first words to the job's actor; True where it follows one that died.

    Raises RuntimeError where the job must end.
    """
    import ray

    place = Place.here()
    before = ray.get(attempts.started.remote(worker, place))
    # A second try of this very process, whose first one has said why it failed, is no death.
    died = before is not None and before != place
    verdict = ray.get(attempts.mourn.remote(worker, before.last_words()) if died else attempts.verdict.remote())
    if verdict:
        raise RuntimeError(verdict)
    return died


def given_up(rows: Iterable[Row], deaths: Callable[[Row], int]) -> list[Row]:
    """Rows that have had all their attempts."""
    return [row for row in rows if deaths(row) >= LIMIT]


def groups(rows: Sequence[Row], deaths: Callable[[Row], int]) -> Iterator[list[Row]]:
    """The rest, in the groups in which they are taken up: suspects of two deaths alone, of one in groups, then others.

    Groups of suspects hold the square root of their number, so that the third attempt is of a row alone.
    """
    once = [row for row in rows if deaths(row) == 1]
    size = math.isqrt(len(once)) or 1
    yield from ([row] for row in rows if 1 < deaths(row) < LIMIT)
    yield from (once[first : first + size] for first in range(0, len(once), size))
    if rest := [row for row in rows if deaths(row) == 0]:
        yield rest


_PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\) ?)?(?:(?:ERROR|WARNING|INFO) [^\]]*\] ?)?")
_ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Stalled|Interrupt): ")
_ABOUT_OTHERS = ("EngineDeadError", "RayTaskError", "ActorDiedError")
_TAIL_BYTES = 256 * 1024
_MOST_LINES = 60


def last_words(*logs: Path) -> tuple[str, Path]:
    """The last traceback that is a cause, of the first log that holds one, else the last lines of the last log."""
    for log in logs:
        lines = _tail(log)
        for end in range(len(lines) - 1, -1, -1):
            if _ERROR.match(lines[end]) and not any(name in lines[end] for name in _ABOUT_OTHERS):
                starts = [at for at in range(end) if lines[at].startswith("Traceback")]
                first = max(starts[-1] if starts else end, end - _MOST_LINES)
                return "\n".join(lines[first : end + 1]), log
    return "\n".join(lines[-_MOST_LINES // 3 :]) or "it wrote nothing", log


def _tail(log: Path) -> list[str]:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return [_PREFIX.sub("", line) for line in stream.read().decode(errors="replace").splitlines()]


def _last_line(words: str) -> str:
    """The error itself, without the place of the log."""
    found = [line for line in words.splitlines() if line and not line.startswith("its log: ")]
    return found[-1] if found else ""
