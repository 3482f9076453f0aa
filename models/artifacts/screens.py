"""What was on screen, as codes: segments of authors, and who is told which at a moment.

A bank holds of each author the newest one that was known at its moment, and what was seen at each click of the
histories; the artifact "screen.<table>" (live_screen.py) those that came since. Tables are those of models.ON_SCREEN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models import ON_SCREEN
from models.artifacts.bank_checks import TOLERANCE_MS
from models.artifacts.manifest import ArtifactError
from models.history import HISTORY_PAD

NONE = HISTORY_PAD
"""Stands for a code where nothing was known."""
CODES = np.int32

_COLUMNS: dict[str, tuple[type[np.generic], int]] = {
    "author_ids": (np.int64, 1),
    "live_ids": (np.int64, 1),
    "end_ts_ms": (np.int64, 1),
    "codes": (CODES, 2),
}
_ROWS = 65_536
_AGAIN = "publish it again"

Array = npt.NDArray[Any]
ReadArray = Callable[[str, type[np.generic], int], Array]
"""(file name, type, dimensions) -> that array of the bank's folder."""
OfLives = Callable[[Array, Array], Array]
"""(which [m] of those asked for, lives [m]) -> whether a segment of that live counts for it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Screen:
    """Segments of one table of codes, S of them; of an author there may be several."""

    codebook: str
    """Its version: codes of two never mix."""
    clusters: tuple[int, ...]
    """[J], codes of each level."""
    delay_ms: int
    """From a segment's end until its codes are known."""
    author_ids: Array
    """[S] int64, ascending."""
    live_ids: Array
    """[S] int64."""
    end_ts_ms: Array
    """[S] int64, ascending for each author."""
    codes: Array
    """[S, J] int32."""
    newest_ms: int = field(init=False)
    """When the newest segment ended, ms since 1970; 0 without any."""

    def __post_init__(self) -> None:
        """Reads the ends once."""
        object.__setattr__(self, "newest_ms", int(self.end_ts_ms.max(initial=0)))

    def rows_at(self, author_ids: Array, ts_ms: Array | int) -> Array:
        """Rows [n] of the newest segments of authors [n] that were known at moments, -1 where none was."""
        first = low = np.searchsorted(self.author_ids, author_ids, "left")
        high = np.searchsorted(self.author_ids, author_ids, "right")
        known_ms = np.asarray(ts_ms) - self.delay_ms
        while (low < high).any():  # halves each author's own rows; a bank has one of each
            middle = (low + high) // 2
            is_known = (low < high) & (self.end_ts_ms.take(middle, mode="clip") <= known_ms)
            low, high = np.where(is_known, middle + 1, low), np.where(is_known, high, middle)
        return np.where(low > first, low - 1, -1)

    @property
    def meaning(self) -> tuple[str, tuple[int, ...], int]:
        """What two must have in common to be read together: their codes mean the same, and are known as soon."""
        return self.codebook, self.clusters, self.delay_ms

    @property
    def head(self) -> dict[str, Any]:
        """What bank.json says of it."""
        return {
            "codebook": self.codebook,
            "clusters": list(self.clusters),
            "delay_ms": self.delay_ms,
            "authors": len(self.author_ids),
        }

    def write(self, folder: Path, table: str) -> None:
        """Puts its files into the folder of a bank."""
        for name in _COLUMNS:
            np.save(folder / _file(table, name), getattr(self, name), allow_pickle=False)

    @classmethod
    def read(cls, subject: str, table: str, head: Mapping[str, Any], array: ReadArray) -> Screen:
        """What `write` left, of a head that `parsed_heads` gave. Raises ArtifactError where the files do not fit it."""
        columns: dict[str, Any] = {name: array(_file(table, name), *kind) for name, kind in _COLUMNS.items()}
        for name, column in columns.items():
            wanted = (head["authors"], *([len(head["clusters"])] if column.ndim == 2 else []))
            if column.shape != wanted:
                raise ArtifactError(f"{subject}, {_file(table, name)}: got {column.shape}, wanted {wanted}; {_AGAIN}")
        of = {name: head[name] for name in ("codebook", "clusters", "delay_ms")}
        return cls(**of, **columns)


