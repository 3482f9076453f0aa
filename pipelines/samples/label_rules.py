"""When the label of each task is reported, and what it says: the rules of the job `windows`.

One rule for all: of an impression each task is reported at most once, at the end of the first window in which its label
is known. The labels differ in their windows, and in what a missing behaviour means:

- moment (Moment&Cross, arXiv 2408.05709): windows of `window_s` aligned to the epoch. A behaviour is reported at the
  end of its window, and that there was none at the end of the window in which the visit ends. Tasks after a click count
  for impressions that were not clicked too, with the label 0: a ranker's tasks are over exposures.
- sliver (arXiv 2402.14399): the same, but windows count from the exposure, and tasks after a click are reported only
  where the click came before.
- fixed: all tasks are reported `window_s` after the exposure, with the label 1 for what happened by then.

A visit ends with the exit, with the next exposure of the same user and live, `click_timeout_s` after an exposure that
was not clicked, and `visit_timeout_s` after any. What follows is not reported: a label never changes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.visits import BEHAVIOURS, NEVER, Bools, Ints, Visits
from pipelines.tables.contract import WINDOW_REASONS

LABELS = ("moment", "sliver", "fixed")
TASKS = (*BEHAVIOURS, "long_view")
"""What can be labelled."""
POSITIVE, LEFT, TIMEOUT = (np.int8(WINDOW_REASONS.index(reason)) for reason in ("positive", "exit", "timeout"))


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRule:
    """The rule of a configuration; all times in ms."""

    labels: str
    """One of LABELS."""
    tasks: tuple[str, ...]
    """Some of TASKS, in the order of the columns, K."""
    window_ms: int
    click_timeout_ms: int
    visit_timeout_ms: int
    long_view_ms: int
    grace_ms: int
    """How long after its last report a visit is remembered, to learn what no report told."""

    @property
    def longest_ms(self) -> int:
        """How long after its exposure a visit is remembered at most."""
        return max(self.click_timeout_ms, self.visit_timeout_ms) + 2 * self.window_ms + self.grace_ms

    def reports(self, visits: Visits) -> "Reports":
        """What is reported of visits. What has a window that ends by a moment depends on no event from then on."""
        deadline = visits.ts_ms + np.where(
            visits.first_ms[:, BEHAVIOURS.index("click")] <= visits.ts_ms + self.click_timeout_ms,
            self.visit_timeout_ms,
            self.click_timeout_ms,
        )
        end = np.minimum(np.minimum(visits.exit_ms, visits.next_ms), deadline)
        happened = self._happened(visits)
        if self.labels == "fixed":
            at = np.broadcast_to((visits.ts_ms + self.window_ms)[:, None], happened.shape)
            reason = np.full(happened.shape, TIMEOUT)
            return Reports.of(happened, at, reason, np.maximum(at.max(axis=1), end) + self.grace_ms)
        start = visits.ts_ms if self.labels == "sliver" else np.zeros_like(end)
        closed = _window_end(end, start, self.window_ms)
        is_told = happened < closed[:, None]
        # Where it is not told the clip only keeps NEVER from overflowing.
        told = _window_end(np.minimum(happened, closed[:, None]), start[:, None], self.window_ms)
        at = np.where(is_told, told, closed[:, None])
        why = np.where(visits.exit_ms <= end, LEFT, TIMEOUT)
        reason = np.where(is_told, POSITIVE, why[:, None])
        if self.labels == "sliver":
            click = visits.first_ms[:, [BEHAVIOURS.index("click")]]
            is_after_click = np.array([task != "click" for task in self.tasks])
            at = np.where(is_after_click & (click >= at), NEVER, at)
        return Reports.of(happened, at, reason, closed + self.grace_ms)

    def _happened(self, visits: Visits) -> Ints:
        """The moment of each task's behaviour, NEVER where there was none, [V, K]."""
        by_task = {task: visits.first_ms[:, column] for column, task in enumerate(BEHAVIOURS)}
        stayed = by_task["click"] + self.long_view_ms
        by_time = np.where(np.minimum(visits.exit_ms, visits.next_ms) >= stayed, stayed, NEVER)
        by_exit = np.where(visits.exit_value * 1000 >= self.long_view_ms, visits.exit_ms, NEVER)
        by_task["long_view"] = np.minimum(np.minimum(by_time, by_exit), NEVER)
        return np.stack([by_task[task] for task in self.tasks], axis=1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reports:
    """What is reported of visits, task by task; arrays are [V, K]."""

    happened_ms: Ints
    """The moment of the behaviour, NEVER where there is none while the visit is remembered."""
    at_ms: Ints
    """The end of the window with which it is reported, NEVER where it is not."""
    label: Bools
    """Whether the behaviour had happened by then."""
    reason: NDArray[np.int8]
    """Place in contract.WINDOW_REASONS."""
    forget_ms: Ints
    """When the visit may be forgotten, [V]."""

    @classmethod
    def of(cls, happened: Ints, at: Ints, reason: NDArray[np.int8], forget: Ints) -> "Reports":
        """With labels, and without what happens once a visit is forgotten."""
        known = np.where(happened < forget[:, None], happened, NEVER)
        return cls(happened_ms=known, at_ms=at, label=happened < at, reason=reason, forget_ms=forget)


def _window_end(moment: Ints, start: Ints, window_ms: int) -> Ints:
    """The end of the window, of those that begin at `start`, in which a moment lies; its own start belongs to it."""
    return start + ((moment - start) // window_ms + 1) * window_ms
