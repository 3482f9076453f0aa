"""What one look at a table's folder tells: which days hold rows, and whether anything in them has changed since.

A look is one call to the filesystem and opens no file, however many days there are. What our own writes leave is named
after its content, so that names and sizes are enough to notice a change; what a user brought is told by its time too.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property

from pyarrow import fs as pafs

MARKER = "_COMMIT.json"
EMPTY = "_EMPTY"
"""Stands beside the marker of a day that was committed without rows, so that its marker need not be opened to know."""
UNCOMMITTED = "part-run-"
"""How the files that we write begin; without a marker they are an unfinished write."""


class Listing:
    """The days of one table as they stood at one moment."""

    def __init__(
        self, base: str, infos: Iterable[pafs.FileInfo], is_empty: Callable[[str], bool] = lambda day: True
    ) -> None:
        """Args: `infos` is all below `base`; `is_empty` reads the marker of a day that has EMPTY beside it."""
        self._files: dict[str, list[pafs.FileInfo]] = {}
        for info in infos:
            folder, _, name = info.path[len(base) + 1 :].partition("/")
            if info.type == pafs.FileType.File and folder.startswith("day=") and name and "/" not in name:
                self._files.setdefault(folder.removeprefix("day="), []).append(info)
        self.days = [day for day in sorted(self._files) if self._holds(day, is_empty)]
        """Days that hold rows, oldest first."""

    def _holds(self, day: str, is_empty: Callable[[str], bool]) -> bool:
        infos = self._files[day]
        if not _is_committed(infos):
            return any(map(_is_brought, infos))
        flagged = any(info.base_name == EMPTY for info in infos)
        return any(info.base_name.endswith(".parquet") for info in infos) and not (flagged and is_empty(day))

    def up_to(self, *, before: str | None = None, until: str | None = None) -> list[str]:
        """The days before `before`, and up to and including `until`; None = all."""
        return [d for d in self.days if (before is None or d < before) and (until is None or d <= until)]

    def stamp(self, day: str) -> str:
        """Hash of what a day's files are, "" for a day without files: equal stamps, equal rows."""
        return _hash(repr(_state(self._files[day]))) if day in self._files else ""

    def history(self, *, before: str | None = None, until: str | None = None) -> str:
        """Hash of the stamps of all days before `before`, and up to and including `until`; "" where there are none."""
        days = [d for d in self._chain if (before is None or d < before) and (until is None or d <= until)]
        return self._chain[days[-1]] if days else ""

    @cached_property
    def _chain(self) -> dict[str, str]:
        """By day, the hash of that day and all before it; a folder that an unfinished write left is no day."""
        so_far, chain = hashlib.sha256(), {}
        for day, infos in sorted(self._files.items()):
            if _is_committed(infos) or any(map(_is_brought, infos)):
                so_far.update(repr((day, _state(infos))).encode())
                chain[day] = so_far.hexdigest()[:16]
        return chain


def _is_committed(infos: list[pafs.FileInfo]) -> bool:
    return any(info.base_name == MARKER for info in infos)


def _is_brought(info: pafs.FileInfo) -> bool:
    """True for rows that a user put there."""
    return info.base_name.endswith(".parquet") and not info.base_name.startswith(UNCOMMITTED)


def _state(infos: list[pafs.FileInfo]) -> list[tuple[str, int, int]]:
    """What tells a day's content: a marker by its being there, our own files by name and size, others by time too."""
    return sorted(
        (MARKER, 0, 0)
        if info.base_name == MARKER
        else (info.base_name, info.size, info.mtime_ns if _is_brought(info) else 0)
        for info in infos
        if info.base_name == MARKER or info.base_name.endswith(".parquet")
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
