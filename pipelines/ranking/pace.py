"""How fast a run of training is, for its lines of progress."""

import time


class Pace:
    """Examples a second and the share of time spent waiting, from line to line; and how long the rest will take."""

    def __init__(self, examples: int = 0, waited_s: float = 0.0) -> None:
        """Of a run that goes on after so many examples, and so many seconds of waiting for them."""
        self._before = (examples, waited_s, time.perf_counter())
        self._first: tuple[int, float] | None = None
        self._last = (examples, time.perf_counter())

    def lap(self, examples: int, waited_s: float) -> tuple[float, float]:
        """Examples a second, and the share of the time that was waited, since the line before."""
        now = time.perf_counter()
        then, waited_then, at = self._before
        seconds = max(now - at, 1e-9)
        self._before, self._last = (examples, waited_s, now), (examples, now)
        if self._first is None:  # what came before it was slower: everything was done for the first time
            self._first = self._last
        return (examples - then) / seconds, min(1.0, (waited_s - waited_then) / seconds)

    def eta_s(self, left: int) -> float:
        """Seconds for so many examples, at the pace since the first line; 0 where there was one line only."""
        if self._first is None or self._last[0] == self._first[0]:
            return 0.0
        return left * (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
