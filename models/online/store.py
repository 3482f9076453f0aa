"""The interface of the online store, and what goes into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from models.online.lives import LiveState, LiveUpdate, OnAir
from models.online.user_row import Views
from models.visits import Bools, Columns

ID_BYTES = 16
"""Of an event's id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventBatch:
    """Events to be taken in at once."""

    events: Columns
    """Columns of models/visits.py, [E]. `value` of an exit is seconds watched; NaN = the time since the exposure."""
    ids: Sequence[bytes] | None = None
    """Of each event, ID_BYTES each, by which one that comes again is known. None in a bulk load, which `mark` makes
    repeatable: ids are then not remembered, and lives not counted."""
    mark: tuple[str, int] | None = None
    """A name and how far its load has come with this batch."""

    def __len__(self) -> int:
        return len(self.events["ts_ms"])


class OnlineStore(Protocol):
    """Users' newest views, lives, and the ids of events. Safe to call from several threads and processes at once."""

    def views(self, user_ids: Sequence[int]) -> list[Views]:
        """Views of each user. Raises StoreError."""

    def apply(self, batch: EventBatch, now_ms: int) -> Bools:
        """Takes events in; which of them are new, by their ids, [E]. What it returned for is not lost when this process
        dies. Raises StoreError, and then none may have been taken in, or some."""

    def marked(self, name: str) -> int | None:
        """How far a load has come. Raises StoreError."""

    def tell(self, updates: Sequence[LiveUpdate], now_ms: int) -> None:
        """Takes in what is told of lives. Raises StoreError."""

    def lives(self, live_ids: Sequence[int]) -> list[LiveState | None]:
        """State of each live, None where nothing is known. Raises StoreError."""

    def on_air(self, ts_ms: int, most: int) -> OnAir:
        """Lives that are over after `ts_ms`, also those that begin later; at most `most`, those over soonest. Raises
        StoreError."""

    def ended(self, since_ms: int, until_ms: int, most: int) -> OnAir:
        """Lives that are over after `since_ms` and by `until_ms`; at most `most`, those over last. Raises
        StoreError."""

    def close(self) -> None:
        """Lets go of files and connections."""