def codes_at(
    screens: Sequence[Screen], author_ids: Array, ts_ms: Array | int, of_lives: OfLives | None = None
) -> Array:
    """Codes [n, J] of authors [n] at moments: of the newest segment that any of `screens`, of one codebook, knew then.

    NONE where there was none. `of_lives` says which segments count.
    """
    codes = np.full((len(author_ids), len(screens[0].clusters)), NONE, CODES)
    newest_ms = np.full(len(author_ids), -1)
    for screen in screens:
        rows = screen.rows_at(author_ids, ts_ms)
        places = np.flatnonzero(rows >= 0)
        rows = rows[places]
        while of_lives is not None:  # back to the newest one that counts
            wrong = np.flatnonzero(~of_lives(places, screen.live_ids[rows]))
            if not len(wrong):
                break
            before = rows[wrong] - 1
            is_own = (before >= 0) & (screen.author_ids[before] == screen.author_ids[rows[wrong]])
            rows[wrong[is_own]] = before[is_own]
            places, rows = np.delete(places, wrong[~is_own]), np.delete(rows, wrong[~is_own])
        is_newer = screen.end_ts_ms[rows] > newest_ms[places]
        places, rows = places[is_newer], rows[is_newer]
        codes[places], newest_ms[places] = screen.codes[rows], screen.end_ts_ms[rows]
    return codes


def files_of(table: str) -> list[str]:
    """Names of the files of a table."""
    return [_file(table, name) for name in _COLUMNS]


def parsed_heads(heads: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What bank.json says of its tables of codes. Raises KeyError, TypeError or ValueError for a damaged one."""
    if unknown := set(heads) - set(ON_SCREEN):
        raise ValueError(f"wanted tables of codes of {', '.join(ON_SCREEN)}, got {', '.join(sorted(unknown))}")
    parsed = {}
    for table, head in heads.items():
        clusters = tuple(int(size) for size in head["clusters"])
        numbers = {name: int(head[name]) for name in ("delay_ms", "authors")}
        if not clusters or min(clusters) < 1 or min(numbers.values()) < 0:
            raise ValueError(f"{table}: wanted levels of 1 code or more, a delay and authors of 0 or more, got {head}")
        parsed[table] = {"codebook": str(head["codebook"]), "clusters": clusters, **numbers}
    return parsed


def check(subject: str, screen: Screen, newest_ts_ms: int, again: str = _AGAIN) -> None:
    """Looks at every segment, none of which may be known later than `newest_ts_ms`.

    Raises ArtifactError, in which `again` says what to do.
    """
    authors, ends = screen.author_ids, screen.end_ts_ms
    is_next = (authors[1:] > authors[:-1]) | ((authors[1:] == authors[:-1]) & (ends[1:] > ends[:-1]))
    if not is_next.all():
        raise ArtifactError(f"{subject}: wanted segments ascending and unique by author and end; {again}")
    if ends.min(initial=0) < 0 or screen.newest_ms + screen.delay_ms > newest_ts_ms + TOLERANCE_MS:
        raise ArtifactError(
            f"{subject}: wanted segments that end from 1970 to {newest_ts_ms - screen.delay_ms}, got "
            f"{ends.min(initial=0)} to {screen.newest_ms}; {again}"
        )
    _check_codes(subject, screen.clusters, screen.codes, 0, again)


def check_clicks(subject: str, screen: Screen, history: Array, is_item: Array) -> None:
    """Looks at codes [U, S, J] of histories that have a click where `is_item` [U, S]. Raises ArtifactError."""
    for start in range(0, len(history), _ROWS):
        part = slice(start, start + _ROWS)
        _check_codes(f"{subject} of clicks", screen.clusters, history[part], NONE, _AGAIN)
        if (history[part][~is_item[part]] != NONE).any():
            raise ArtifactError(f"{subject}: wanted codes where there is a click alone, got some of padding; {_AGAIN}")


def _check_codes(subject: str, clusters: tuple[int, ...], codes: Array, least: int, again: str) -> None:
    """codes [..., J]."""
    if not codes.size:
        return
    is_none = codes == NONE
    if (codes < least).any() or (codes >= clusters).any() or (is_none.any(axis=-1) != is_none.all(axis=-1)).any():
        every = codes.reshape(-1, len(clusters))
        raise ArtifactError(
            f"{subject}: wanted codes from 0 of levels of {', '.join(map(str, clusters))}"
            f"{' or none at all' if least == NONE else ''}, got {every.min(axis=0).tolist()} to "
            f"{every.max(axis=0).tolist()}; {again}"
        )


def _file(table: str, name: str) -> str:
    return f"screen_{table}_{name}.npy"
