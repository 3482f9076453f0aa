"""Pictures of a video, segment by segment: found by seeking, decoded one at a time, kept as small JPEGs.

Knows nothing about tables, chat or Ray. Memory is one segment's JPEGs plus the decoder, however long the video is.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from pipelines.sources.sampling import Sampling

SEEK_BACK_S = (0.0, 10.0, 120.0, math.inf)
"""How far before the wanted picture to look for its key frame, tried in turn."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One segment of a video: its number, its length in seconds and its pictures as (offset_ms, jpeg)."""

    segment: int
    length_s: float
    frames: tuple[tuple[int, bytes], ...]


class Video:
    """One video file. `slices` yields what can be read, `damage` then says what could not, "" where all could."""

    def __init__(self, path: str, sampling: Sampling) -> None:
        self._path = path
        self._sampling = sampling
        self._lost = 0
        self._first = ""
        self._expected = 1

    @property
    def lost(self) -> int:
        """How many segments could not be read."""
        return self._lost

    @property
    def damage(self) -> str:
        """How many segments were lost and the first error, for a person to read."""
        return f"{self._lost} of {self._expected} segment(s) lost, first {self._first}" if self._lost else ""

    def slices(self) -> Iterator[Slice]:
        """The readable segments in order. A damaged one is left out and counted in `damage`; nothing is raised."""
        try:
            with av.open(self._path) as container:
                if container.streams.video:
                    yield from self._slices(container, container.streams.video[0])
        except (av.FFmpegError, OSError, ValueError) as error:
            self._lose(f"{type(error).__name__}: {error}", self._expected - self._lost)

    def _lose(self, why: str, count: int = 1) -> None:
        self._first = self._first or why
        self._lost += count

    def _slices(self, container: Any, stream: Any) -> Iterator[Slice]:
        stream.codec_context.thread_count = 1  # videos are read side by side; threads inside one only add memory
        declared_s, trusted = _declared_s(container, stream)
        duration_s = declared_s or _scanned_s(self._path)
        size = self._sampling.segment_s
        self._expected = max(1, math.ceil(round(duration_s / size, 6)))
        pictures = _Pictures(container, stream)
        for segment in range(self._expected):
            start_s = segment * size
            length_s = min(size, duration_s - start_s) if duration_s else size
            try:
                frames = self._frames(pictures, start_s, length_s)
            except (av.FFmpegError, OSError, ValueError) as error:
                self._lose(f"{segment} after {pictures.position_s:.1f} s: {type(error).__name__}: {error}")
                pictures.lose()
                continue
            if frames:
                yield Slice(segment=segment, length_s=length_s, frames=frames)
            elif trusted and duration_s - pictures.position_s > size:
                why = f"{segment}: pictures end at {pictures.position_s:.1f} s of the {duration_s:.1f} s declared"
                return self._lose(why, self._expected - segment)
            else:
                return None  # sound goes on for a moment after the last picture

    def _frames(self, pictures: "_Pictures", start_s: float, length_s: float) -> tuple[tuple[int, bytes], ...]:
        """Distinct pictures at the middles of equal parts of a segment; empty where the video has ended before it."""
        frames, last_s = [], -math.inf
        for offset_s in self._sampling.offsets_s(length_s):
            time_s, frame = pictures.at(start_s + offset_s)
            if frame is None or (pictures.ended and time_s < start_s):
                break
            if time_s > last_s:
                frames.append((int(offset_s * 1000), _jpeg(frame, self._sampling)))
                last_s = time_s
        return tuple(frames)


class _Pictures:
    """The picture on display at ascending times, seeking where that is cheaper than decoding on."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container = container
        self._stream = stream
        self._origin_s = float((stream.start_time or 0) * stream.time_base)
        self._frames = container.decode(stream)
        self._shown: Any = None
        self._ahead: Any = None
        self._seek_gap_s = 0.0
        self._damaged_s = -math.inf
        self.position_s = 0.0
        self.ended = False

    def at(self, wanted_s: float) -> tuple[float, Any]:
        """(time_s, frame) of the last frame not after `wanted_s`, else the first one; frame is None where none is."""
        if wanted_s - self.position_s > self._seek_gap_s:
            self._seek(wanted_s)
        while not self.ended and (self._ahead is None or self._time_s(self._ahead) <= wanted_s):
            self._shown = self._ahead or self._shown
            self._advance()
        frame = self._shown or self._ahead
        return (0.0, None) if frame is None else (self._time_s(frame), frame)

    def lose(self) -> None:
        """After a decoding error: the frames up to here are gone, the next call has to get past the damage."""
        self._damaged_s = max(self._damaged_s, self.position_s)
        self._seek_gap_s = -math.inf

    def _advance(self) -> None:
        self._ahead = next(self._frames, None)
        if self._ahead is None:
            self.ended = True
        else:
            self.position_s = self._time_s(self._ahead)

    def _seek(self, wanted_s: float) -> None:
        """Goes to the key frame before `wanted_s`; learns how far apart key frames are where that led nowhere."""
        before_s, self._seek_gap_s = self.position_s, max(self._seek_gap_s, 0.0)
        for back_s in SEEK_BACK_S:  # some containers land on the key frame after the time asked for
            target_s = max(0.0, wanted_s - back_s)
            self._container.seek(int((target_s + self._origin_s) / self._stream.time_base), stream=self._stream)
            self._frames, self._shown, self.ended = self._container.decode(self._stream), None, False
            self._advance()
            if self._ahead is not None and self.position_s <= wanted_s:
                break
        if self._ahead is not None and self.position_s <= self._damaged_s:
            raise ValueError(f"no key frame after the damage at {self._damaged_s:.1f} s")
        if self.position_s <= before_s:
            self._seek_gap_s = max(self._seek_gap_s, wanted_s - self.position_s)

    def _time_s(self, frame: Any) -> float:
        if frame.time is None:
            raise ValueError("a frame without a time stamp; remux the video")
        return float(frame.time) - self._origin_s


def _declared_s(container: Any, stream: Any) -> tuple[float, bool]:
    """Length that the file declares, seconds (0 = none), and whether it speaks of the pictures alone."""
    if stream.duration and stream.duration > 0:
        return float(stream.duration * stream.time_base), True
    return max(0.0, (container.duration or 0) / av.time_base), False


def _scanned_s(path: str) -> float:
    """Length found by reading the packets, seconds: recordings that were never finished declare none."""
    first_s, end_s = math.inf, 0.0
    with av.open(path) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.pts is not None:
                first_s = min(first_s, float(packet.pts * packet.time_base))
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return max(0.0, end_s - first_s)


def _jpeg(frame: Any, sampling: Sampling) -> bytes:
    """A frame as a JPEG, upright, scaled down by the decoder's own scaler before it becomes an image."""
    scale = min(1.0, sampling.frame_max_side / max(frame.width, frame.height))
    image = frame.to_image(width=max(1, round(frame.width * scale)), height=max(1, round(frame.height * scale)))
    if frame.rotation:
        image = image.rotate(frame.rotation, expand=True)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=sampling.jpeg_quality)
    return buffer.getvalue()
