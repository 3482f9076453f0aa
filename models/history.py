"""Which clicks of a user are known at a moment: the one rule of examples, of publishing and of serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

HISTORY_PAD = -1
"""The author id that fills a history on the left."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryRule:
    """Which clicks make up a history: what examples were made with, publish and serving must follow."""

    length: int
    """L: the newest clicks before the impression, at most."""
    days: int
    """Days before the impression's own whose clicks count."""
    delay_ms: int
    """From an exposure until its click is known."""

    def __post_init__(self) -> None:
        if self.length < 1 or min(self.days, self.delay_ms) < 0:
            raise ValueError(f"wanted length >= 1, days and delay_ms >= 0, got {self}; correct them")


def known_at(ts_ms: int, times: Ints, watched_s: Floats, length: int, delay_ms: int = 0) -> tuple[Ints, Floats, Floats]:
    """The newest `length` clicks of one user whose exposure is more than `delay_ms` before `ts_ms`.

    `times` [n] in ms, ascending, and `watched_s` [n] are those of all clicks. Returns positions in them, ages in
    seconds, and seconds watched as they were known then, newest last.
    """
    positions = np.flatnonzero(times < ts_ms - delay_ms)[-length:]
    return positions, *as_known(ts_ms, times[positions], watched_s[positions])


def as_known(ts_ms: Any, times: Ints, watched_s: Floats) -> tuple[Floats, Floats]:
    """Ages in seconds of clicks at `ts_ms` (one moment, or one for each click), and seconds watched as known then.

    What a user watched is known when they leave: before that it is the time that has passed since the click, so that
    nothing later than the moment has a say.
    """
    ages_s = ((ts_ms - times) / 1000).astype(np.float32)
    return ages_s, np.minimum(watched_s, ages_s)


def num_stored(user: Ints, times: Ints, newest: Ints, rule: HistoryRule) -> int:
    """How many of each user's newest clicks must be kept, so that `length` known ones remain at any later moment.

    `user` [n] is each click's position in `newest` [U], the time of each user's newest click. Later than that, only
    clicks less than `delay_ms` older than it can be unknown; with no delay, none.
    """
    young = times > newest[user] - rule.delay_ms
    return rule.length + int(np.bincount(user[young], minlength=1).max())
