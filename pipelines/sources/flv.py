"""Several FLV recordings in one file: FLV has a header that may stand only once, so the later ones are taken out.

A demuxer that meets a second header takes it for a packet of megabytes and loses what it skips.
"""

import io
import mmap
from bisect import bisect_right
from itertools import accumulate

MAGIC = b"FLV\x01"
HEADER_BYTES = 13
TAG_BYTES = 15
"""What a packet takes beside its content: 11 bytes before, 4 after."""


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
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            heads = [0, *_later_heads(content), len(content)]
            return [
                (begin + HEADER_BYTES if begin else 0, end if end == len(content) else _whole(content, begin, end))
                for begin, end in zip(heads, heads[1:], strict=False)
            ]


def _later_heads(content: mmap.mmap) -> list[int]:
    heads = []
    at = content.find(MAGIC, HEADER_BYTES)
    while at >= 0:
        flags, rest = content[at + 4 : at + 5], content[at + 5 : at + HEADER_BYTES]
        if flags in (b"\x00", b"\x01", b"\x04", b"\x05") and rest == b"\x00\x00\x00\x09\x00\x00\x00\x00":
            heads.append(at)
        at = content.find(MAGIC, at + 1)
    return heads


def _whole(content: mmap.mmap, begin: int, end: int) -> int:
    """Where the last whole packet of a part ends."""
    at = begin + HEADER_BYTES
    while at + TAG_BYTES <= end:
        after = at + TAG_BYTES + int.from_bytes(content[at + 1 : at + 4])
        if after > end:
            break
        at = after
    return at
