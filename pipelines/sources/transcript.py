"""What is said in a live: one JSON object a line with start_s, end_s (seconds from the start) and text."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Line:
    """One stretch of speech."""

    start_s: float
    end_s: float
    text: str


def read(path: str) -> tuple[list[Line], str]:
    """(lines in time order, "" or what was wrong with those left out). Raises OSError where there is no such file."""
    lines, bad, total = [], [], 0
    with Path(path).open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.strip():
                continue
            total += 1
            try:
                lines.append(_line(raw))
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
                bad.append(f"line {number}: {type(error).__name__}: {error}")
    problem = f"{len(bad)} of {total} line(s) left out, first {bad[0]}" if bad else ""
    return sorted(lines, key=lambda line: line.start_s), problem


def _line(raw: bytes) -> Line:
    item = json.loads(raw.decode("utf-8-sig"))
    start_s, end_s, text = float(item["start_s"]), float(item["end_s"]), item["text"]
    if not isinstance(text, str):
        raise TypeError(f"text: wanted a string, got {text!r:.50}")
    if not (math.isfinite(start_s) and start_s <= end_s < math.inf):
        raise ValueError(f"wanted start_s <= end_s, both finite, got {start_s} and {end_s}")
    return Line(start_s=start_s, end_s=end_s, text=text.encode("utf-8", "replace").decode().strip())


def between(lines: Sequence[Line], start_s: float, end_s: float) -> str:
    """Text of the lines that overlap [start_s, end_s), joined by spaces."""
    return " ".join(
        line.text for line in lines if line.start_s < end_s and (line.end_s > start_s or line.start_s >= start_s)
    )
