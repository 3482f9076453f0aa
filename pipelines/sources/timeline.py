"""Recording time, as the packets of a video tell it: read once, in order, without decoding a picture.

Neither the length that a container declares nor its clock is believed: recordings are joined, encoders restart, clocks
jump. What is believed is the order of the packets. Recording time is 0 where the recording begins, and never goes
back:

- The clock goes back (joined recordings, overlapping pieces, a restarted encoder): what follows goes straight on after
  what came before. Nothing is dropped; what two pieces share is there twice.
- The clock jumps ahead by at most PAUSE_S: a pause of the live. Time passes, and nobody makes a segment of it.
- The clock jumps further ahead: that is another clock. What follows goes straight on.
- The clock stands still, or there is none: pictures are as far apart as the frame rate says.

`Timeline.notes` tells what was met. Decodes nothing; pipelines/sources/video.py does.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import av
from av.stream import Disposition

from pipelines.sources import flv

PAUSE_S = 3600.0
"""Longest jump ahead that is a pause of the live, seconds."""
NOTED_S = 10.0
"""Shortest pause that is noted, seconds."""
JITTER_S = 1.0
"""How far a clock may go back, or how long it may stand still, before that means anything, seconds."""
DEFAULT_RATE = 25
MOST_NOTES = 3
MAX_FAILURES = 10
"""Errors of a container without a packet in between after which the rest of the file is given up."""


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A container of PyAV for a video file, whatever it is joined of. Raises av.FFmpegError for what is no video."""
    parts = flv.parts(path)
    with flv.JoinedFlv(path, parts) if len(parts) > 1 else nullcontext(path) as file, av.open(file) as container:
        yield container


def packets(container: Any, errors: list[str]) -> Iterator[Any]:
    """The packets of moving pictures in the order of the file, which is the same at every reading.

    Goes on after an error of the container and adds it to `errors`, until there are too many. A cover picture is none
    of the moving ones. In a joined recording a stream that had pictures may come to mean sound: then its packets are
    passed over.
    """
    failures = 0
    while failures < MAX_FAILURES:
        try:
            for packet in container.demux():
                failures = 0
                if packet.size and moving(packet.stream):
                    yield packet
            return
        except av.FFmpegError as error:
            failures += 1
            errors.append(f"{type(error).__name__}: {error}")


def moving(stream: Any) -> bool:
    """Whether a stream has pictures that are more than the cover of a recording."""
    return stream.type == "video" and not stream.disposition & Disposition.attached_pic


