"""How right labels are, and how soon: what was reported of visits that are over, beside all that happened in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.visits import NEVER, Bools
from pipelines.samples.label_rules import Reports
from pipelines.tables.contract import WINDOW_REASONS

_QUANTILE = 0.9


@dataclass(slots=True)
class _Task:
    """Counts of one task."""

    reported: int = 0
    right: int = 0
    happened: int = 0
    found: int = 0
    delay_ms: int = 0
    """Sum over those found."""
    delays: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Of those found, how many were reported so many whole seconds later."""

    def add(self, happened_ms: NDArray[np.int64], at_ms: NDArray[np.int64], label: Bools) -> None:
        """Visits, [V]: when the behaviour came, when it was reported, and as what."""
        is_true, is_reported = happened_ms < NEVER, at_ms < NEVER
        is_found = is_true & is_reported & label
        self.reported += int(is_reported.sum())
        self.right += int((is_reported & (label == is_true)).sum())
        self.happened += int(is_true.sum())
        self.found += int(is_found.sum())
        delay_ms = (at_ms - happened_ms)[is_found]
        self.delay_ms += int(delay_ms.sum())
        new = np.bincount(delay_ms // 1000)
        self.delays = np.pad(self.delays, (0, max(len(new) - len(self.delays), 0)))
        self.delays[: len(new)] += new

    def figures(self) -> dict[str, Any]:
        """None where there is nothing to tell of."""
        above = np.cumsum(self.delays) >= _QUANTILE * self.found
        return {
            "reported": self.reported,
            "accuracy": round(self.right / self.reported, 6) if self.reported else None,
            "happened": self.happened,
            "found": self.found,
            "delay_mean_s": round(self.delay_ms / self.found / 1000, 3) if self.found else None,
            "delay_p90_s": int(np.argmax(above)) if self.found else None,
        }


class LabelFigures:
    """Counts over one or many replays of the same tasks.

    The truth is all that happened in a visit while it was remembered, whether or not a row tells of it. A visit that is
    not over yet is not counted. Accuracy is the share of reported labels that are the truth; `found` of what `happened`
    was reported; the delay is from a behaviour to the end of the window with which it was reported, the 90th percentile
    in whole seconds.
    """

    def __init__(self, tasks: tuple[str, ...]) -> None:
        self._tasks = {task: _Task() for task in tasks}
        self._by_reason = dict.fromkeys(WINDOW_REASONS, 0)
        self._visits = 0

    def add(self, rows: pa.Table, reports: Reports, is_over: Bools) -> None:
        """New rows, and the visits that are over with them."""
        for reason in WINDOW_REASONS:
            self._by_reason[reason] += pc.sum(pc.equal(rows["reason"], reason)).as_py() or 0
        self._visits += int(is_over.sum())
        for column, task in enumerate(self._tasks.values()):
            task.add(*(values[is_over, column] for values in (reports.happened_ms, reports.at_ms, reports.label)))

    def as_dict(self) -> Mapping[str, Any]:
        """{visits, rows_by_reason, tasks: {task: figures}}; a visit is counted once it is over and forgotten."""
        return {
            "visits": self._visits,
            "rows_by_reason": dict(self._by_reason),
            "tasks": {name: task.figures() for name, task in self._tasks.items()},
        }
