"""What is said in a video, as JSON: our own lines and the shapes of Whisper and its kin, told apart entry by entry.

{"start_s": 0.0, "end_s": 4.0, "text": "..."}              seconds from the start of the video
{"start": 0.0, "end": 4.0, "text": "..."}                  Whisper, faster-whisper, WhisperX (in `segments`)
{"timestamp": [0.0, 4.0], "text": "..."}                   transformers, insanely-fast-whisper (in `chunks`)
{"offsets": {"from": 0, "to": 4000}, "text": "..."}        whisper.cpp, milliseconds (in `transcription`)
"""

from collections.abc import Iterable
from typing import Any

from pipelines.sources.beside.entries import Entries, LeftOut, Line, at, each, seconds, spoken

WANTED = "start_s, end_s and text (or start, end and text)"


def segments(items: Iterable[Any]) -> Entries:
    """Stretches of speech, in the order of the file."""
    return each(items, _segment)


def _segment(item: Any) -> Line:
    text, pair = at(item, "text"), at(item, "timestamp")
    if isinstance(pair, list) and len(pair) == 2:
        return _line(pair[0], pair[1], text, "timestamp")
    if isinstance(at(item, "offsets"), dict):
        return _line(at(item, "offsets", "from"), at(item, "offsets", "to"), text, "offsets", per_second=1000)
    for start, end in (("start_s", "end_s"), ("start", "end")):
        if isinstance(item, dict) and start in item:
            return _line(item[start], item.get(end), text, f"{start} and {end}")
    raise LeftOut(f"without {WANTED}", f"{item!r:.40}")


def _line(start: Any, end: Any, text: Any, name: str, per_second: float = 1.0) -> Line:
    start_s = seconds(start, name, per_second)
    # The last stretch of a recording that was cut has no end: it belongs where it starts.
    return spoken(start_s, start_s if end is None else seconds(end, name, per_second), text)
