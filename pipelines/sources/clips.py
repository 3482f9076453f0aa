"""The videos of a source folder: finding them, and turning one into rows of `segments`.

What a Ray worker does for `ingest`; the job itself, its tables and its progress are in pipelines/sources/ingest.py.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.sources import chat, transcript
from pipelines.sources.rows import stable_id
from pipelines.sources.sampling import Sampling
from pipelines.sources.video import Video
from pipelines.tables import contract

EXTENSIONS = frozenset(
    f".{ending}" for ending in "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv".split()
)
"""A file that ends so is a video; other files are none of our business."""

SEGMENTS_PER_TABLE = 16

_REJECTED = pa.struct([pa.field(name, pa.string()) for name in ("key", "reason", "detail")])
DECODED = pa.schema(
    [pa.field(f.name, f.type) for f in contract.spec("segments").schema]
    + [pa.field("done", pa.string()), pa.field("rejected", pa.list_(_REJECTED)), pa.field("notes", pa.string())]
)
"""What a worker sends: rows of `segments`, then one row per video with its key in `done`, what was rejected and
what was odd about its clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One video of the source folder: one live of one author, with what lies beside it."""

    author: str
    live: str
    path: str
    chat: str | None
    transcript: str | None

    @property
    def key(self) -> str:
        """Name of the live in `rejections` and in the log."""
        return f"{self.author}/{self.live}"

    @property
    def ids(self) -> tuple[int, int]:
        """(author_id, live_id)."""
        return stable_id(self.author), stable_id(self.key)


def rejected(key: str, reason: str, detail: str) -> dict[str, str]:
    """A row for pipelines.rejections."""
    return {"key": key, "reason": reason, "detail": detail}


def find(source: Path) -> tuple[list[Clip], list[dict[str, str]]]:
    """Clips of `source`, sorted by (author_id, live_id), and rows for what can have no id of its own.

    Links, hidden files and files that are not videos are passed over.
    """
    clips, refused = [], []
    for folder in _visible(source, Path.is_dir):
        videos = [p for p in _visible(folder, Path.is_file) if p.suffix.lower() in EXTENSIONS]
        for live, same in groupby(videos, key=lambda path: path.stem):
            first, *others = same
            try:
                f"{folder.name}/{first.name}".encode()
            except UnicodeEncodeError as error:
                key = os.fsencode(f"{folder.name}/{live}").decode(errors="replace")
                refused.append(rejected(key, "unreadable_video", f"the name is not UTF-8 ({error}); rename the file"))
                continue
            clips.append(
                Clip(
                    author=folder.name,
                    live=live,
                    path=str(first),
                    chat=_beside(folder, f"{live}.chat.json"),
                    transcript=_beside(folder, f"{live}.transcript.jsonl"),
                )
            )
            for other in others:
                detail = f"{first.name} is the same live; rename one of the two"
                refused.append(rejected(f"{folder.name}/{other.name}", "bad_row", detail))
    return sorted(clips, key=lambda clip: clip.ids), refused


def _visible(folder: Path, kind: Any) -> list[Path]:
    paths = (p for p in folder.iterdir() if not p.name.startswith(".") and not p.is_symlink() and kind(p))
    return sorted(paths, key=lambda path: (path.stem, path.name))


def _beside(folder: Path, name: str) -> str | None:
    path = folder / name
    return str(path) if path.is_file() and not path.is_symlink() else None


def decode(batch: pa.Table, sampling: Sampling, day: date) -> Iterator[pa.Table]:
    """Every clip of `batch` (columns of Clip) as tables of schema DECODED."""
    for row in batch.to_pylist():
        yield from _decode(Clip(**row), sampling, day)


def _decode(clip: Clip, sampling: Sampling, day: date) -> Iterator[pa.Table]:
    comments, lines, refused = _said(clip)
    by_segment = _by_segment(comments, sampling.segment_s)
    author_id, live_id = clip.ids
    midnight_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    video = Video(clip.path, sampling)
    rows: list[dict[str, Any]] = []
    num_segments = 0
    for piece in video.slices():
        start_s = piece.segment * sampling.segment_s
        said = by_segment.get(piece.segment, [])
        rows.append(
            {
                "author_id": author_id,
                "live_id": live_id,
                "segment": piece.segment,
                "start_ts_ms": midnight_ms + start_s * 1000,
                "frames": [{"offset_ms": offset_ms, "jpeg": jpeg} for offset_ms, jpeg in piece.frames],
                "speech": None if lines is None else transcript.between(lines, start_s, start_s + piece.length_s),
                "comments": said,
                "viewers": len({comment["user_id"] for comment in said}),
                "likes": 0,
                "gifts": 0,
            }
        )
        num_segments += 1
        if len(rows) == SEGMENTS_PER_TABLE:
            yield pa.Table.from_pylist(rows, schema=DECODED)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=DECODED)
    if video.damage:
        refused.append(rejected(clip.key, "unreadable_video", video.damage))
    elif not num_segments:
        refused.append(rejected(clip.key, "no_frames", video.no_pictures))
    yield _done(clip, refused, video.notes)


def _done(clip: Clip, refused: Sequence[Mapping[str, str]], notes: str) -> pa.Table:
    return pa.Table.from_pylist([{"done": clip.key, "rejected": list(refused), "notes": notes}], schema=DECODED)


def _said(clip: Clip) -> tuple[list[chat.Comment], list[transcript.Line] | None, list[dict[str, str]]]:
    """Comments, transcript lines (None = no transcript) and what was wrong with either file."""
    comments: list[chat.Comment] = []
    lines: list[transcript.Line] | None = None
    refused, problem = [], ""
    if clip.chat is not None:
        try:
            comments, problem = chat.read(clip.chat)
        except chat.ChatError as error:
            problem = str(error)
        if problem:
            refused.append(rejected(f"{clip.key}.chat.json", "bad_chat", problem))
    if clip.transcript is not None:
        try:
            lines, problem = transcript.read(clip.transcript)
        except OSError as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            refused.append(rejected(f"{clip.key}.transcript.jsonl", "bad_transcript", problem))
    return comments, lines, refused


def _by_segment(comments: Sequence[chat.Comment], segment_s: int) -> dict[int, list[dict[str, Any]]]:
    """Comments in the form of the contract, by segment. Those after the last segment will find none, and are left."""
    by_segment: dict[int, list[dict[str, Any]]] = {}
    for comment, engagement in zip(comments, chat.engagement(comments), strict=True):
        segment = int(comment.offset_s // segment_s)
        by_segment.setdefault(segment, []).append(
            {
                "user_id": stable_id(comment.commenter),
                "offset_ms": int((comment.offset_s - segment * segment_s) * 1000),
                "text": comment.text,
                "engagement": engagement,
            }
        )
    return by_segment
