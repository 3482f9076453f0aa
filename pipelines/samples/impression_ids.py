"""The impression id of an exposure: that of its row in `impressions`, else a hash of user, live and moment."""

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.visits import Ints
from pipelines.tables.columns import Columns, to_numpy
from pipelines.tables.days import day_name
from pipelines.tables.storage import Storage

_KEY = ("user_id", "live_id", "ts_ms")
_DAY_MS = 86_400_000
_ODD = tuple(np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SHIFTS = tuple(np.uint64(shift) for shift in (30, 27, 31))
_63_BITS = np.uint64(2**63 - 1)


class ImpressionIds:
    """Looks ids up in the days of `impressions` that there are; memory is the rows of one batch's moments."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._days = set(storage.days("impressions"))

    def __call__(self, exposures: Columns) -> Ints:
        """Ids of exposures with user_id, live_id and ts_ms, [E] -> [E]."""
        ids = hashed(*(exposures[name] for name in _KEY))
        days = exposures["ts_ms"] // _DAY_MS
        for number in np.unique(days):
            if (day := day_name(int(number))) in self._days:
                rows = np.flatnonzero(days == number)
                ids[rows] = self._looked_up(day, {name: exposures[name][rows] for name in _KEY}, ids[rows])
        return ids

    def _looked_up(self, day: str, exposures: Columns, hashes: Ints) -> Ints:
        """The id of the row with the same key, the least of several; the hash where there is none."""
        ts_ms = pc.field("ts_ms")
        within = (ts_ms >= int(exposures["ts_ms"].min())) & (ts_ms <= int(exposures["ts_ms"].max()))
        shown = to_numpy(self._storage.read("impressions", day, ["impression_id", *_KEY], within))
        if not len(shown["ts_ms"]):
            return hashes
        shown_hashes = hashed(*(shown[name] for name in _KEY))
        order = np.lexsort((shown["impression_id"], shown_hashes))
        at = order[np.minimum(np.searchsorted(shown_hashes, hashes, sorter=order), len(order) - 1)]
        is_same = np.all([shown[name][at] == exposures[name] for name in _KEY], axis=0)
        return np.where(is_same, shown["impression_id"][at], hashes)


def hashed(user_id: Ints, live_id: Ints, ts_ms: Ints) -> Ints:
    """63 bits, the same on every machine: each number in turn is added and mixed as SplitMix64 does, [E] -> [E]."""
    state = np.zeros(len(ts_ms), np.uint64)
    for numbers in (user_id, live_id, ts_ms):
        state = _mixed(state * _ODD[1] + numbers.astype(np.uint64) + _ODD[0])
    return (state & _63_BITS).astype(np.int64)


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> _SHIFTS[0])) * _ODD[1]
    state = (state ^ (state >> _SHIFTS[1])) * _ODD[2]
    return state ^ (state >> _SHIFTS[2])
