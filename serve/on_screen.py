"""Codes of what was on screen, of one request: of its candidates now, and at each click of its history.

From the bank alone, as of its moment: a user's published clicks have the codes that they saw; candidates, and clicks
that were told since, have those of their author's newest segment, where it had ended by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from models.artifacts.bank import Array, Histories
from models.artifacts.screens import Screen
from serve.online import Clicks, Filled


class Seen(NamedTuple):
    """Codes of one table."""

    target: Array
    """[C, J] int32, of the candidates."""
    clicks: Array
    """[n, J] int32, of the clicks of the request."""


def seen(screens: Mapping[str, Screen], histories: Histories, filled: Filled, ts_ms: int) -> dict[str, Seen]:
    """By table of the bank, what a request at `ts_ms` is told."""
    authors, user_id = np.array(filled.candidates, np.int64), filled.request.user_id
    lives = None if filled.lives is None else np.array([live.live_id for live in filled.lives.lives], np.int64)
    return {
        table: Seen(screen.at(authors, ts_ms, lives), _of_clicks(screen, histories, table, user_id, filled.clicks))
        for table, screen in screens.items()
    }


def _of_clicks(screen: Screen, histories: Histories, table: str, user_id: int, clicks: Clicks) -> Array:
    """[n, J]; a click is known by author and moment, as where clicks are joined (serve/online.py)."""
    authors, times, _ = clicks
    codes = screen.at(authors, times)
    published = histories.of_user(user_id)
    place = {key: row for row, key in enumerate(zip(published[0].tolist(), published[1].tolist(), strict=True))}
    rows = np.array([place.get(key, -1) for key in zip(authors.tolist(), times.tolist(), strict=True)], np.int64)
    codes[rows >= 0] = histories.seen_by(user_id, table)[rows[rows >= 0]]
    return codes
