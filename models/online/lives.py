"""A live's state in the store, and which lives are on air at a moment."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from models.online.errors import RowError
from models.visits import EVENT_KINDS, Bools, Ints

FORMAT = 1
HEAD = struct.Struct("<Bq")
"""Format, when written."""
_BODY = struct.Struct(f"<{4 + len(EVENT_KINDS)}q")
_NONE = -(2**63)
"""Stands for what nobody told: no moment, and no id that a client may give to an author of a live."""


def written_ms(row: bytes) -> int:
    """When a row was written."""
    return int(HEAD.unpack_from(row)[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveUpdate:
    """What a platform tells of a live. What is None stays as it was; what is told again replaces it."""

    live_id: int
    author_id: int
    start_ms: int | None = None
    end_ms: int | None = None
    """First moment at which it is not on air any more."""
    segment: int | None = None
    """Its newest segment; an older one than is known changes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveState:
    """What is known of a live; None = nobody told."""

    author_id: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    newest_segment: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    """Events of each of EVENT_KINDS, those that came by POST /events; kinds that never came may be missing."""

    def after(self, update: LiveUpdate) -> LiveState:
        """With what was told."""
        segments = [each for each in (self.newest_segment, update.segment) if each is not None]
        return replace(
            self,
            author_id=update.author_id,
            start_ms=self.start_ms if update.start_ms is None else update.start_ms,
            end_ms=self.end_ms if update.end_ms is None else update.end_ms,
            newest_segment=max(segments, default=None),
        )

    def counted(self, counts: Mapping[str, int]) -> LiveState:
        """With so many more events of each kind."""
        return replace(self, counters={**self.counters, **{k: self.counters.get(k, 0) + n for k, n in counts.items()}})

    def over_ms(self, max_live_ms: int) -> int | None:
        """First moment after it: its end, or so long after its start; None of a live whose start nobody told."""
        if self.start_ms is None:
            return None
        return self.start_ms + max_live_ms if self.end_ms is None else self.end_ms

    def is_on_air(self, ts_ms: int, max_live_ms: int) -> bool:
        """Whether start <= t < end."""
        over_ms = self.over_ms(max_live_ms)
        return self.start_ms is not None and over_ms is not None and self.start_ms <= ts_ms < over_ms

    def to_bytes(self, now_ms: int) -> bytes:
        """A row of the store."""
        told = [_NONE if each is None else each for each in self._told()]
        counts = [self.counters.get(kind, 0) for kind in EVENT_KINDS]
        return HEAD.pack(FORMAT, now_ms) + _BODY.pack(*told, *counts)

    @classmethod
    def of(cls, row: bytes) -> Self:
        """From such a row. Raises RowError."""
        if len(row) != HEAD.size + _BODY.size or row[0] != FORMAT:
            raise RowError(
                f"row of a live: wanted {HEAD.size + _BODY.size} bytes of format {FORMAT}, got {len(row)}; empty the "
                "store and load it again"
            )
        numbers = _BODY.unpack_from(row, HEAD.size)
        author_id, start_ms, end_ms, segment = (None if each == _NONE else each for each in numbers[:4])
        counters = dict(zip(EVENT_KINDS, numbers[4:], strict=True))
        return cls(
            author_id=author_id, start_ms=start_ms, end_ms=end_ms, newest_segment=segment, counters=counters
        )  # fmt: skip

    def _told(self) -> tuple[int | None, ...]:
        return self.author_id, self.start_ms, self.end_ms, self.newest_segment


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OnAir:
    """Lives by their times; arrays are [n]."""

    live_id: Ints
    author_id: Ints
    start_ms: Ints
    over_ms: Ints

    def __len__(self) -> int:
        return len(self.live_id)

    @classmethod
    def of(cls, rows: list[tuple[int, int, int, int]]) -> Self:
        """From (live, author, start, over)."""
        columns = np.array(rows, np.int64).reshape(-1, 4)
        live_id, author_id, start_ms, over_ms = (np.ascontiguousarray(column) for column in columns.T)
        return cls(live_id=live_id, author_id=author_id, start_ms=start_ms, over_ms=over_ms)

    def at(self, ts_ms: int) -> Bools:
        """Which are on air: start <= t < end."""
        on_air: Bools = (self.start_ms <= ts_ms) & (ts_ms < self.over_ms)
        return on_air
