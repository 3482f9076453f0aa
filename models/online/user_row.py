"""A user's row of the store: views in bytes, and how events are folded into it.

The result depends neither on the order in which events come nor on how often: views are made of events by
models/visits.py, as samples are, and an event is known by user, live, moment and kind. So a click may come before its
exposure. What makes no part of a view (a second click, a click without an exposure) is kept as it is, the newest of
it, because an exposure that comes late may make it one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.online.config import StoreConfig
from models.online.errors import RowError
from models.visits import (
    BEHAVIOURS,
    EVENT_KINDS,
    EXIT,
    EXPOSURE,
    NEVER,
    Bools,
    Columns,
    Ints,
    chosen,
    in_order,
    joined,
    no_events,
    visit_of,
    visits_of,
)

FORMAT = 1
"""Version of the row's layout; a row of another one is an error."""
VIEW = np.dtype(
    [
        ("author_id", "<i8"),
        ("live_id", "<i8"),
        ("ts_ms", "<i8"),
        ("click_ms", "<i4"),
        ("exit_ms", "<i4"),
        ("watch_s", "<f4"),
    ]
)
"""A view: moments of click and exit count from the exposure's, NONE where there is none yet. `watch_s` is what the exit
said, NaN where it said nothing; without an exit it is how long the view may last."""
LOOSE = np.dtype([("live_id", "<i8"), ("ts_ms", "<i8"), ("kind", "<i1"), ("value", "<f4")])
"""A click or exit that makes no part of a view."""
HEAD = struct.Struct("<IBxHHqq")
"""How often it was written (modulo 2**32), format, number of views and of loose events, when written, newest event."""
VERSION_BYTES = 4
"""How many bytes of a row say how often it was written."""
NONE = -1
_CLICK = EVENT_KINDS.index("click")
_MOST_LOOSE = 64
_LONGEST = 2**31 - 2
_FOLDED = (EXPOSURE, _CLICK, EXIT)
_NEW = -1, b"", b"", 0
"""Version, views, loose events and moment of the newest event of a user without a row."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Views:
    """Views of one user, ascending by exposure; arrays are [n]."""

    author_id: Ints
    live_id: Ints
    ts_ms: Ints
    """Of the exposure."""
    watch_s: NDArray[np.float32]
    """What the exit said, or the time until it; without an exit how long the view may last, of which `as_known` takes
    what has passed."""
    is_clicked: Bools
    is_left: Bools
    """Whether the exit is known."""
    newest_ms: int | None
    """Moment of the newest exposure, click or exit of the user; None where there is none."""

    @classmethod
    def of(cls, row: bytes | None) -> Self:
        """The views in a row; none of a user without one. Raises RowError."""
        if row is None:
            return cls._made(np.zeros(0, VIEW), None)
        _, views, _, newest_ms = _parsed(row)
        return cls._made(np.frombuffer(views, VIEW), newest_ms)

    @classmethod
    def _made(cls, views: NDArray[Any], newest_ms: int | None) -> Self:
        lasted = np.where(np.isnan(views["watch_s"]), (views["exit_ms"] / 1000).astype(np.float32), views["watch_s"])
        return cls(
            author_id=views["author_id"].astype(np.int64),
            live_id=views["live_id"].astype(np.int64),
            ts_ms=views["ts_ms"].astype(np.int64),
            watch_s=lasted,
            is_clicked=views["click_ms"] != NONE,
            is_left=views["exit_ms"] != NONE,
            newest_ms=newest_ms,
        )


def is_folded(events: Columns) -> Bools:
    """Which events views are made of, [E]; the others only count."""
    return np.isin(events["kind"], _FOLDED)


def written_ms(row: bytes) -> int:
    """When a row was written."""
    return int(HEAD.unpack_from(row)[4])


def fold(rows: Sequence[bytes | None], user: Ints, events: Columns, config: StoreConfig, now_ms: int) -> list[bytes]:
    """The rows after events. `user` [E] is each event's place in `rows`; what is not `is_folded` is passed over.

    Raises RowError.
    """
    parsed = [_parsed(row) if row is not None else _NEW for row in rows]
    keep = is_folded(events)
    fresh = chosen(events, keep) | {"user_id": user[keep], "impression_id": np.zeros(int(keep.sum()), np.int64)}
    held = _events_of([views for _, views, _, _ in parsed], [loose for _, _, loose, _ in parsed])
    events, _ = in_order(joined([no_events(), *held, fresh]))
    visit = visit_of(events)
    views, owner = _views(events, visit, config)
    loose, loose_owner = _loose(events, visit)
    newest = np.zeros(len(rows), np.int64)
    np.maximum.at(newest, events["user_id"], events["ts_ms"])
    ends = np.searchsorted(owner, np.arange(len(rows) + 1))
    loose_ends = np.searchsorted(loose_owner, np.arange(len(rows) + 1))
    made = []
    for place, (version, _, _, last_ms) in enumerate(parsed):
        own = views[ends[place] : ends[place + 1]]
        rest = loose[loose_ends[place] : loose_ends[place + 1]]
        head = HEAD.pack((version + 1) % 2**32, FORMAT, len(own), len(rest), now_ms, max(int(newest[place]), last_ms))
        made.append(head + own.tobytes() + rest.tobytes())
    return made


def _parsed(row: bytes) -> tuple[int, bytes, bytes, int]:
    """Version, views, loose events, moment of the newest event."""
    if len(row) < HEAD.size or row[VERSION_BYTES] != FORMAT:
        got = "no head" if len(row) < HEAD.size else f"format {row[VERSION_BYTES]}"
        raise RowError(f"row of a user: wanted format {FORMAT}, got {got}; empty the store and load it again")
    version, _, num_views, num_loose, _, newest_ms = HEAD.unpack_from(row)
    wanted = HEAD.size + num_views * VIEW.itemsize + num_loose * LOOSE.itemsize
    if len(row) != wanted:
        raise RowError(f"row of a user: wanted {wanted} bytes, got {len(row)}; empty the store and load it again")
    end = HEAD.size + num_views * VIEW.itemsize
    return version, row[HEAD.size : end], row[end:], newest_ms


def _events_of(views_by_user: list[bytes], loose_by_user: list[bytes]) -> list[Columns]:
    """The events that views were made of, and those that made none; users by their place."""
    views, owner = _joined(views_by_user, VIEW)
    loose, loose_owner = _joined(loose_by_user, LOOSE)
    has_click, has_exit = views["click_ms"] != NONE, views["exit_ms"] != NONE
    clicked, left = views[has_click], views[has_exit]
    return [
        _columns(owner, views["author_id"], views["live_id"], views["ts_ms"], EXPOSURE, 0),
        _columns(owner[has_click], 0, clicked["live_id"], clicked["ts_ms"] + clicked["click_ms"], _CLICK, 0),
        _columns(owner[has_exit], 0, left["live_id"], left["ts_ms"] + left["exit_ms"], EXIT, left["watch_s"]),
        _columns(loose_owner, 0, loose["live_id"], loose["ts_ms"], loose["kind"], loose["value"]),
    ]


def _joined(by_user: list[bytes], kind: np.dtype[Any]) -> tuple[NDArray[Any], Ints]:
    """Records of all users, and the user of each."""
    counts = [len(records) // kind.itemsize for records in by_user]
    return np.frombuffer(b"".join(by_user), kind), np.repeat(np.arange(len(by_user)), counts)


def _columns(user: Ints, author_id: Any, live_id: Ints, ts_ms: Ints, kind: Any, value: Any) -> Columns:
    def full(what: Any, dtype: Any) -> NDArray[Any]:
        return np.broadcast_to(np.asarray(what, dtype), len(live_id))

    return {
        "user_id": full(user, np.int64),
        "author_id": full(author_id, np.int64),
        "live_id": full(live_id, np.int64),
        "ts_ms": full(ts_ms, np.int64),
        "kind": full(kind, np.int8),
        "value": full(value, np.float32),
        "impression_id": full(0, np.int64),
    }


def _views(events: Columns, visit: Ints, config: StoreConfig) -> tuple[NDArray[Any], Ints]:
    """Views that are kept, sorted by (user, exposure), and the user of each."""
    visits = visits_of(events, visit)
    click = visits.first_ms[:, BEHAVIOURS.index("click")]
    until = np.minimum(visits.next_ms, visits.ts_ms + round(config.open_view_s * 1000))
    views = np.zeros(len(visits), VIEW)
    for name in ("author_id", "live_id", "ts_ms"):
        views[name] = getattr(visits, name)
    views["click_ms"], views["exit_ms"] = _after(click, visits.ts_ms), _after(visits.exit_ms, visits.ts_ms)
    views["watch_s"] = np.where(visits.exit_ms < NEVER, visits.exit_value, (until - visits.ts_ms) / 1000)
    order = np.lexsort((visits.live_id, visits.ts_ms, visits.user_id))
    views, owner = views[order], visits.user_id[order]
    last = np.searchsorted(owner, owner, side="right") - 1
    keep = views["ts_ms"] >= views["ts_ms"][last] - round(config.ttl_s * 1000)
    is_clicked = views["click_ms"] != NONE
    for which, most in ((is_clicked, config.views_per_user), (~is_clicked, config.exposures_per_user)):
        rows = np.flatnonzero(which)
        keep[rows] &= _from_newest(owner[rows]) < most
    return views[keep], owner[keep]


def _loose(events: Columns, visit: Ints) -> tuple[NDArray[Any], Ints]:
    """Clicks and exits that are not the first of a visit, the newest of each user, and the user of each."""
    is_first = np.zeros(len(visit), bool)
    for kind in (_CLICK, EXIT):
        rows = np.flatnonzero((events["kind"] == kind) & (visit >= 0))
        is_first[rows] = np.diff(visit[rows], prepend=NONE) != 0
    rows = np.flatnonzero(~is_first & (events["kind"] != EXPOSURE))
    rows = rows[np.lexsort((events["ts_ms"][rows], events["user_id"][rows]))]
    rows = rows[_from_newest(events["user_id"][rows]) < _MOST_LOOSE]
    loose = np.zeros(len(rows), LOOSE)
    for name in ("live_id", "ts_ms", "kind", "value"):
        loose[name] = events[name][rows]
    return loose, events["user_id"][rows]


def _after(moment: Ints, start: Ints) -> Ints:
    """Milliseconds from `start`, at most 24 days; NONE where the moment does not come."""
    return np.where(moment < NEVER, np.minimum(moment - start, _LONGEST), NONE)


def _from_newest(owner: Ints) -> Ints:
    """Of rows sorted by owner, how many of the same owner come after each."""
    return np.searchsorted(owner, owner, side="right") - 1 - np.arange(len(owner))
