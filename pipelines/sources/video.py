"""Pictures of a video, segment by segment: read in order, decoded one at a time, kept as small JPEGs.

When a picture is, pipelines/sources/timeline.py says. Knows nothing about tables, chat or Ray. Memory is one segment's
JPEGs plus the decoder, however long the video is.
"""

import io
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from pipelines.sources import timeline
from pipelines.sources.sampling import Sampling
from pipelines.sources.timeline import Clock, Timeline

NEW_PARAMETERS = "new_extradata"
"""What a container hands to the decoder, once, where a recording of another encoder begins."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One segment of a video: its number, its length in seconds and its pictures as (offset_ms, jpeg)."""

    segment: int
    length_s: float
    frames: tuple[tuple[int, bytes], ...]


class Video:
    """One video file. `slices` yields what can be read; what could not and what was odd is then told beside it."""

    def __init__(self, path: str, sampling: Sampling) -> None:
        self.no_pictures = "the file opens, but no picture comes out of it"
        """Why there are none, for a file that yields nothing and has no `damage`."""
        self._path = path
        self._sampling = sampling
        self._notes = timeline.Notes()
        self._lost = 0
        self._first = ""
        self._expected = 1

    @property
    def lost(self) -> int:
        """How many segments could not be read."""
        return self._lost

    @property
    def damage(self) -> str:
        """How many segments were lost and the first error, for a person to read, "" where none was."""
        return f"{self._lost} of {self._expected} segment(s) lost, first {self._first}" if self._lost else ""

    @property
    def notes(self) -> str:
        """What was odd and cost no segment, for a person to read: pauses, a clock that jumps, pictures not read."""
        return str(self._notes)

    def slices(self) -> Iterator[Slice]:
        """The readable segments in order. A damaged one is left out and counted in `damage`; nothing is raised.

        Each holds a picture that appears in it. Numbers count from the first picture, and go on over a pause.
        """
        try:
            line = timeline.read(self._path, self._sampling.segment_s)
            with timeline.opened(self._path) as container:
                if line is not None:
                    yield from self._slices(container, line)
                elif any(stream.type == "video" for stream in container.streams):
                    self.no_pictures = "only a cover picture"
        except (av.FFmpegError, OSError, ValueError) as error:
            self._lose(f"{type(error).__name__}: {error}", self._expected - self._lost)

    def _lose(self, why: str, count: int = 1) -> None:
        self._first = self._first or why
        self._lost += count

    def _slices(self, container: Any, line: Timeline) -> Iterator[Slice]:
        self._notes = line.clock.notes
        size = self._sampling.segment_s
        declared_s = _declared_s(container, line)
        missing = self._count(declared_s) - self._count(line.end_s) if declared_s - line.end_s > size else 0
        self._expected = len(line.segments) + missing + self._count(line.unread_s)
        pictures = _Pictures(container, line)
        for segment in sorted(line.segments):
            start_s = segment * size
            length_s = min(size, line.end_s - start_s)
            pictures.errors.clear()
            try:
                frames = self._frames(pictures, start_s, length_s)
            except (av.FFmpegError, OSError, ValueError) as error:
                self._lose(f"{segment} after {pictures.position_s:.1f} s: {type(error).__name__}: {error}")
                continue
            if pictures.errors or not frames:
                why = pictures.errors[0] if pictures.errors else "no picture comes out of its packets"
                self._lose(f"{segment} {why}")
            else:
                yield Slice(segment=segment, length_s=length_s, frames=frames)
        if missing:
            self._lose(f"after {line.end_s:.1f} s: pictures end there, of the {declared_s:.1f} s declared", missing)
        if line.unread_s:
            why = f"{line.unread_s:.1f} s of pictures are in a stream that begins as sound; remux the video"
            self._lose(why, self._count(line.unread_s))
        if line.errors:
            self._lose(f"{len(line.errors)} error(s) of the container, the first {line.errors[0]}")
        if pictures.num_joint_errors:
            self._notes.add(f"{pictures.num_joint_errors} packet(s) where recordings are joined cannot be decoded")

    def _count(self, length_s: float) -> int:
        """Number of segments of a recording of this length."""
        return math.ceil(round(length_s / self._sampling.segment_s, 6))

    def _frames(self, pictures: "_Pictures", start_s: float, length_s: float) -> tuple[tuple[int, bytes], ...]:
        """Distinct pictures of a segment at the middles of equal parts of it, each one that appears in the segment."""
        frames, last_s = [], -math.inf
        for offset_s in self._sampling.offsets_s(length_s):
            time_s, frame = pictures.at(start_s + offset_s, since_s=start_s)
            if frame is None or time_s >= start_s + self._sampling.segment_s:
                break
            if time_s > last_s:
                frames.append((int(max(offset_s, time_s - start_s) * 1000), _jpeg(frame, self._sampling)))
                last_s = time_s
        return tuple(frames)


