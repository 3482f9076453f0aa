"""Codes of what was on screen, of one request: of its candidates now, and at each click of its history.

A user's published clicks have the codes that they saw. Candidates, and clicks that were told since, have those of the
newest segment of their live, or of their author where the live is not named, that was known at that moment: to the
bank, or to what was published since (live_screens.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.artifacts.bank import Array, Histories
from models.artifacts.screens import OfLives, Screen, codes_at
from serve.online import Clicks, Filled

Beside = Callable[[Mapping[str, Screen]], Mapping[str, Sequence[Screen]]]
"""What a bank holds, by table -> that, and what was published since."""


class Seen(NamedTuple):
    """Codes of one table."""

    target: Array
    """[C, J] int32, of the candidates."""
    clicks: Array
    """[n, J] int32, of the clicks of the request."""


def alone(screens: Mapping[str, Screen]) -> dict[str, list[Screen]]:
    """Beside what a bank holds nothing is followed."""
    return {table: [screen] for table, screen in screens.items()}


def seen(screens: Mapping[str, Sequence[Screen]], histories: Histories, filled: Filled, ts_ms: int) -> dict[str, Seen]:
    """By table, what a request at `ts_ms` is told; `screens` as `Beside` gives them."""
    authors, user_id = np.array(filled.candidates, np.int64), filled.request.user_id
    of_lives: OfLives | None = None
    if filled.lives is not None:
        asked = np.array([live.live_id for live in filled.lives.lives], np.int64)
        of_lives = lambda _, lives: np.isin(lives, asked)  # noqa: E731
    return {
        table: Seen(codes_at(of, authors, ts_ms, of_lives), _of_clicks(of, histories, table, user_id, filled.clicks))
        for table, of in screens.items()
    }


def newest_ms(screens: Mapping[str, Sequence[Screen]]) -> int | None:
    """When the newest segment ended that is known, None without any; of several tables, of the one that knows least."""
    return min(max(screen.newest_ms for screen in of) for of in screens.values()) or None


def _of_clicks(screens: Sequence[Screen], histories: Histories, table: str, user_id: int, clicks: Clicks) -> Array:
    """[n, J]; a click is known by author and moment, as where clicks are joined (serve/online.py).

    Of its own live where that is known, as in examples, else of the author's last one.
    """
    wanted = clicks.live_ids
    codes = codes_at(
        screens,
        clicks.author_ids,
        clicks.ts_ms,
        lambda places, lives: (wanted[places] == 0) | (wanted[places] == lives),
    )
    published = histories.of_user(user_id)
    place = {key: row for row, key in enumerate(zip(published[0].tolist(), published[1].tolist(), strict=True))}
    keys = zip(clicks.author_ids.tolist(), clicks.ts_ms.tolist(), strict=True)
    rows = np.array([place.get(key, -1) for key in keys], np.int64)
    codes[rows >= 0] = histories.seen_by(user_id, table)[rows[rows >= 0]]
    return codes
