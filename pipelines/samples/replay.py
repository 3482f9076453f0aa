"""Events in the order in which they arrive, replayed into rows of `windows`, in bounded memory.

Events come in batches of any size. What is held is one batch and the events of visits that are not over. A row is
made once all events before its window's end have arrived, as the watermark tells: the newest moment so far, less the
lateness. Events behind the watermark are late, and left out. So the rows depend neither on the size of the batches nor
on the order of arrival, as long as nothing is late.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from models import MASK
from models.visits import (
    EXPOSURE,
    NEVER,
    Bools,
    Ints,
    Visits,
    chosen,
    in_order,
    joined,
    no_events,
    visit_of,
    visits_of,
)
from pipelines.samples.label_figures import LabelFigures
from pipelines.samples.label_rules import LabelRule, Reports
from pipelines.tables.columns import Columns
from pipelines.tables.contract import WINDOW_REASONS

Ids = Callable[[Columns], Ints]
"""Gives the impression id of each exposure, [E] -> [E]."""


@dataclass(kw_only=True, slots=True)
class Replay:
    """One stream of events; see the module. Rows and figures are those of `since_ms` and later."""

    rule: LabelRule
    lateness_ms: int
    ids: Ids
    since_ms: int
    """Rows whose window ends before are passed over; events before are taken to know the visits that they open."""
    figures: LabelFigures
    known_ms: int = -NEVER
    """All rows whose window ends up to this moment are made."""
    duplicates: int = 0
    """Events that repeat the key of another."""
    unmatched: int = 0
    """Events of no visit: no exposure came before them, or it was over and forgotten."""
    _newest_ms: int = -NEVER
    _held: list[Columns] = field(default_factory=lambda: [no_events()])

    def __post_init__(self) -> None:
        self.known_ms = max(self.known_ms, self.since_ms - 1)

    def take(self, events: Columns, floor_ms: int = -NEVER, ceiling_ms: int = NEVER) -> Bools:
        """Takes events in the order of their arrival. Returns which of them are late and left out, [E].

        Args: events before `floor_ms` are late in any case; from `ceiling_ms` on they do not move the watermark.
        """
        ts_ms = events["ts_ms"]
        newest = np.maximum.accumulate(np.append(self._newest_ms, np.minimum(ts_ms, ceiling_ms)))
        is_late: Bools = ts_ms < np.maximum(newest[:-1] - self.lateness_ms, floor_ms)
        self._newest_ms = int(newest[-1])
        kept = chosen(events, ~is_late) if is_late.any() else dict(events)
        is_exposure = kept["kind"] == EXPOSURE
        kept["impression_id"] = np.zeros(len(is_exposure), np.int64)
        kept["impression_id"][is_exposure] = self.ids(chosen(kept, is_exposure))
        self._held.append(kept)
        return is_late

    @property
    def watermark_ms(self) -> int:
        """No event before this moment is taken any more."""
        return self._newest_ms - self.lateness_ms

    def rows(self, until_ms: int) -> pa.Table:
        """The rows whose window ends behind `known_ms` and up to `until_ms`, by (window's end, impression, reason).

        The caller says that no event before `until_ms` comes any more.
        """
        events, repeated_ms = in_order(joined(self._held))
        visit = visit_of(events)
        visits = visits_of(events, visit)
        reports = self.rule.reports(visits)
        rows = rows_of(visits, reports, self.rule.tasks, self.known_ms, until_ms)
        self.figures.add(rows, reports, (reports.forget_ms > self.known_ms) & (reports.forget_ms <= until_ms))
        self.duplicates += self._counted(repeated_ms)
        self._forget(events, visit, reports.forget_ms, until_ms)
        self.known_ms = max(self.known_ms, until_ms)
        return rows

    def _forget(self, events: Columns, visit: Ints, forget_ms: Ints, until_ms: int) -> None:
        """Holds on to events of visits that are not forgotten, and to those whose exposure may still come."""
        forget = np.append(forget_ms, -NEVER)[visit]
        is_of_visit = events["ts_ms"] < forget
        stays = np.where(is_of_visit, forget > until_ms, events["ts_ms"] >= until_ms)
        self.unmatched += self._counted(events["ts_ms"][~is_of_visit & ~stays])
        self._held = [chosen(events, stays)]

    def _counted(self, ts_ms: Ints) -> int:
        return int((ts_ms >= self.since_ms).sum())


def rows_of(visits: Visits, reports: Reports, tasks: tuple[str, ...], after_ms: int, until_ms: int) -> pa.Table:
    """Reports whose window ends in (`after_ms`, `until_ms`], those of a visit, window and reason in one row."""
    of, task = np.nonzero((reports.at_ms > after_ms) & (reports.at_ms <= until_ms))
    at, reason, label = (column[of, task] for column in (reports.at_ms, reports.reason, reports.label))
    order = np.lexsort((reason, of, visits.impression_id[of], at))
    of, task, at, reason, label = (column[order] for column in (of, task, at, reason, label))
    is_first = np.ones(len(of), bool)
    is_first[1:] = (of[1:] != of[:-1]) | (at[1:] != at[:-1]) | (reason[1:] != reason[:-1])
    row, count = np.cumsum(is_first) - 1, int(is_first.sum())
    labels, masks = np.zeros((2, len(tasks), count), np.uint8)
    labels[task, row], masks[task, row] = label, 1
    of = of[is_first]
    columns = {
        name: getattr(visits, name)[of] for name in ("impression_id", "user_id", "author_id", "live_id", "ts_ms")
    }
    reasons = pa.DictionaryArray.from_arrays(pa.array(reason[is_first]), pa.array(WINDOW_REASONS))
    columns |= {"window_end_ms": at[is_first], "reason": reasons.cast(pa.string())}
    for number, name in enumerate(tasks):
        columns |= {name: labels[number], f"{MASK}{name}": masks[number]}
    return pa.table(columns)
