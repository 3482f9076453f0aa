"""The source folder of `ingest`: which file is whose live, what lies beside it, and what is left out.

    source/<author>/<live>.mp4               one folder per author; any container of EXTENSIONS
    source/<author>/2026-01-02/<live>.mp4    folders below it are part of the live's name
    source/<author>/<live>.chat.json         beside it: chat and transcript, by the endings of beside/names.py

Names in NFC and in NFD, as Linux and macOS write an `é`, are one name. Hidden files and links are left out.
"""

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipelines.sources.beside import names
from pipelines.sources.beside.entries import unread
from pipelines.sources.rows import stable_id

EXTENSIONS = frozenset(
    f".{ending}" for ending in "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv".split()
)
"""A file that ends so is a video."""
LAYOUT = "<source>/<author>/<live>.mp4"


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One video of the source folder: one live of one author, with what lies beside it."""

    author: str
    live: str
    """Path below the author's folder without its ending, NFC."""
    root: str
    """The source folder."""
    file: str
    """The video, a path below `root`; `beside` are others, in the order in which they are tried."""
    beside: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the live in `rejections` and in the log."""
        return f"{self.author}/{self.live}"

    @property
    def ids(self) -> tuple[int, int]:
        """(author_id, live_id)."""
        return stable_id(self.author), stable_id(self.key)

    def path(self, file: str) -> str:
        """Where a file of the source folder lies."""
        return os.path.join(self.root, file)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source folder holds."""

    clips: list[Clip] = field(default_factory=list)
    """Sorted by (author_id, live_id)."""
    refused: list[dict[str, str]] = field(default_factory=list)
    """Rows of `rejections` for videos that can have no id of their own."""
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `ingest_report` for files that are not read."""


def rejected(key: str, reason: str, detail: str) -> dict[str, str]:
    """A row for pipelines.rejections."""
    return {"key": key, "reason": reason, "detail": detail}


def find(source: str) -> Found:
    """Every file below `source`: as a video, as something beside one, or as left out with the reason."""
    found = Found()
    videos, others = [], []
    for file, problem in _walk(source):
        if problem:
            found.left_out.append(unread(shown(file), _kind(file), problem))
        elif _kind(file) == "video":
            videos.append(file)
        else:
            others.append(file)
    lives = _lives(videos, found)
    beside = _beside(others, lives, found)
    for key, file in lives.items():
        author, _, live = key.partition("/")
        found.clips.append(Clip(author=author, live=live, root=source, file=file, beside=tuple(beside.get(key, ()))))
    found.clips.sort(key=lambda clip: clip.ids)
    found.left_out.sort(key=lambda row: str(row["file"]))
    return found


def _walk(source: str) -> Iterator[tuple[str, str]]:
    """(path below `source`, why it is left out or "") of every file and every folder that is not looked into."""
    errors: list[OSError] = []
    told = set()
    for folder, folders, files in os.walk(source, onerror=errors.append):
        below = os.path.relpath(folder, source)
        for name in sorted(folders):
            problem = _problem(os.path.join(folder, name), name)
            if problem:
                folders.remove(name)  # not looked into
            elif below != os.curdir and _kind(name) != "other":
                problem = "a folder, wanted a file"
            if problem:
                path = os.path.normpath(os.path.join(below, name))
                told.add(path)
                yield path, problem
        for name in sorted(files):
            problem = _problem(os.path.join(folder, name), name)
            if not problem and below == os.curdir:
                problem = f"not in the folder of an author, wanted {LAYOUT}"
            yield os.path.normpath(os.path.join(below, name)), problem
    for error in errors:
        path = os.path.relpath(error.filename, source)
        if path not in told:
            yield path, f"the folder cannot be read ({error.strerror})"


def _problem(path: str, name: str) -> str:
    """Why a file or folder is not looked into, "" where it is."""
    if name.startswith("."):
        return "hidden, as its name starts with a dot"
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if stat.S_ISLNK(mode):
        return "a link, and links are not followed; copy here what it leads to"
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "neither a file nor a folder"


def _kind(file: str) -> str:
    name = PurePosixPath(file)
    return "video" if name.suffix.lower() in EXTENSIONS else names.kind_of(name.name) or "other"


def _lives(videos: list[str], found: Found) -> dict[str, str]:
    """File of every live by its key; a second file of one live, and names that are not UTF-8, are refused."""
    lives: dict[str, str] = {}
    for file in sorted(videos, key=lambda file: (_nfc(os.path.splitext(file)[0]), file)):
        key, problem = _nfc(os.path.splitext(file)[0]), ""
        if not _is_utf8(file):
            problem = "the name is not UTF-8; rename the file"
            found.refused.append(rejected(shown(file), "unreadable_video", problem))
        elif key in lives:
            problem = f"{os.path.basename(lives[key])} is the same live; rename one of the two"
            found.refused.append(rejected(file, "bad_row", problem))
        else:
            lives[key] = file
        if problem:
            found.left_out.append(unread(shown(file), "video", problem))
    return lives


def _beside(others: list[str], lives: dict[str, str], found: Found) -> dict[str, list[str]]:
    """Files beside each live, in the order in which they are tried; those of no live are left out."""
    by_name = {_nfc(file): key for key, file in lives.items()} | {key: key for key in lives}
    placed: dict[str, list[tuple[tuple[int, str], str]]] = {}
    for file in others:
        readings = [(by_name.get(live), place) for live, place in names.readings(_nfc(file))]
        key, place = next(((key, place) for key, place in readings if key), (None, None))
        if key is None or place is None:
            kind = _kind(file)
            problem = f"no video of that name beside this {kind}"
            if kind == "other":
                problem = f"nothing that is read; beside a video are read {names.WANTED}"
            found.left_out.append(unread(shown(file), kind, problem))
        else:
            placed.setdefault(key, []).append((place, file))
    return {key: [file for _, file in sorted(files)] for key, files in placed.items()}


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def shown(file: str) -> str:
    """A path as a column can hold it: bytes that are not UTF-8 are written as \\xff."""
    return os.fsencode(file).decode(errors="backslashreplace")