class Notes:
    """What a person should know of a recording: the first few things in words, and how many more there are."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._more = 0

    def add(self, text: str) -> None:
        """Notes something; of a file that is odd all the time only the beginning is kept."""
        if len(self._first) < MOST_NOTES:
            self._first.append(text)
        else:
            self._more += 1

    def __str__(self) -> str:
        return "; ".join(self._first) + (f"; and {self._more} more" if self._more else "")


class Clock:
    """Puts recording time in place of the time stamps of packets, met one after the other."""

    def __init__(self, stream: Any) -> None:
        self.notes = Notes()
        self.believed = True
        """False once it went back, jumped too far or stood still: the file's own times mean nothing any more."""
        self.ticks_per_s = float(1 / stream.time_base)
        self._begin_s = (stream.container.start_time or 0) / av.time_base
        self._apart = max(1, self._ticks(float(1 / (stream.guessed_rate or stream.average_rate or DEFAULT_RATE))))
        self._offset: int | None = None
        self._latest = 0
        self._end = 0
        self._shown = 0
        self._still = 0
        self._owed = 0

    def stamp(self, packet: Any) -> bool:
        """Moves the time stamps of `packet`; one without any is given a `dts`. Whether another part begins with it."""
        joint = False
        apart = packet.duration if packet.duration and packet.duration <= self._ticks(NOTED_S) else self._apart
        raw = packet.dts if packet.dts is not None else packet.pts
        if self._offset is None:
            self._begin(packet, raw, apart)
        if raw is None:
            packet.dts = self._latest = self._latest + apart
        else:
            joint = self._follow(raw + self._offset - self._latest, apart)
            self._latest = max(self._latest, raw + self._offset)
            packet.dts = raw + self._offset
            if packet.pts is not None:
                packet.pts += self._offset
        self._end = max(self._end, apart + (packet.dts if packet.pts is None else packet.pts))
        return joint

    def _begin(self, packet: Any, raw: int | None, apart: int) -> None:
        """Recording time is 0 at the first picture, or at the first sound where that is clearly earlier."""
        if raw is None:
            self._offset, self._latest = 0, -apart
            return self.notes.add("the pictures have no times; they are counted")
        first = raw if packet.pts is None else packet.pts
        sound_s = first / self.ticks_per_s - self._begin_s
        start = self._ticks(sound_s) if JITTER_S < sound_s <= PAUSE_S else 0
        self._offset = start - first
        self._latest = raw + self._offset - apart
        if start > self._ticks(NOTED_S):
            self.notes.add(f"no pictures from 0.0 s to {sound_s:.1f} s")
        return None

    def span_s(self, packet: Any) -> tuple[float, float]:
        """When the picture of a stamped packet appears and when it has been shown, seconds of recording time."""
        start = packet.dts if packet.pts is None else packet.pts
        return start / self.ticks_per_s, (start + (packet.duration or self._apart)) / self.ticks_per_s

    def frame_s(self, frame: Any) -> float:
        """When a decoded frame appears, seconds: a decoder may give the last ones no time, which then are counted."""
        stamp = frame.dts if frame.pts is None else frame.pts
        self._shown = self._shown + self._apart if stamp is None else stamp
        return self._shown / self.ticks_per_s

    def _follow(self, step: int, apart: int) -> bool:
        """Moves the offset where the clock, `step` ticks on, is not to be believed; whether it is another clock."""
        assert self._offset is not None
        if step > self._ticks(PAUSE_S):
            return self._go_on(
                step, apart, f"jumps ahead by {(step - apart) / self.ticks_per_s:.1f} s, too far for a pause"
            )
        if -step > max(self._ticks(JITTER_S), 4 * apart):
            return self._go_on(step, apart, f"goes back by {(apart - step) / self.ticks_per_s:.1f} s")
        if step:
            caught_up = min(self._owed, max(0, step - apart))
            self._owed -= caught_up
            self._offset -= caught_up
            self._still = 0
            pause = step - caught_up - apart
            if pause > self._ticks(NOTED_S):
                self.notes.add(f"no pictures from {self._at(0)} to {self._at(pause)}")
        else:
            self._stand(apart)
        return False

    def _go_on(self, step: int, apart: int, what: str) -> bool:
        assert self._offset is not None
        self.notes.add(f"at {self._at(0)} the clock {what}; what follows is taken to go straight on")
        self._offset += apart - step
        self._still = self._owed = 0
        self.believed = False
        return True

    def _stand(self, apart: int) -> None:
        """The clock stands still: after a moment, pictures are counted instead, until it has caught up."""
        assert self._offset is not None
        self._still += apart
        if self._still > self._ticks(JITTER_S):
            if not self._owed:
                self.notes.add(f"at {self._at(0)} the clock stands still; pictures are counted")
            self._owed += apart
            self._offset += apart
            self.believed = False

    def _at(self, later: int) -> str:
        return f"{(self._end + later) / self.ticks_per_s:.1f} s"

    def _ticks(self, seconds: float) -> int:
        return round(seconds * self.ticks_per_s)


