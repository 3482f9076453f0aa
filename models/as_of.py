"""What is known of a live at a moment: the point-in-time rule of segments, for training and serving alike.

Letters: S segments, M moments, L the newest segments that are asked for.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def newest_segments(
    live_id: Ints, end_ts_ms: Ints, at_live_id: Ints, at_ts_ms: Ints, *, delay_ms: int = 0, count: int = 1
) -> Ints:
    """Rows of the newest segments that are known of lives at moments.

    A segment is known from its end on, and `delay_ms` later where it takes so long to be read: a live's newest segment
    at t is the last one with `end_ts_ms + delay_ms <= t`. The segment that is still going on at t is never among them.

    Args:
        live_id, end_ts_ms: of the segments, [S], in any order; of two that end at once the later row is the newer one.
        at_live_id, at_ts_ms: lives and moments, [M].
        delay_ms: from a segment's end until it is known, at least 0.
        count: L.

    Returns: rows of the segments, [M, L], newest last, -1 on the left where fewer are known.
    Raises ValueError for columns of unequal lengths, a negative delay or a count below 1.
    """
    if len(live_id) != len(end_ts_ms) or len(at_live_id) != len(at_ts_ms):
        raise ValueError(
            f"wanted a live and a time of each segment and moment, got {len(live_id)} lives and {len(end_ts_ms)} ends, "
            f"{len(at_live_id)} lives and {len(at_ts_ms)} moments"
        )
    if delay_ms < 0 or count < 1:
        raise ValueError(f"wanted delay_ms >= 0 and count >= 1, got {delay_ms} and {count}")
    segments, moments = len(live_id), len(at_live_id)
    lives = np.concatenate([np.asarray(live_id, np.int64), np.asarray(at_live_id, np.int64)])
    known_ms = np.concatenate([np.asarray(end_ts_ms, np.int64) + delay_ms, np.asarray(at_ts_ms, np.int64)])
    is_moment = np.arange(segments + moments) >= segments
    order = np.lexsort((is_moment, known_ms, lives))  # what is known at the moment itself stands before it
    ordered = order[~is_moment[order]]
    before = np.empty(moments, np.int64)
    before[order[is_moment[order]] - segments] = np.cumsum(~is_moment[order])[is_moment[order]]
    places = before[:, None] + np.arange(-count, 0)
    if not segments:
        return np.full((moments, count), -1, np.int64)
    rows = ordered[np.maximum(places, 0)]
    is_own = (places >= 0) & (lives[rows] == lives[segments:, None])
    return np.where(is_own, rows, -1)
