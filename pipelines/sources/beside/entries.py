"""Entries of a file beside a video, comments or stretches of speech, and the account of what became of each."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


class Unreadable(ValueError):
    """A whole file cannot be used; the message is one sentence on what it is, what was wanted and what to do."""


class LeftOut(ValueError):
    """One entry cannot be used; the message is why, in the same words for all entries of which it is true."""

    def __init__(self, reason: str, example: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.example = example


@dataclass(frozen=True, kw_only=True)
class Comment:
    """One message of the chat."""

    commenter: str
    """Who wrote it; "" = nobody knows, as with accounts that were deleted."""
    offset_s: float
    """Seconds from the start of the video; may lie outside it."""
    text: str
    id: str = ""
    """The platform's own id of the message; "" = none."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One stretch of speech, in seconds from the start of the video."""

    start_s: float
    end_s: float
    text: str


Entries = Iterator[Comment | Line | LeftOut]


@dataclass(kw_only=True)
class Tally:
    """What was found in one file, what was used, and why the rest was not: found = used + left out."""

    unit: str
    """What is counted."""
    found: int = 0
    used: int = 0
    left: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By reason: how many, and an example."""
    note: str = ""
    """Something else that a person should know of the file."""

    def leave(self, reason: str, example: str = "", count: int = 1) -> None:
        """Counts entries that were left out; the first example of a reason is kept."""
        before, first = self.left.get(reason, (0, example))
        self.left[reason] = (before + count, first)

    @property
    def left_out(self) -> int:
        """How many were left out, for all reasons."""
        return sum(count for count, _ in self.left.values())

    @property
    def why(self) -> str:
        """Reasons with counts and examples, "" where everything was used and nothing is worth saying."""
        most_first = sorted(self.left.items(), key=lambda item: -item[1][0])
        reasons = ", ".join(f"{n} {reason}{f' ({first})' if first else ''}" for reason, (n, first) in most_first)
        if reasons:
            reasons = f"{self.left_out} of {self.found} {self.unit}(s) left out: {reasons}"
        return "; ".join(part for part in (reasons, self.note) if part)

    def row(self, file: str, kind: str) -> dict[str, Any]:
        """The file's row of `ingest_report`. Raises RuntimeError where the account does not balance."""
        if self.found != self.used + self.left_out:
            raise RuntimeError(f"{file}: found = used + left out does not hold: {self}")
        counts = {"found": self.found, "used": self.used, "left_out": self.left_out}
        return {"file": file, "kind": kind, **counts, "why": self.why}


def unread(file: str, kind: str, why: str) -> dict[str, Any]:
    """The row of `ingest_report` of a file that was not read: it counts as one thing left out."""
    return {"file": file, "kind": kind, "found": 1, "used": 0, "left_out": 1, "why": why}


def each(items: Iterable[Any], parse: Callable[[Any], T]) -> Iterator[T | LeftOut]:
    """What `parse` makes of every item, or why it could make nothing of it."""
    for item in items:
        if isinstance(item, LeftOut):
            yield item
            continue
        try:
            yield parse(item)
        except LeftOut as left:
            yield left


def at(value: Any, *keys: str) -> Any:
    """What lies at the end of nested objects, None where the path breaks off."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def seconds(value: Any, name: str, per_second: float = 1.0) -> float:
    """A time as finite seconds, from a number or its text. Raises LeftOut naming the field otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise LeftOut(f"without a number as {name}", "" if value is None else f"{value!r:.40}")
    try:
        number = float(value) / per_second
    except (ValueError, OverflowError):
        raise LeftOut(f"without a number as {name}", f"{value!r:.40}") from None
    if not math.isfinite(number):
        raise LeftOut(f"without a finite number as {name}", f"{value!r:.40}")
    return number


def text_id(value: Any) -> str:
    """An id as text, "" where the value is none."""
    if isinstance(value, str):
        return utf8(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def utf8(text: str) -> str:
    """The text with "?" for each half of a surrogate pair: JSON may hold one, and no column can."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def comment(*, offset_s: float, commenter: Any, text: Any, id: Any) -> Comment:
    """A comment; whatever is no id is "". Raises LeftOut where it has no text."""
    if not isinstance(text, str) or not text.strip():
        raise LeftOut("without text")
    return Comment(offset_s=offset_s, commenter=text_id(commenter), text=text, id=text_id(id))


def spoken(start_s: float, end_s: float, text: Any) -> Line:
    """A stretch of speech. Raises LeftOut where it has no text or ends before it starts."""
    if not isinstance(text, str) or not text.strip():
        raise LeftOut("without text")
    if end_s < start_s:
        raise LeftOut("that end before they start", f"from {start_s:g} to {end_s:g} s")
    return Line(start_s=start_s, end_s=end_s, text=text.strip())
