"""Seals: what this node has looked at, told again by each file's size, time and inode instead of its content.

A version is never written over, so that what was verified once stays what it was; whoever writes to a file all the same
changes one of the three, and the seal is broken.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_KEPT = 8
"""Seals that stay, those used last."""

Files = Mapping[Path, Sequence[str]]
"""Folder -> names of files in it."""


class Seals:
    """Seals by name in a folder that only this user can write to; all processes of the node share them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)

    def holds(self, name: str) -> bool:
        """Whether a seal was put, and every file is as it was then."""
        try:
            sealed = json.loads((self._folder / f"{name}.json").read_bytes())
            now = _stamps({Path(folder): list(files) for folder, files in sealed.items()})
        except (FileNotFoundError, ValueError):
            return False
        return bool(now == sealed)

    def put(self, name: str, files: Files) -> None:
        """Seals files that were looked at under the lock. Raises FileNotFoundError for one that is missing."""
        target = self._folder / f"{name}.json"
        fresh = target.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(_stamps(files), indent=1), encoding="utf-8")
        os.replace(fresh, target)
        seals = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in seals[:-_KEPT]:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by one process of the node at a time; the kernel lets it go when that one dies."""
        with (self._folder / f"{name}.lock").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield


def _stamps(files: Files) -> dict[str, dict[str, list[int]]]:
    return {str(folder): {name: _stamp(folder / name) for name in names} for folder, names in files.items()}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
