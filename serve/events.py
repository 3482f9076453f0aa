"""What platforms tell the online store: events of users, and lives. Items are checked one by one."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeVar

import numpy as np
from pydantic import (
    Field,
    SkipValidation,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from models.online.lives import LiveUpdate
from models.online.store import ID_BYTES, EventBatch, OnlineStore
from models.visits import EVENT_KINDS, Columns
from serve.schema import Id, Message, TimestampMs

MAX_EVENTS = 1_000
"""Items of one request."""
MAX_AHEAD_S = 60.0
"""How far an event may be ahead of this machine's clock."""
_MAX_WATCH_S = 1e7
_MAX_SEGMENT = 2**31 - 1

Kind = Literal["exposure", "click", "exit", "follow", "like", "comment", "gift"]
ItemT = TypeVar("ItemT", bound=Message)


class Event(Message):
    """What a user did. An exposure opens a view; a click and the exit of the same user and live belong to it."""

    event_id: str = Field(
        min_length=1, max_length=128, description="The platform's own, by which an event that is sent again is known."
    )
    kind: Kind
    user_id: Id
    author_id: Id
    live_id: Id
    ts_ms: TimestampMs
    watch_time_s: float | None = Field(
        default=None,
        strict=True,
        ge=0.0,
        le=_MAX_WATCH_S,
        allow_inf_nan=False,
        description="Of an exit: seconds watched; null = the time since the exposure.",
    )

    @field_validator("ts_ms")
    @classmethod
    def _has_happened(cls, ts_ms: int, info: ValidationInfo) -> int:
        now_ms = info.context
        if now_ms is not None and ts_ms > now_ms + MAX_AHEAD_S * 1000:
            raise ValueError(
                f"wanted milliseconds since 1970, at most {MAX_AHEAD_S:g} s ahead of now, got {ts_ms}, which is "
                f"{(ts_ms - now_ms) / 1000:.0f} s ahead; correct the clock or the unit"
            )
        return ts_ms

    @model_validator(mode="after")
    def _only_exits_have_watched(self) -> Self:
        if self.watch_time_s is not None and self.kind != "exit":
            raise ValueError(f"wanted watch_time_s with kind exit alone, got it with {self.kind}; leave it out")
        return self


class Live(Message):
    """A live, when it starts, ends, or has a new segment. What is null stays as it was."""

    live_id: Id
    author_id: Id
    start_ms: TimestampMs | None = None
    end_ms: TimestampMs | None = Field(default=None, description="First moment at which it is not on air any more.")
    segment: int | None = Field(default=None, strict=True, ge=0, le=_MAX_SEGMENT, description="Its newest segment.")

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.start_ms is not None and self.end_ms is not None and self.end_ms < self.start_ms:
            raise ValueError(f"wanted end_ms >= start_ms, got {self.end_ms} and {self.start_ms}; correct one of them")
        return self


class EventsRequest(Message):
    """Events in any order; a bad one is rejected by its index, the others are taken."""

    events: list[SkipValidation[Event]] = Field(max_length=MAX_EVENTS)


class LivesRequest(Message):
    """Lives in any order; a bad one is rejected by its index, the others are taken."""

    lives: list[SkipValidation[Live]] = Field(max_length=MAX_EVENTS)


class Rejection(Message):
    """Why an item was not taken."""

    index: int
    field: str = Field(description="Its path in the item; empty where the item as a whole cannot be.")
    message: str


class EventsResponse(Message):
    """What became of the items. What is accepted is stored; the same request again is a duplicate, not an error."""

    accepted: int
    duplicate: int = Field(description="Events whose id came before.")
    rejected: int
    rejections: list[Rejection]


class EventSink:
    """Takes events and lives into the store. Safe to call from several threads."""

    def __init__(self, store: OnlineStore, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._store, self._clock_ms = store, clock_ms
        self._lock = threading.Lock()
        self.totals = {"accepted": 0, "duplicate": 0, "rejected": 0}
        """Events since the start, by what became of them."""
        self.newest_ms: int | None = None
        """Moment of the newest event that was taken since the start."""

    @property
    def age_s(self) -> float | None:
        """Seconds since the moment of the newest event that was taken since the start, None before the first."""
        return None if self.newest_ms is None else max(0.0, (self._clock_ms() - self.newest_ms) / 1000)

    def take(self, request: EventsRequest) -> EventsResponse:
        """Events into views and counters. Raises StoreError, and then the request has to be sent again."""
        now_ms = self._clock_ms()
        events, rejections = _checked(request.events, _EVENT, now_ms)
        duplicate = 0
        if events:
            is_new = self._store.apply(EventBatch(events=_columns(events), ids=list(map(_id, events))), now_ms)
            duplicate = len(events) - int(is_new.sum())
        answer = _answer(len(events) - duplicate, duplicate, rejections)
        with self._lock:
            for name in self.totals:
                self.totals[name] += getattr(answer, name)
            newest = max((event.ts_ms for event in events), default=None)
            self.newest_ms = max((each for each in (newest, self.newest_ms) if each is not None), default=None)
        return answer

    def tell(self, request: LivesRequest) -> EventsResponse:
        """Starts, ends and segments of lives. Raises StoreError, and then the request has to be sent again."""
        now_ms = self._clock_ms()
        lives, rejections = _checked(request.lives, _LIVE, now_ms)
        if lives:
            self._store.tell([LiveUpdate(**live.model_dump()) for live in lives], now_ms)
        return _answer(len(lives), 0, rejections)


_EVENT, _LIVE = TypeAdapter(Event), TypeAdapter(Live)


def _checked(items: Sequence[Any], kind: TypeAdapter[ItemT], now_ms: int) -> tuple[list[ItemT], list[Rejection]]:
    """Items that can be, and why the others cannot."""
    good, rejections = [], []
    for index, item in enumerate(items):
        try:
            good.append(kind.validate_python(item, context=now_ms))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            path, message = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
            rejections.append(Rejection(index=index, field=path, message=message))
    return good, rejections


def _answer(accepted: int, duplicate: int, rejections: list[Rejection]) -> EventsResponse:
    rejected = len(rejections)
    return EventsResponse(accepted=accepted, duplicate=duplicate, rejected=rejected, rejections=rejections)


def _columns(events: Sequence[Event]) -> Columns:
    columns: Columns = {
        name: np.array([getattr(event, name) for event in events], np.int64)
        for name in ("user_id", "author_id", "live_id", "ts_ms")
    }
    watched = [_value(event) for event in events]
    kinds = [EVENT_KINDS.index(event.kind) for event in events]
    return columns | {"kind": np.array(kinds, np.int8), "value": np.array(watched, np.float32)}


def _value(event: Event) -> float:
    if event.watch_time_s is not None:
        return event.watch_time_s
    return float("nan") if event.kind == "exit" else 0.0


def _id(event: Event) -> bytes:
    return hashlib.blake2b(event.event_id.encode(), digest_size=ID_BYTES).digest()
