"""What was said in a video, handed out segment by segment, and the account of what no segment took."""

from collections.abc import Sequence
from typing import Any

from pipelines.sources.beside.chat import engagement
from pipelines.sources.beside.entries import Comment, Line, Tally
from pipelines.sources.rows import stable_id


class PlacedComments:
    """The comments of a live. Segments ask for theirs in the order of time."""

    def __init__(self, comments: Sequence[Comment], tally: Tally) -> None:
        """Args: `comments` in the order of time; `tally` counts them as used or left out."""
        self._waiting = list(zip(comments, engagement(comments), strict=True))[::-1]
        self._tally = tally
        self._end_s: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether there are comments that no segment has asked for yet."""
        return bool(self._waiting)

    def between(self, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """Comments of [start_s, end_s) in the form of the contract; earlier ones that no segment took are left out."""
        self._end_s = end_s
        rows = []
        while self._waiting and self._waiting[-1][0].offset_s < end_s:
            comment, engaged = self._waiting.pop()
            if comment.offset_s < start_s:
                _leave(self._tally, comment.offset_s)
                continue
            rows.append(
                {
                    "user_id": stable_id(comment.commenter),
                    "offset_ms": int((comment.offset_s - start_s) * 1000),
                    "text": comment.text,
                    "engagement": engaged,
                }
            )
        self._tally.used += len(rows)
        return rows

    def finish(self) -> None:
        """Counts what is left after the last segment."""
        while self._waiting:
            _leave_after(self._tally, self._waiting.pop()[0].offset_s, self._end_s)


class PlacedLines:
    """The speech of a live. Segments ask for theirs in the order of time; a line may be in several."""

    def __init__(self, lines: Sequence[Line], tally: Tally) -> None:
        """Args: `lines` in the order of their start; `tally` counts them as used or left out."""
        self._waiting = list(lines)[::-1]
        self._running: list[Line] = []
        self._tally = tally
        self._end_s: float | None = None

    def between(self, start_s: float, end_s: float) -> str:
        """Text of the lines that overlap [start_s, end_s), joined by spaces; one without length is where it starts."""
        self._end_s = end_s
        self._running = [line for line in self._running if line.end_s > start_s]
        while self._waiting and self._waiting[-1].start_s < end_s:
            line = self._waiting.pop()
            if line.end_s > start_s or line.start_s >= start_s:
                self._running.append(line)
                self._tally.used += 1
            else:
                _leave(self._tally, line.start_s)
        return " ".join(line.text for line in self._running)

    def finish(self) -> None:
        """Counts what is left after the last segment."""
        while self._waiting:
            _leave_after(self._tally, self._waiting.pop().start_s, self._end_s)


def _leave(tally: Tally, time_s: float) -> None:
    where = "before the start of the video" if time_s < 0 else "where the video has no segment"
    tally.leave(where, f"the first at {time_s:.1f} s")


def _leave_after(tally: Tally, time_s: float, end_s: float | None) -> None:
    if end_s is None:
        tally.leave("of a video without segments")
    else:
        tally.leave(f"after the end of the video at {end_s:.1f} s", f"the first at {time_s:.1f} s")
