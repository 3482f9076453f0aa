"""Late events of a day as rows of `rejections`: the first ones by name, the others as a number."""

from typing import Any

import numpy as np

from models.visits import EVENT_KINDS, Bools, chosen
from pipelines.tables.columns import Columns

STAGE = "windows"
_REASON = "late_event"
_COLUMNS = ("user_id", "live_id", "ts_ms", "kind")


class LateEvents:
    """Counts all, and lists the first `listed` that differ from one another."""

    def __init__(self, listed: int, lateness_s: float) -> None:
        self.count = 0
        """Late events so far."""
        self._most = listed
        self._remedy = f"more than windows.lateness_s ({lateness_s:g} s) behind the newest event; raise it"
        self._listed: dict[tuple[int, ...], int] = {}

    def add(self, events: Columns, is_late: Bools) -> None:
        """Events in the order of arrival, and which of them are late, [E]."""
        rows = np.flatnonzero(is_late)
        self.count += len(rows)
        first = chosen({name: events[name] for name in _COLUMNS}, rows[: self._most])
        for key in zip(*(column.tolist() for column in first.values()), strict=True):
            if key in self._listed or len(self._listed) < self._most:
                self._listed[key] = self._listed.get(key, 0) + 1

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the stage: each event by its key, `attempts` times; and one for those that are not listed."""
        rows = [
            {
                "key": f"event {EVENT_KINDS[kind]} of user {user}, live {live}, {ts_ms} ms",
                "reason": _REASON,
                "detail": f"table events: {self._remedy}, or bring the event in time",
                "attempts": times,
            }
            for (user, live, ts_ms, kind), times in self._listed.items()
        ]
        others = self.count - sum(self._listed.values())
        if others:
            detail = f"table events: {others} more late events, beyond windows.listed_late ({self._most})"
            rows.append({"key": "events not listed", "reason": _REASON, "detail": detail, "attempts": others})
        return rows
