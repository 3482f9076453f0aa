"""Visits made of raw events: an exposure opens a visit, later events of the same user and live belong to it.

Nothing here knows windows or labels, tables or stores: samples are made with it, and so is the online store. Events are
columns of numbers, [E] each: those of `EVENT_COLUMNS`, `kind` as its place in `EVENT_KINDS`. Letters: E events,
V visits, B kinds of behaviour.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Columns = dict[str, NDArray[Any]]

EVENT_KINDS = ("exposure", "click", "exit", "follow", "like", "comment", "gift")
EVENT_COLUMNS = ("user_id", "author_id", "live_id", "ts_ms", "kind", "value")
EXPOSURE, EXIT = EVENT_KINDS.index("exposure"), EVENT_KINDS.index("exit")
BEHAVIOURS = tuple(kind for kind in EVENT_KINDS if kind not in ("exposure", "exit"))
"""What a user may do in a visit, each counted once: click, follow, like, comment, gift."""
NEVER = 2**62
"""A moment that does not come, ms."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Visits:
    """Visits sorted by (user, live, moment); arrays are [V]."""

    user_id: Ints
    author_id: Ints
    live_id: Ints
    ts_ms: Ints
    """Of the exposure."""
    impression_id: Ints
    next_ms: Ints
    """The next exposure of the same user and live, NEVER where there is none yet."""
    first_ms: Ints
    """The first of each of BEHAVIOURS, NEVER where there is none yet, [V, B]."""
    exit_ms: Ints
    """The first exit, NEVER where there is none yet."""
    exit_value: NDArray[np.float32]
    """Seconds watched as that exit says them, 0 where there is none yet."""

    def __len__(self) -> int:
        return len(self.ts_ms)


def no_events() -> Columns:
    """Columns without rows, as visits are made of."""
    types = {"kind": np.int8, "value": np.float32}
    return {name: np.zeros(0, types.get(name, np.int64)) for name in (*EVENT_COLUMNS, "impression_id")}


def joined(parts: list[Columns]) -> Columns:
    """Columns of all parts, one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def chosen(columns: Columns, rows: NDArray[Any]) -> Columns:
    """Those rows, by number or by mask."""
    return {name: column[rows] for name, column in columns.items()}


def in_order(events: Columns) -> tuple[Columns, Ints]:
    """Events sorted by (user, live, moment, kind), each key once; and the moments of the repeats that were left out.

    Of rows with the same key the largest value stays, so that the result does not depend on the order they came in.
    """
    order = np.lexsort((events["ts_ms"] * len(EVENT_KINDS) + events["kind"], events["live_id"], events["user_id"]))
    events = chosen(events, order)
    is_first = np.ones(len(order), bool)
    is_first[1:] = np.any(
        [events[name][1:] != events[name][:-1] for name in ("user_id", "live_id", "ts_ms", "kind")], 0
    )
    if is_first.all():
        return events, np.zeros(0, np.int64)
    events["value"] = np.maximum.reduceat(events["value"], np.flatnonzero(is_first)).repeat(
        np.diff(np.append(np.flatnonzero(is_first), len(order)))
    )
    return chosen(events, is_first), events["ts_ms"][~is_first]


def visit_of(events: Columns) -> Ints:
    """The visit of each event, by its place among the exposures; -1 for events that no exposure comes before.

    Args: `events` sorted as `in_order` sorts them.
    """
    count = len(events["ts_ms"])
    at = np.arange(count)
    is_new_pair = np.ones(count, bool)
    for_pair = [events[name][1:] != events[name][:-1] for name in ("user_id", "live_id")]
    is_new_pair[1:] = for_pair[0] | for_pair[1]
    is_exposure = events["kind"] == EXPOSURE
    start = np.maximum.accumulate(np.where(is_new_pair, at, 0))
    exposure = np.maximum.accumulate(np.where(is_exposure, at, -1))
    return np.where(exposure >= start, np.cumsum(is_exposure) - 1, -1)


def visits_of(events: Columns, visit: Ints) -> Visits:
    """The visits of sorted events; `visit` is what `visit_of` says."""
    opened = chosen(events, events["kind"] == EXPOSURE)
    count = len(opened["ts_ms"])
    next_ms = np.full(count, NEVER, np.int64)
    is_same = (opened["user_id"][1:] == opened["user_id"][:-1]) & (opened["live_id"][1:] == opened["live_id"][:-1])
    next_ms[:-1][is_same] = opened["ts_ms"][1:][is_same]
    first_ms = np.full((count, len(BEHAVIOURS)), NEVER, np.int64)
    for column, kind in enumerate(BEHAVIOURS):
        rows = _first_of_each(events, visit, EVENT_KINDS.index(kind))
        first_ms[visit[rows], column] = events["ts_ms"][rows]
    exit_ms, exit_value = np.full(count, NEVER, np.int64), np.zeros(count, np.float32)
    rows = _first_of_each(events, visit, EXIT)
    exit_ms[visit[rows]], exit_value[visit[rows]] = events["ts_ms"][rows], events["value"][rows]
    names = ("user_id", "author_id", "live_id", "ts_ms", "impression_id")
    return Visits(
        **{name: opened[name] for name in names},
        next_ms=next_ms,
        first_ms=first_ms,
        exit_ms=exit_ms,
        exit_value=exit_value,
    )


def _first_of_each(events: Columns, visit: Ints, kind: int) -> Ints:
    """Rows with the first event of a kind in each visit that has one."""
    rows = np.flatnonzero((events["kind"] == kind) & (visit >= 0))
    of = visit[rows]
    is_first = np.ones(len(rows), bool)
    is_first[1:] = of[1:] != of[:-1]
    first: Ints = rows[is_first]
    return first
