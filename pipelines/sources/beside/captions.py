"""Speech as SRT and WebVTT write it: blocks of a time range and lines of text."""

import html
import re
from collections.abc import Iterator

from pipelines.sources.beside.entries import Entries, LeftOut, Line, each, spoken

ARROW = "-->"
_TIME = r"(?:(\d{1,6}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_RANGE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s|$)")
_TAG = re.compile(r"</?[A-Za-z0-9:.][^>]*>|\{\\[^}]*\}")
_WORD_TIME = re.compile(r"<\d+:\d\d:\d\d\.\d{3}>")
_NO_CUE = ("WEBVTT", "NOTE", "STYLE", "REGION")

Block = tuple[str, list[str]]


def captions(text: str) -> Entries:
    """Stretches of speech in the order of the file, without tags."""
    cues: Iterator[Block | LeftOut] = _blocks(text)
    if _WORD_TIME.search(text):
        cues = _unrolled(cues)
    return each(cues, _cue)


def _blocks(text: str) -> Iterator[Block | LeftOut]:
    """(time range, lines of text without tags) of every cue; a number or name above the range is passed over."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    for block in re.split(r"\n\n+", plain.strip()):
        lines = block.split("\n")
        starts = [number for number, line in enumerate(lines) if ARROW in line]
        if not starts and not lines[0].startswith(_NO_CUE):
            yield LeftOut("without a time range", f"{lines[0]!r:.40}")
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=False):
            # Where no blank line parts two cues, the number of the next one is the last line of this one.
            end -= end < len(lines) and lines[end - 1].strip().isdigit()
            yield lines[start], [html.unescape(_TAG.sub("", line)).strip() for line in lines[start + 1 : end]]


def _unrolled(cues: Iterator[Block | LeftOut]) -> Iterator[Block | LeftOut]:
    """Captions that roll up, as YouTube makes them, show every line twice or more: each is kept once."""
    above: list[str] = []
    for cue in cues:
        if isinstance(cue, LeftOut):
            yield cue
            continue
        shown = [line for line in cue[1] if line]
        fresh = [line for line in shown if line not in above]
        above = shown or above
        if fresh:
            yield cue[0], fresh


def _cue(cue: Block) -> Line:
    time_range, lines = cue
    found = _RANGE.match(time_range)
    if found is None:
        raise LeftOut("without a time range", f"{time_range!r:.40}")
    start_s, end_s = _seconds(*found.groups()[:4]), _seconds(*found.groups()[4:])
    return spoken(start_s, end_s, " ".join(" ".join(lines).split()))


def _seconds(hours: str | None, minutes: str, whole: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(whole) + int(fraction.ljust(3, "0")) / 1000
