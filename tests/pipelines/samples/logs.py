"""Event logs as the tests of windows write them, and a plain reference: loops over single events, rule by rule."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.samples.windows_config import WindowsConfig
from pipelines.tables import contract

DAY = "2026-01-02"
START_MS = 1_767_312_000_000
"""Midnight at the beginning of DAY."""
HOUR_S = 3600


@dataclass(frozen=True)
class Event:
    """One event; `s` counts from START_MS and may be negative."""

    s: float
    kind: str
    user: int = 1
    live: int = 10
    value: float = 0.0

    @property
    def ts_ms(self) -> int:
        return START_MS + round(self.s * 1000)


def visit(at: float = 0.0, user: int = 1, live: int = 10, **later: float | tuple[float, float]) -> list[Event]:
    """An exposure, and by kind what follows: seconds after it, or (seconds, value)."""
    events = [Event(at, "exposure", user, live)]
    for kind, what in later.items():
        after, value = what if isinstance(what, tuple) else (what, 0.0)
        events.append(Event(at + after, kind, user, live, value))
    return events


def as_table(events: Iterable[Event]) -> pa.Table:
    rows = [
        {
            "user_id": e.user,
            "author_id": e.live * 7,
            "live_id": e.live,
            "ts_ms": e.ts_ms,
            "kind": e.kind,
            "value": e.value,
        }
        for e in events
    ]
    return pa.Table.from_pylist(rows, schema=contract.spec("events").schema)


Told = tuple[float, int, str]
"""Window's end in seconds after START_MS, label, reason."""
Key = tuple[int, int, int]
"""User, live and moment of an exposure."""


def told(rows: pa.Table, tasks: Sequence[str]) -> dict[Key, dict[str, Told]]:
    """What rows say, impression by impression; a task that is told twice fails."""
    found: dict[Key, dict[str, Told]] = {}
    for row in rows.to_pylist():
        of = found.setdefault((row["user_id"], row["live_id"], row["ts_ms"]), {})
        for task in tasks:
            if row[f"mask_{task}"]:
                assert task not in of, f"{task} is told twice"
                of[task] = ((row["window_end_ms"] - START_MS) / 1000, row[task], row["reason"])
            else:
                assert row[task] == 0
    return found


def reference(events: Iterable[Event], config: WindowsConfig) -> dict[Key, dict[str, Told]]:
    """All that is ever reported of a log of which nothing is late."""
    unique = {(e.user, e.live, e.ts_ms, e.kind): e for e in sorted(events, key=lambda e: e.value)}
    by_pair: dict[tuple[int, int], list[Event]] = {}
    for event in unique.values():
        by_pair.setdefault((event.user, event.live), []).append(event)
    found: dict[Key, dict[str, Told]] = {}
    for (user, live), of in by_pair.items():
        exposures = sorted(e.ts_ms for e in of if e.kind == "exposure")
        for number, start in enumerate(exposures):
            end = exposures[number + 1] if number + 1 < len(exposures) else None
            mine = [e for e in of if start <= e.ts_ms and (end is None or e.ts_ms < end)]
            found[user, live, start] = _of_visit(mine, start, end, config)
    return {key: tasks for key, tasks in found.items() if tasks}


def _of_visit(events: Sequence[Event], start: int, following: int | None, config: WindowsConfig) -> dict[str, Told]:
    first: dict[str, int] = {}
    exits = sorted((e.ts_ms, e.value) for e in events if e.kind == "exit")
    for event in sorted(events, key=lambda e: e.ts_ms):
        first.setdefault(event.kind, event.ts_ms)
    if (view := _long_view(first.get("click"), exits, following, config)) is not None:
        first["long_view"] = view
    window = round(config.window_s * 1000)
    if config.labels == "fixed":
        at = start + window
        return {t: ((at - START_MS) / 1000, int(t in first and first[t] < at), "timeout") for t in config.tasks}
    clicked = "click" in first and first["click"] <= start + config.click_timeout_s * 1000
    over = [(start + round((config.visit_timeout_s if clicked else config.click_timeout_s) * 1000), "timeout")]
    over += [(following, "timeout")] if following is not None else []
    over += [(exits[0][0], "exit")] if exits else []
    over_ms, why = min(over)  # "exit" sorts before "timeout"
    origin = start if config.labels == "sliver" else 0

    def end_of_window(moment: int) -> int:
        end = origin
        end += (moment - origin) // window * window
        return end + window

    closed, result = end_of_window(over_ms), dict[str, Told]()
    for task in config.tasks:
        if task in first and first[task] < closed:
            said = (end_of_window(first[task]), 1, "positive")
        else:
            said = (closed, 0, why)
        if config.labels == "sliver" and task != "click" and not ("click" in first and first["click"] < said[0]):
            continue
        result[task] = ((said[0] - START_MS) / 1000, *said[1:])
    return result


def _long_view(
    click: int | None, exits: Sequence[tuple[int, float]], following: int | None, config: WindowsConfig
) -> int | None:
    moments = []
    if click is not None:
        stayed = click + round(config.long_view_s * 1000)
        if all(ms >= stayed for ms in [*(ms for ms, _ in exits[:1]), *([following] if following else [])]):
            moments.append(stayed)
    if exits and exits[0][1] >= config.long_view_s:
        moments.append(exits[0][0])
    return min(moments, default=None)


def rows_between(found: Mapping[Key, Mapping[str, Told]], first_s: float, last_s: float) -> dict[Key, Any]:
    """Those reports whose window ends in [first_s, last_s)."""
    within = {
        key: {task: said for task, said in tasks.items() if first_s <= said[0] < last_s} for key, tasks in found.items()
    }
    return {key: tasks for key, tasks in within.items() if tasks}
