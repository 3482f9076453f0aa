"""What was on screen, in a bank: of each author the codes of the newest segment that was known at the bank's moment.

Tables of codes are those of models.ON_SCREEN. Codes of what users saw at their clicks lie beside the histories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Screen:
    """One table of codes as of the bank's moment; A authors had a segment in the days before it."""

    codebook: str
    """Its version: codes of two never mix."""
    clusters: tuple[int, ...]
    """[J], codes of each level."""
    delay_ms: int
    """From a segment's end until its codes are known."""
    author_ids: Array
    """[A] int64, ascending, unique."""
    live_ids: Array
    """[A] int64, the live of each one's newest segment."""
    end_ts_ms: Array
    """[A] int64, that segment's end."""
    codes: Array
    """[A, J] int32."""

    def at(self, author_ids: Array, ts_ms: Array | int, live_ids: Array | None = None) -> Array:
        """Codes [n, J] of authors [n] at moments, NONE where the newest segment was not known yet, or there is none.

        With `live_ids` only segments of these lives count.
        """
        codes = np.full((len(author_ids), len(self.clusters)), NONE, CODES)
        if not len(self.author_ids):
            return codes
        place = np.searchsorted(self.author_ids, author_ids).clip(max=len(self.author_ids) - 1)
        is_known = (self.author_ids[place] == author_ids) & (self.end_ts_ms[place] + self.delay_ms <= ts_ms)
        if live_ids is not None:
            is_known &= np.isin(self.live_ids[place], live_ids)
        codes[is_known] = self.codes[place[is_known]]
        return codes

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


def check(subject: str, screen: Screen, history: Array, is_item: Array, newest_ts_ms: int) -> None:
    """Looks at every row: history [U, S, J], `is_item` [U, S] where there is a click. Raises ArtifactError."""
    if not (screen.author_ids[1:] > screen.author_ids[:-1]).all():
        raise ArtifactError(f"{subject}: wanted authors ascending and unique; {_AGAIN}")
    latest = int(screen.end_ts_ms.max(initial=0)) + screen.delay_ms
    if screen.end_ts_ms.min(initial=0) < 0 or latest > newest_ts_ms + TOLERANCE_MS:
        raise ArtifactError(
            f"{subject}: wanted segments that end from 1970 to {newest_ts_ms - screen.delay_ms}, got "
            f"{screen.end_ts_ms.min(initial=0)} to {screen.end_ts_ms.max(initial=0)}; {_AGAIN}"
        )
    _check_codes(subject, screen.clusters, screen.codes, 0)
    for start in range(0, len(history), _ROWS):
        part = slice(start, start + _ROWS)
        _check_codes(f"{subject} of clicks", screen.clusters, history[part], NONE)
        if (history[part][~is_item[part]] != NONE).any():
            raise ArtifactError(f"{subject}: wanted codes where there is a click alone, got some of padding; {_AGAIN}")


def _check_codes(subject: str, clusters: tuple[int, ...], codes: Array, least: int) -> None:
    """codes [..., J]."""
    if not codes.size:
        return
    is_none = codes == NONE
    if (codes < least).any() or (codes >= clusters).any() or (is_none.any(axis=-1) != is_none.all(axis=-1)).any():
        every = codes.reshape(-1, len(clusters))
        raise ArtifactError(
            f"{subject}: wanted codes from 0 of levels of {', '.join(map(str, clusters))}"
            f"{' or none at all' if least == NONE else ''}, got {every.min(axis=0).tolist()} to "
            f"{every.max(axis=0).tolist()}; {_AGAIN}"
        )


def _file(table: str, name: str) -> str:
    return f"screen_{table}_{name}.npy"
