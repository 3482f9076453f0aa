"""What every row of a bank must be like: read once when it is made, and once on each node before it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.artifacts.manifest import ArtifactError
from models.artifacts.precision import as_read
from models.history import HISTORY_PAD

LARGEST = 1e6
"""Largest magnitude of a number in a state: vectors of authors are of the order of 1, weights could not read these."""
TOLERANCE_MS = 86_400_000
"""By how much a click or an anchor may be newer than the bank says that it knows: clocks differ, and time zones."""

_MS_PER_DAY = 86_400_000
_ROWS = 65_536
_NOT_FINITE = np.uint16(0x7C00)
"""Exponent of a float16 that is NaN or infinity."""
_AGAIN = "publish it again"

Array = npt.NDArray[Any]


def check_anchor_days(subject: str, anchor_day: Array, newest_ts_ms: int) -> None:
    """anchor_day [N+1] of a bank that knows what was up to `newest_ts_ms`. Raises ArtifactError for a later one."""
    newest = (newest_ts_ms + TOLERANCE_MS) // _MS_PER_DAY
    if anchor_day.max(initial=0) > newest:
        raise ArtifactError(
            f"{subject}: wanted anchor days up to {newest}, a day after all that it knows, got {anchor_day.max()}; "
            f"{_AGAIN}"
        )


def check_state(subject: str, state: Array) -> None:
    """state [N+1, ...]. Raises ArtifactError for NaN, infinity and huge numbers, and where all have the same vector."""
    if state.dtype.kind != "f":
        return
    parts = state.shape[1] if state.ndim > 2 else 1
    split = state.reshape(len(state), parts, -1)
    first, same = _bits(split[0]), np.ones(parts, dtype=np.bool_)
    for start in range(0, len(split), _ROWS):
        block = split[start : start + _ROWS]
        if not _all_fit(block):
            bad = ~(np.abs(as_read(block)) <= LARGEST).all(axis=(1, 2))
            row = start + int(np.flatnonzero(bad)[0])
            got = "NaN or infinity" if not np.isfinite(split[row]).all() else f"{np.abs(split[row]).max():.3g}"
            raise ArtifactError(
                f"{subject}: row {row} holds {got}, wanted numbers up to {LARGEST:.0e}; {_AGAIN}, or train again"
            )
        if same.any():
            same &= (_bits(block) == first).all(axis=(0, 2))
    if len(split) > 1 and same.any():
        raise ArtifactError(
            f"{subject}: vectors {np.flatnonzero(same).tolist()} are the same in all {len(split)} rows; "
            "the model has learnt no author"
        )


def _all_fit(block: Array) -> bool:
    if block.dtype == np.float16:  # none of them is above LARGEST; by their bits, as numpy counts in them slowly
        return not ((block.view(np.uint16) & _NOT_FINITE) == _NOT_FINITE).any()
    # NaN is neither above the one nor below the other.
    return bool(block.max() <= LARGEST and block.min() >= -LARGEST)


def _bits(block: Array) -> Array:
    return block.view(np.uint16) if block.dtype == np.float16 else block


def check_histories(
    subject: str, users: Array, author_ids: Array, ts_ms: Array, watch_s: Array, newest_ts_ms: int
) -> None:
    """users [U], the others [U, S], as `Histories` has them. Raises ArtifactError for what no user can have done."""
    newest_ms = newest_ts_ms + TOLERANCE_MS
    if not (users[1:] > users[:-1]).all():
        raise ArtifactError(f"{subject}: wanted users of histories ascending and unique; {_AGAIN}")
    for start in range(0, len(users), _ROWS):
        part = slice(start, start + _ROWS)
        used = author_ids[part] != HISTORY_PAD
        times, seconds = ts_ms[part], watch_s[part]
        wrong = {
            "padding on the left alone": (used[:, :-1] & ~used[:, 1:]).any(axis=1),
            "times in ms since 1970": (times < 0).any(axis=1),
            "times ascending": ((times[:, 1:] < times[:, :-1]) & used[:, :-1]).any(axis=1),
            f"times up to {newest_ms}": (times > newest_ms).any(axis=1),
            # NaN is not above or equal to anything.
            "seconds watched of 0 and more": ~((seconds >= 0) & np.isfinite(seconds)).all(axis=1),
        }
        for wanted, rows in wrong.items():
            if rows.any():
                row = int(np.flatnonzero(rows)[0])
                raise ArtifactError(
                    f"{subject}: wanted {wanted} in histories, got for user {users[start + row]}: "
                    f"times {times[row].tolist()[-5:]}, seconds {seconds[row].tolist()[-5:]}; {_AGAIN}"
                )
