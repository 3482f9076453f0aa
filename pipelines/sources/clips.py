"""One video of a source folder as rows of `segments`, with the account of what was read, used and left out.

What a Ray worker does for `ingest`; the folder is in folder.py, the job with its tables and progress in ingest.py.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import av
import pyarrow as pa

from pipelines.sources.beside import names
from pipelines.sources.beside.entries import Tally, Unreadable, unread
from pipelines.sources.beside.placed import PlacedComments, PlacedLines
from pipelines.sources.beside.read import CHAT, TRANSCRIPT, read
from pipelines.sources.folder import Clip, rejected
from pipelines.sources.sampling import Sampling
from pipelines.sources.video import Slice, Video
from pipelines.tables import contract

SEGMENTS_PER_TABLE = 16
SOUND_S = 1.0
"""For how long a video may go on after its last picture; a file that declares more has a clock that jumps."""

CLIPS = pa.schema(
    [
        pa.field(name, pa.list_(pa.string()) if name == "beside" else pa.string())
        for name in ("author", "live", "root", "file", "beside")
    ]
)
"""A table of clips: the fields of Clip."""

_REJECTED = pa.struct([pa.field(name, pa.string()) for name in ("key", "reason", "detail")])
DECODED = pa.schema(
    [pa.field(f.name, f.type) for f in contract.spec("segments").schema]
    + [
        pa.field("done", pa.string()),
        pa.field("rejected", pa.list_(_REJECTED)),
        pa.field("files", pa.list_(pa.struct(list(contract.spec("ingest_report").schema)))),
    ]
)
"""What a worker sends: rows of `segments`, then one row per video with its key in `done`, what was rejected, and the
rows of `ingest_report` for its files."""


def decode(batch: pa.Table, sampling: Sampling, day: date) -> Iterator[pa.Table]:
    """Every clip of `batch` (columns of Clip) as tables of schema DECODED."""
    for row in batch.to_pylist():
        yield from _decode(Clip(**row), sampling, day)


def _decode(clip: Clip, sampling: Sampling, day: date) -> Iterator[pa.Table]:
    said = _Said(clip)
    author_id, live_id = clip.ids
    midnight_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    video, pictures = Video(clip.path(clip.file), sampling), Tally(unit="segment")
    rows: list[dict[str, Any]] = []
    for piece, is_last in _to_the_last(video.slices()):
        start_s = piece.segment * sampling.segment_s
        end_s = start_s + piece.length_s
        talk_end_s = _sound_end_s(clip, end_s) if is_last and said.comments.waiting else end_s
        comments = said.comments.between(start_s, talk_end_s)
        rows.append(
            {
                "author_id": author_id,
                "live_id": live_id,
                "segment": piece.segment,
                "start_ts_ms": midnight_ms + start_s * 1000,
                "frames": [{"offset_ms": offset_ms, "jpeg": jpeg} for offset_ms, jpeg in piece.frames],
                "speech": said.lines and said.lines.between(start_s, end_s),
                "comments": comments,
                "viewers": len({comment["user_id"] for comment in comments}),
                "likes": 0,
                "gifts": 0,
            }
        )
        pictures.used += 1
        if len(rows) == SEGMENTS_PER_TABLE:
            yield pa.Table.from_pylist(rows, schema=DECODED)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=DECODED)
    refused = _watched(clip, video, pictures)
    files = [pictures.row(clip.file, "video"), *said.finish()]
    if pictures.used:  # where there is no segment, the video alone is to blame
        refused += said.refused
    yield pa.Table.from_pylist([{"done": clip.key, "rejected": refused, "files": files}], schema=DECODED)


def _to_the_last(pieces: Iterator[Slice]) -> Iterator[tuple[Slice, bool]]:
    """Every piece, and whether it is the last one."""
    before = next(pieces, None)
    for piece in pieces:
        if before is not None:
            yield before, False
        before = piece
    if before is not None:
        yield before, True


def _sound_end_s(clip: Clip, end_s: float) -> float:
    """End of a video whose pictures end at `end_s`: sound, and people who chat, go on for a moment."""
    try:
        with av.open(clip.path(clip.file)) as container:
            declared_s = (container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError, ValueError):
        return end_s  # a damaged file: what is wrong with it, Video has told
    return declared_s if end_s < declared_s <= end_s + SOUND_S else end_s


def _watched(clip: Clip, video: Video, pictures: Tally) -> list[dict[str, str]]:
    """Completes the account of a video's segments; what is to be rejected of it."""
    refused = []
    if video.damage:
        refused.append(rejected(clip.key, "unreadable_video", video.damage))
    elif not pictures.used:
        refused.append(rejected(clip.key, "no_frames", video.no_pictures))
    lost = max(video.lost, len(refused)) if not pictures.used else video.lost
    pictures.found, pictures.note = pictures.used + lost, video.notes
    if lost:
        pictures.leave("that could not be read", refused[0]["detail"], count=lost)
    return refused


class _Said:
    """What lies beside a video: the first chat and the first transcript that hold something."""

    def __init__(self, clip: Clip) -> None:
        self.refused: list[dict[str, str]] = []
        self.comments = PlacedComments([], Tally(unit="comment"))
        self.lines: PlacedLines | None = None
        self._used: dict[str, tuple[str, Tally]] = {}
        self._files: list[dict[str, Any]] = []
        for file in clip.beside:
            self._read(clip, file)

    def _read(self, clip: Clip, file: str) -> None:
        """Takes a file for what is still missing; one that is not needed is left out."""
        kind = names.kind_of(file) or CHAT
        if names.may_be(file) <= self._used.keys():
            return self._leave(file, kind)
        try:
            content = read(clip.path(file), kind)
        except Unreadable as error:
            self._files.append(unread(file, kind, str(error)))
            self.refused.append(rejected(file, f"bad_{kind}", str(error)))
            return None
        if content.kind in self._used:
            return self._leave(file, content.kind)
        if content.kind == TRANSCRIPT and (content.lines or not content.tally.found):
            self.lines = PlacedLines(content.lines, content.tally)
        if not (content.comments or content.lines):
            return self._account(file, content.kind, content.tally)
        if content.kind == CHAT:
            self.comments = PlacedComments(content.comments, content.tally)
        self._used[content.kind] = file, content.tally
        return None

    def _leave(self, file: str, kind: str) -> None:
        used, _ = self._used[kind]
        self._files.append(unread(file, kind, f"{used} is used, which comes before it"))

    def _account(self, file: str, kind: str, tally: Tally) -> None:
        self._files.append(tally.row(file, kind))
        if tally.left_out:
            self.refused.append(rejected(file, f"bad_{kind}", tally.why))

    def finish(self) -> list[dict[str, Any]]:
        """Rows of `ingest_report`, once all segments are there; what was left out of used files is in `refused` too."""
        self.comments.finish()
        if self.lines is not None:
            self.lines.finish()
        for kind, (file, tally) in self._used.items():
            self._account(file, kind, tally)
        return self._files
