"""The chat of a live as comments, from the JSON that TwitchDownloader writes.

Of that shape only `comments[].content_offset_seconds`, `.commenter._id` and `.message.body` are read.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOT_COMMAND = "!"
BOT_FACTOR = 0.1


class ChatError(ValueError):
    """The file is not a chat at all; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Comment:
    """One message: who, when (seconds from the start of the live), what."""

    commenter: str
    offset_s: float
    text: str


def read(path: str) -> tuple[list[Comment], str]:
    """(comments in time order, "" or what was wrong with those left out).

    Raises ChatError where the file is not UTF-8 JSON with a list of comments.
    """
    try:
        raw = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ChatError(f"{type(error).__name__}: {error}") from error
    listed = raw.get("comments") if isinstance(raw, dict) else None
    if not isinstance(listed, list):
        raise ChatError(f"wanted an object with a list `comments`, got {type(raw).__name__} without one")
    comments, bad = [], []
    for number, item in enumerate(listed):
        try:
            comments.append(_comment(item))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            bad.append(f"comment {number}: {type(error).__name__}: {error}")
    problem = f"{len(bad)} of {len(listed)} comment(s) left out, first {bad[0]}" if bad else ""
    return sorted(comments, key=lambda comment: comment.offset_s), problem


def _comment(item: Any) -> Comment:
    offset_s, body, commenter = (
        float(item["content_offset_seconds"]),
        item["message"]["body"],
        item["commenter"]["_id"],
    )
    if not math.isfinite(offset_s):
        raise ValueError(f"content_offset_seconds: wanted a finite number, got {offset_s}")
    if not isinstance(body, str) or not isinstance(commenter, str | int):
        raise TypeError(f"wanted text and an id, got {body!r:.50} and {commenter!r:.50}")
    # JSON may hold half of a surrogate pair, which no UTF-8 column can.
    return Comment(
        commenter=_storable(str(commenter)),
        offset_s=max(0.0, offset_s),
        text=_storable(body),
    )


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def engagement(comments: Sequence[Comment]) -> list[float]:
    """How engaged each comment is, in the order given, >= 0.

    ln(1 + words) x ln(1 + comments of that viewer in the live) / times the same text was posted; a tenth of that for a
    bot command ("!move left"). Long messages of regulars come first, copied ones and commands last.
    """
    by_viewer = Counter(comment.commenter for comment in comments)
    by_text = Counter(_normal(comment.text) for comment in comments)
    values = []
    for comment in comments:
        value = math.log1p(len(comment.text.split())) * math.log1p(by_viewer[comment.commenter])
        value /= by_text[_normal(comment.text)]
        values.append(value * (BOT_FACTOR if comment.text.lstrip().startswith(BOT_COMMAND) else 1.0))
    return values


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
