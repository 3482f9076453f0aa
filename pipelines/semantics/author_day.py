"""An author's day as the model reads it: profile, keyframes, the speech around them, comments. Also its prompt."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipelines.semantics import comments, keyframes, prompt
from pipelines.tables.storage import Storage, batches


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig:
    """How much of an author's day goes into the prompt."""

    num_frames: int = 4
    """Keyframes per author (the paper takes about 20)."""
    num_comments: int = 8
    """Comments per author (the paper takes 32)."""
    max_speech_chars: int = 300
    """Characters of speech kept around one keyframe."""


@dataclass(frozen=True, kw_only=True)
class AuthorDay:
    """What one prompt is made of."""

    profile: str
    frames: tuple[bytes, ...]
    speech: tuple[str, ...]
    comments: tuple[str, ...]
    bad_frames: tuple[str, ...]
    """Messages about frames that could not be decoded."""

    def content(self, instruction: str = prompt.INSTRUCTION) -> list[dict[str, Any]]:
        """The user message, see `prompt.content`."""
        return prompt.content(
            profile=self.profile,
            frames=self.frames,
            speech=self.speech,
            comments=self.comments,
            instruction=instruction,
        )


def gather(profile: str, segments: Sequence[Mapping[str, Any]], config: PromptConfig) -> AuthorDay:
    """Chooses keyframes, their segments' speech, and comments; `segments` are one author's rows in time order.

    Where there is no frame, the speech is that of the first segments.
    """
    frames, bad = keyframes.select(segments, config.num_frames)
    shown = sorted({frame.segment for frame in frames}) or range(min(len(segments), max(config.num_frames, 1)))
    spoken = [segments[i]["speech"] for i in shown]
    return AuthorDay(
        profile=" ".join(profile.split()),
        frames=tuple(frame.jpeg for frame in frames),
        speech=tuple(" ".join(s.split())[: config.max_speech_chars] for s in spoken if s and s.strip()),
        comments=tuple(comments.select(segments, config.num_comments)),
        bad_frames=tuple(bad),
    )


def stream(storage: Storage, day: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A day's segments grouped by author, streamed; the table keeps an author's rows together."""
    rows = (row for table in batches(storage.dataset("segments", day), 1024) for row in table.to_pylist())
    return _grouped(rows)


def group(segments: pa.Table) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Segments grouped by author, in time order within an author."""
    return _grouped(segments.sort_by("author_id").to_pylist())


def _grouped(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for author_id, group in groupby(rows, key=lambda row: row["author_id"]):
        yield author_id, sorted(group, key=lambda row: (row["start_ts_ms"], row["segment"]))
