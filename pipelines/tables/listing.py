"""What one look at a table's folder tells: which days hold rows, and whether anything in them has changed since.

A look is one call to the filesystem and opens no file, however many days there are. The names of what our own writes
leave end in a hash of the content, so that names are enough to notice a change; what a user brought is told by size and
time.
"""

import hashlib
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from pyarrow import fs as pafs

from pipelines.tables.contract import ContractError
from pipelines.tables.days import is_day

MARKER = "_COMMIT.json"
EMPTY = "_EMPTY"
"""Stands beside the marker of a day that was committed without rows, so that its marker need not be opened to know."""
UNCOMMITTED = "part-run-"
"""How the files that we write begin; without a marker they are an unfinished write."""
_ROWS = ".parquet"
_DAY = "day="
_HIDDEN = ("_", ".")
Files = Mapping[str, pafs.FileInfo]
"""The files of one day, by name."""


class Listing:
    """The days of one table as they stood at one moment."""

    def __init__(self, base: str, infos: Iterable[pafs.FileInfo], is_empty: Callable[[str], bool]) -> None:
        """Args: `infos` is all below `base`; `is_empty` reads the marker of a day that has EMPTY beside it.

        Raises ContractError where rows lie anywhere but right in a day's folder: no job would read them.
        """
        by_day: dict[str, dict[str, pafs.FileInfo]] = {}
        strange: set[str] = set()
        for info in infos:
            if info.type != pafs.FileType.File:
                continue
            folder, _, name = info.path[len(base) + 1 :].rpartition("/")
            if folder.startswith(_DAY) and "/" not in folder:
                by_day.setdefault(folder.removeprefix(_DAY), {})[name] = info
            elif is_brought(name) and not _is_hidden(folder):
                strange.add(folder)
        for day, files in by_day.items():
            if not is_day(day) and any(map(is_brought, files)):
                strange.add(f"{_DAY}{day}")
        if strange:
            raise _strange_folders(base.rpartition("/")[2], sorted(strange))
        self._files: dict[str, Files] = {day: by_day[day] for day in sorted(by_day)}
        self.days = [day for day in self._files if self._holds(day, is_empty)]
        """Days that hold rows, oldest first."""

    def _holds(self, day: str, is_empty: Callable[[str], bool]) -> bool:
        files = self._files[day]
        if MARKER not in files:
            return any(map(is_brought, files))
        return any(name.endswith(_ROWS) for name in files) and not (EMPTY in files and is_empty(day))

    def up_to(self, *, before: str | None = None, until: str | None = None) -> list[str]:
        """The days before `before`, and up to and including `until`; None = all."""
        return [d for d in self.days if (before is None or d < before) and (until is None or d <= until)]

    def stamp(self, day: str) -> str:
        """Hash of what a day's files are, "" for a day without files: equal stamps, equal rows."""
        return hashlib.sha256(_state(self._files[day]).encode()).hexdigest()[:16] if day in self._files else ""

    def history(self, *, before: str | None = None, until: str | None = None) -> str:
        """Hash of the stamps of all days before `before`, and up to and including `until`; "" where there are none."""
        days, last = list(self._chain), len(self._chain)
        if before is not None:
            last = bisect_left(days, before)
        if until is not None:
            last = min(last, bisect_right(days, until))
        return self._chain[days[last - 1]] if last else ""

    @cached_property
    def _chain(self) -> dict[str, str]:
        """By day, the hash of that day and all before it; a folder that an unfinished write left is no day."""
        so_far, chain = hashlib.sha256(), {}
        for day, files in self._files.items():
            if MARKER in files or any(map(is_brought, files)):
                so_far.update(f"{day} {_state(files)}\n".encode())
                chain[day] = so_far.hexdigest()[:16]
        return chain


def is_brought(name: str) -> bool:
    """True for the name of a file of rows that a user put there. What `_` or `.` begins is none, as for Spark."""
    return name.endswith(_ROWS) and not name.startswith((UNCOMMITTED, *_HIDDEN))


def _is_hidden(folder: str) -> bool:
    return any(part.startswith(_HIDDEN) for part in folder.split("/"))


def _strange_folders(table: str, folders: list[str]) -> ContractError:
    first, others = folders[0], f" and {len(folders) - 1} other(s)" if len(folders) > 1 else ""
    remedy = "rename it" if first and "/" not in first else "move its files into such folders"
    return ContractError(
        f"table {table}: wanted folders named day=YYYY-MM-DD, got {first or 'files that lie in none'}; {remedy}{others}"
    )


def is_part(name: str) -> bool:
    """True for what our own writes leave beside the marker: parts, listed by it or not, and unfinished puts."""
    return name.startswith(UNCOMMITTED) or (name.startswith("_") and name.endswith(".tmp"))


def is_older(file: pafs.FileInfo, seconds: float) -> bool:
    """True for what was written longer ago than so many seconds."""
    return time.time_ns() - (file.mtime_ns or 0) > seconds * 10**9


def _state(files: Files) -> str:
    """What tells a day's content: that it is committed, our files by number and hash, a user's by size and time too."""
    parts = [name for name in files if name.endswith(_ROWS) or name == MARKER]
    return " ".join(sorted(content_of(files[name]) if name != MARKER else name for name in parts))


def content_of(file: pafs.FileInfo) -> str:
    """What tells a file of rows, equal for equal rows: of ours, the name without the run that wrote it."""
    name = file.base_name
    if is_brought(name):
        return f"{name!r} {file.size} {file.mtime_ns}"
    return str(name.removeprefix(UNCOMMITTED).partition("-")[2])
