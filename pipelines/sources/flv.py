"""Several FLV recordings in one file: FLV has a header that may stand only once, so the later ones are taken out.

A demuxer that meets a second header takes it for a packet of megabytes and loses what it skips.
"""

import io
import re
from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import BinaryIO

MAGIC = b"FLV\x01"
HEADER = re.compile(rb"FLV\x01[\x00\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00")
"""What it holds, the length of the packet before included: none."""
HEADER_BYTES = 13
TAG_BYTES = 15
"""What a packet takes beside its content: 11 bytes before, 4 after."""
READ_BYTES = 2**22


class JoinedFlv(io.RawIOBase):
    """One FLV recording out of the parts of a file: byte ranges, read as if they were one file."""

    def __init__(self, path: str, parts: list[tuple[int, int]]) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 -- closed by close()
        self._parts = parts
        self._ends = list(accumulate(end - begin for begin, end in parts))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a byte of the whole."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ends[-1]}[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, fewer at the end of a part, none at the end of the whole."""
        part = bisect_right(self._ends, self._at)
        if part == len(self._parts):
            return b""
        left = self._ends[part] - self._at
        self._file.seek(self._parts[part][1] - left)
        content = self._file.read(left if size < 0 else min(size, left))
        self._at += len(content)
        return content

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


def parts(path: str) -> list[tuple[int, int]]:
    """Byte ranges of the recordings in an FLV file, the later ones without header; one range for an ordinary file.

    A packet that was cut off where the next recording begins is left out. No range for a file that is no FLV.
    """
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return []
        length = file.seek(0, io.SEEK_END)
        heads = [0, *_later_heads(file), length]
        return [
            (begin + HEADER_BYTES if begin else 0, end if end == length else _whole(file, begin, end))
            for begin, end in pairwise(heads)
        ]


def _later_heads(file: BinaryIO) -> list[int]:
    """Where headers begin, but for the first. Reads piece by piece, each with the last bytes of the one before."""
    heads = []
    start = HEADER_BYTES
    while True:
        file.seek(start)
        content = file.read(READ_BYTES)
        heads += [start + found.start() for found in HEADER.finditer(content)]
        if len(content) < READ_BYTES:
            return heads
        start += READ_BYTES - HEADER_BYTES + 1


def _whole(file: BinaryIO, begin: int, end: int) -> int:
    """Where the last whole packet of a part ends."""
    at = begin + HEADER_BYTES
    while at + TAG_BYTES <= end:
        file.seek(at + 1)
        after = at + TAG_BYTES + int.from_bytes(file.read(3))
        if after > end:
            break
        at = after
    return at
