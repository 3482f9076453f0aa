"""Work of several threads in one transaction: whoever is first commits for all that wait meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Work = Callable[[Any], Any]
"""Does its part in a transaction, and returns what its caller is told once that is committed."""


@dataclass(slots=True)
class _Ticket:
    work: Work
    result: Any = None
    error: Exception | None = None
    is_done: bool = False


class GroupCommit:
    """Runs work in transactions. A commit that waits for the disk costs its time once, however many wait for it."""

    def __init__(self, commit: Callable[[Sequence[Work]], list[Any]]) -> None:
        """`commit` does several works in one transaction and returns their results; where it raises, none is done."""
        self._commit = commit
        self._waiting: list[_Ticket] = []
        self._queue, self._turn = threading.Lock(), threading.Lock()

    def run(self, work: Work) -> Any:
        """The result of `work`, once it is committed. Raises what the commit raised."""
        ticket = _Ticket(work)
        with self._queue:
            self._waiting.append(ticket)
        with self._turn:
            if not ticket.is_done:
                with self._queue:
                    taken, self._waiting = self._waiting, []
                self._run_all(taken)
        if ticket.error is not None:
            raise ticket.error
        return ticket.result

    def _run_all(self, tickets: Sequence[_Ticket]) -> None:
        try:
            for ticket, result in zip(tickets, self._commit([ticket.work for ticket in tickets]), strict=True):
                ticket.result = result
        except Exception as error:
            for ticket in tickets:
                ticket.error = error
        finally:
            for ticket in tickets:
                ticket.is_done = True
