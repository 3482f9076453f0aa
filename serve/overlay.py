"""Rows that lie over a bank's own: what deltas brought, in memory, while the bank stays where it is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

NOT_OVER = -1
_LEAST_ROOM = 1024
_BLOCK_ROWS = 65_536


@dataclass(slots=True, eq=False)
class _Room:
    """Arrays that are written to behind what is used of them alone, so that all overlays that share them stay."""

    arrays: dict[str, Array]
    """By source: [capacity, ...]."""
    capacity: int
    used: int = 0

    @classmethod
    def like(cls, states: Mapping[str, Array], capacity: int) -> _Room:
        arrays = {name: np.empty((capacity, *state.shape[1:]), state.dtype) for name, state in states.items()}
        return cls(arrays=arrays, capacity=capacity)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Overlay:
    """Immutable: `with_rows` gives the next one, which shares the memory of this one."""

    slot: npt.NDArray[np.int32]
    """[N+1], place of each row in `arrays`; NOT_OVER where the bank's own row counts."""
    arrays: Mapping[str, Array]
    """By source: [capacity, ...]; only places that `slot` names hold something."""
    _room: _Room

    @classmethod
    def empty(cls, states: Mapping[str, Array], rows: int) -> Overlay:
        """Over a bank of N + 1 rows whose states are of these types and shapes [n, ...]."""
        room = _Room.like(states, 0)
        return cls(slot=np.full(rows, NOT_OVER, np.int32), arrays=room.arrays, _room=room)

    def with_rows(self, rows: Rows, states: Mapping[str, Array]) -> Overlay:
        """With new states [R, ...] of rows [R], each once. One caller at a time."""
        slot, room = self.slot.copy(), self._room
        if room.used + len(rows) > room.capacity:
            room = self._moved(slot, len(rows))
        places = np.arange(room.used, room.used + len(rows), dtype=np.int32)
        for name, array in room.arrays.items():
            array[room.used : room.used + len(rows)] = states[name]
        room.used += len(rows)
        slot[rows] = places
        return Overlay(slot=slot, arrays=room.arrays, _room=room)

    def _moved(self, slot: npt.NDArray[np.int32], more: int) -> _Room:
        """New arrays of twice the room that is needed, with what still counts; `slot` follows."""
        rows = self.rows()
        room = _Room.like(self.arrays, max(_LEAST_ROOM, 2 * (len(rows) + more)))
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slot[rows[start : start + _BLOCK_ROWS]]
            for name, array in room.arrays.items():
                array[start : start + len(block)] = self.arrays[name][block]
        slot[rows] = np.arange(len(rows), dtype=np.int32)
        room.used = len(rows)
        return room

    def rows(self) -> Rows:
        """Rows that are over the bank's own, ascending."""
        return np.flatnonzero(self.slot != NOT_OVER)

    def gather(self, states: Mapping[str, Array], rows: Rows) -> dict[str, Array]:
        """Rows [n] of the bank's own `states` [N+1, ...] and of this over them -> [n, ...] by source."""
        slot = self.slot[rows]
        over = np.flatnonzero(slot != NOT_OVER)
        if not len(over):
            return taken(states, rows)
        # Row 0 stands in for those over it: it is in memory, while theirs may not be read from disk ever again.
        below = rows.copy()
        below[over] = 0
        found = taken(states, below)
        for name, new in taken(self.arrays, slot[over]).items():
            found[name][over] = new
        return found


def taken(states: Mapping[str, Array], rows: npt.NDArray[np.integer[Any]]) -> dict[str, Array]:
    """Rows [n], all within the states [N+1, ...], copied: `take` is faster than indexing, twice so where it need not
    raise for a row outside before it has copied any."""
    return {name: state.take(rows, axis=0, mode="clip") for name, state in states.items()}
