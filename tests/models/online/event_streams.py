"""Random streams of events, and the views that are in them, made one by one and by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from models.online.store import ID_BYTES, EventBatch
from models.visits import EVENT_KINDS, Columns

START_MS = 1_760_000_000_000


class Event(NamedTuple):
    """One event; `value` NaN = an exit that does not say how long."""

    user_id: int
    author_id: int
    live_id: int
    ts_ms: int
    kind: str
    value: float = 0.0


class View(NamedTuple):
    """One view as it should be."""

    author_id: int
    live_id: int
    ts_ms: int
    watch_s: float
    is_clicked: bool


def columns_of(events: Sequence[Event]) -> Columns:
    """Events as the store takes them."""
    kinds = np.array([EVENT_KINDS.index(event.kind) for event in events], np.int8)
    columns: Columns = {
        name: np.array([getattr(event, name) for event in events], np.int64)
        for name in ("user_id", "author_id", "live_id", "ts_ms")
    }
    return columns | {"kind": kinds, "value": np.array([event.value for event in events], np.float32)}


def id_of(event: Event) -> bytes:
    """An id that the same event always has."""
    return hashlib.blake2b(repr(event).encode(), digest_size=ID_BYTES).digest()


def batch_of(events: Sequence[Event], **fields: Any) -> EventBatch:
    """A batch in which each event has its id."""
    return EventBatch(events=columns_of(events), ids=[id_of(event) for event in events], **fields)


def views_in(events: Iterable[Event], user_id: int, open_view_s: float) -> list[View]:
    """What a user's views are: each exposure of a live lasts until the next one, and owns what comes between."""
    once: dict[tuple[int, int, str], Event] = {}
    for event in events:
        key = (event.live_id, event.ts_ms, event.kind)
        if event.user_id == user_id and (key not in once or event.value > once[key].value):
            once[key] = event
    by_live: dict[int, list[Event]] = {}
    for event in sorted(once.values(), key=lambda each: (each.ts_ms, EVENT_KINDS.index(each.kind))):
        by_live.setdefault(event.live_id, []).append(event)
    views = []
    for own in by_live.values():
        places = [place for place, event in enumerate(own) if event.kind == "exposure"]
        for place, following in pairwise([*places, len(own)]):
            exposure, inside = own[place], own[place + 1 : following]
            exits = [event for event in inside if event.kind == "exit"]
            lasted = open_view_s
            if exits:
                lasted = exits[0].value
                if np.isnan(lasted):
                    lasted = (exits[0].ts_ms - exposure.ts_ms) / 1000
            elif following < len(own):
                lasted = min(lasted, (own[following].ts_ms - exposure.ts_ms) / 1000)
            is_clicked = any(event.kind == "click" for event in inside)
            views.append(View(exposure.author_id, exposure.live_id, exposure.ts_ms, lasted, is_clicked))
    return sorted(views, key=lambda view: (view.ts_ms, view.live_id))