class Timeline:
    """When the pictures of a recording are, in recording time. Keeps 16 bytes a key frame, and none a picture."""

    def __init__(self, streams: set[int], stream: Any, segment_s: int) -> None:
        self.streams = streams
        """The streams that the pictures are in: one, or several that take turns in a joined recording."""
        self.keys = array("q")
        """Which of the packets of `streams` are key frames, counted from 0."""
        self.key_times_s = array("d")
        """When each of the key frames appears, seconds."""
        self.joints = array("q")
        """Which of the packets begin another recording that was joined to the one before."""
        self.segments: set[int] = set()
        """Segments in which a picture appears."""
        self.end_s = 0.0
        """When the last picture has been shown, seconds."""
        self.clock = Clock(stream)
        """What the time stamps turned out to be."""
        self.unread_s = 0.0
        """Pictures that cannot be decoded, as they are in a stream that began as sound, seconds."""
        self.errors: list[str] = []
        """What the container could not read, whatever stream it was of."""
        self._num_packets = 0
        self._num_pixels = stream.width * stream.height
        self._segment_s = segment_s

    def next_key(self, number: int) -> int | None:
        """The first key frame after packet `number`, None where there is none."""
        key = bisect_right(self.keys, number)
        return self.keys[key] if key < len(self.keys) else None

    def key_before(self, time_s: float) -> int:
        """The last key frame that is not after `time_s`, else the first packet."""
        key = bisect_right(self.key_times_s, time_s)
        return self.keys[key - 1] if key else 0

    def is_joint(self, number: int) -> bool:
        """Whether packet `number` lies between the end of a recording and the next key frame of the one after it."""
        joint = bisect_right(self.joints, number + 1)
        return joint > 0 and bisect_right(self.keys, number) <= bisect_right(self.keys, self.joints[joint - 1])

    @property
    def weight(self) -> tuple[int, bool, int]:
        """Orders the streams of a recording; a single picture beside a film is its cover, whatever it is called."""
        return len(self.segments), self._num_packets > 1, self._num_pixels

    def add(self, packet: Any) -> None:
        """Takes the next packet of the file."""
        if self.clock.stamp(packet):
            self.joints.append(self._num_packets)
        start_s, end_s = self.clock.span_s(packet)
        if packet.is_keyframe:
            self.keys.append(self._num_packets)
            self.key_times_s.append(start_s)
        if start_s >= 0 and not packet.is_discard:
            self.segments.add(int(start_s // self._segment_s))
            self.end_s = max(self.end_s, end_s)
        self._num_packets += 1


def read(path: str, segment_s: int) -> Timeline | None:
    """The timeline of the pictures of a video; None where it has none. Raises av.FFmpegError for what is no video.

    Of several streams the one that is there for the longest counts, then the one with the largest pictures, together
    with those that are over before it begins or begin after it is over.
    """
    lines: dict[int, Timeline] = {}
    spans: dict[int, tuple[int, int]] = {}
    unread_s, errors = 0.0, list[str]()
    with opened(path) as container:
        for number, packet in enumerate(packets(container, errors)):
            index = packet.stream.index
            if not isinstance(packet.stream, av.VideoStream):
                unread_s += float((packet.duration or 0) * packet.time_base)
                continue
            if index not in lines:
                lines[index] = Timeline({index}, packet.stream, segment_s)
            lines[index].add(packet)
            spans[index] = (spans.get(index, (number,))[0], number)
    if not lines and errors:
        raise ValueError(errors[0])
    if not lines:
        return None
    main = max(lines, key=lambda index: lines[index].weight)
    first, last = spans[main]
    turns = {index for index, (begin, end) in spans.items() if begin > last or end < first}
    turns = {index for index in turns if lines[index].clock.ticks_per_s == lines[main].clock.ticks_per_s}
    line = _joined(path, {main} | turns, segment_s) if turns else lines[main]
    line.unread_s, line.errors = unread_s, errors
    if len(lines) > len(line.streams):
        line.clock.notes.add(f"{len(lines) - len(line.streams)} more video stream(s) not read")
    return line


def _joined(path: str, streams: set[int], segment_s: int) -> Timeline:
    """The timeline of streams that take turns."""
    with opened(path) as container:
        line = Timeline(streams, container.streams[min(streams)], segment_s)
        for packet in packets(container, []):
            if packet.stream.index in streams:
                line.add(packet)
    return line