class _Pictures:
    """The picture on display at ascending times, decoding from the nearest key frame on."""

    def __init__(self, container: Any, line: Timeline) -> None:
        self._container = container
        self._line = line
        self._next = 0
        self._skip_to = 0
        self._frames = self._decoded()
        self._shown: tuple[float, Any] | None = None
        self._ahead: tuple[float, Any] | None = None
        self.position_s = 0.0
        self.errors: list[str] = []
        """Errors since the last time that somebody looked."""
        self.num_joint_errors = 0

    def at(self, wanted_s: float, since_s: float) -> tuple[float, Any]:
        """(time_s, frame) of the last frame from `since_s` to `wanted_s`, else of the next one; None for none."""
        while self._ahead is None or self._ahead[0] <= wanted_s:
            self._skip_to = max(self._skip_to, self._line.key_before(wanted_s))
            self._shown, self._ahead = self._ahead or self._shown, next(self._frames, None)
            if self._ahead is None:
                break
            self.position_s = self._ahead[0]
        for found in (self._shown, self._ahead):
            if found is not None and found[0] >= since_s:
                return found
        return 0.0, None

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        """(time_s, frame) from the packets that are not passed over, in the order of display."""
        streams = [self._container.streams[index] for index in sorted(self._line.streams)]
        for stream in streams:
            stream.codec_context.thread_count = 1  # videos are read side by side; threads inside one only add memory
        clock = Clock(streams[0])
        passed_over, new_parameters = False, None
        for packet in timeline.packets(self._container, []):
            if packet.stream.index not in self._line.streams:
                continue
            clock.stamp(packet)
            if packet.has_sidedata(NEW_PARAMETERS):
                new_parameters = packet.get_sidedata(NEW_PARAMETERS)
            self._next += 1
            passed_over = passed_over or self._next <= self._skip_to
            if self._next <= self._skip_to:
                continue
            if passed_over:
                packet.stream.codec_context.flush_buffers()
                passed_over = False
            if new_parameters is not None:  # they may have come with a packet that was passed over
                packet.set_sidedata(new_parameters)
                new_parameters = None
            for frame in self._tried(packet.decode):
                yield clock.frame_s(frame), frame
        for stream in streams:
            for frame in self._tried(stream.codec_context.decode):
                yield clock.frame_s(frame), frame

    def _tried(self, decode: Any) -> list[Any]:
        """What `decode` gives. After an error nothing is believed before the next key frame."""
        try:
            return list(decode())
        except av.FFmpegError as error:
            number = self._next - 1
            key = self._line.next_key(number)
            self._skip_to = sys.maxsize if key is None else max(self._skip_to, key)
            if self._line.is_joint(number):
                self.num_joint_errors += 1
            else:
                self.errors.append(f"after {self.position_s:.1f} s: {type(error).__name__}: {error}")
            return []


def _declared_s(container: Any, line: Timeline) -> float:
    """Length that the file declares for its pictures alone, seconds; 0 for none, or none that means anything."""
    stream = container.streams[min(line.streams)]
    return float(stream.duration * stream.time_base) if stream.duration and line.clock.believed else 0.0


def _jpeg(frame: Any, sampling: Sampling) -> bytes:
    """A frame as a JPEG, upright, scaled down by the decoder's own scaler before it becomes an image."""
    scale = min(1.0, sampling.frame_max_side / max(frame.width, frame.height))
    image = frame.to_image(width=max(1, round(frame.width * scale)), height=max(1, round(frame.height * scale)))
    if frame.rotation:
        image = image.rotate(frame.rotation, expand=True)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=sampling.jpeg_quality)
    return buffer.getvalue()
