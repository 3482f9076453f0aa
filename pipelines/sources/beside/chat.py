"""Comments as three tools write them in JSON, and how engaged each comment is.

TwitchDownloader: {"video": {"start"}, "comments": [{"content_offset_seconds", "commenter": {"_id"}, "message":
{"body", "fragments": [{"text"}]}}]}; Twitch's own chat of yt-dlp (rechat) has the same comments.
yt-dlp live_chat (YouTube): lines of {"replayChatItemAction": {"videoOffsetTimeMsec", "actions": [...]}}.
chat-downloader: a list, or lines, of {"time_in_seconds", "author": {"id"}, "message"}.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from pipelines.sources.beside.entries import Comment, Entries, LeftOut, at, comment, each, seconds, text_id

BOT_COMMAND = "!"
BOT_FACTOR = 0.1


def twitch(items: Sequence[Any], video: Any = None) -> Entries:
    """Comments of TwitchDownloader. `video` is its object of that name: `start` is where the video was cut out."""
    start_s = _number(at(video, "start"))
    if start_s > 0 and all(_number(at(item, "content_offset_seconds")) < start_s for item in items):
        start_s = 0.0  # some tools count from the cut already
    return each(items, partial(_twitch, start_s=start_s))


def _number(value: Any) -> float:
    """Seconds, 0 where the value is no time: that comment is then left out when it is parsed."""
    try:
        return max(0.0, seconds(value, ""))
    except LeftOut:
        return 0.0


def _twitch(item: Any, start_s: float) -> Comment:
    body = at(item, "message", "body")
    if not isinstance(body, str) or not body.strip():
        body = _joined(at(item, "message", "fragments"), "text")
    return comment(
        offset_s=seconds(at(item, "content_offset_seconds"), "content_offset_seconds") - start_s,
        commenter=_name(at(item, "commenter"), "_id", "name", "display_name"),
        text=body,
        id=at(item, "_id"),
    )


def chat_downloader(items: Iterable[Any]) -> Entries:
    """Comments of chat-downloader."""
    return each(items, _chat_downloader)


def _chat_downloader(item: Any) -> Comment:
    return comment(
        offset_s=seconds(at(item, "time_in_seconds"), "time_in_seconds"),
        commenter=_name(at(item, "author"), "id", "name", "display_name"),
        text=at(item, "message"),
        id=at(item, "message_id"),
    )


def youtube(items: Iterable[Any]) -> Entries:
    """Comments of a live_chat file of yt-dlp. Tickers, members who join and the like are no comments."""
    return each(_actions(items), _youtube)


def _actions(items: Iterable[Any]) -> Iterator[Any]:
    """(milliseconds, action) of every line, in order."""
    for item in items:
        action = at(item, "replayChatItemAction")
        listed = at(action, "actions")
        if isinstance(item, LeftOut) or not (isinstance(listed, list) and listed):
            yield item if isinstance(item, LeftOut) else LeftOut("that are no message")
            continue
        # A live that was recorded as it went on has the time beside the action, a replay inside it.
        time_ms = at(action, "videoOffsetTimeMsec") if isinstance(action, dict) else None
        for one in listed:
            yield at(item, "videoOffsetTimeMsec") if time_ms is None else time_ms, one


def _youtube(timed: tuple[Any, Any]) -> Comment:
    time_ms, action = timed
    item = at(action, "addChatItemAction", "item")
    renderer = next(iter(item.values()), None) if isinstance(item, dict) else None
    runs = at(renderer, "message", "runs")
    if not isinstance(runs, list):
        raise LeftOut("that are no message")
    offset_s = seconds(time_ms, "videoOffsetTimeMsec", per_second=1000)
    shown = at(renderer, "timestampText", "simpleText")
    if offset_s == 0 and isinstance(shown, str) and shown.startswith("-"):
        offset_s = -_clock_s(shown[1:])  # what was written before the start has 0 as its offset
    return comment(
        offset_s=offset_s,
        commenter=at(renderer, "authorExternalChannelId") or at(renderer, "authorName", "simpleText"),
        text="".join(_run(run) for run in runs),
        id=at(renderer, "id"),
    )


def _run(run: Any) -> str:
    """A piece of a message: text, or an emoji as its sign or its first shortcut."""
    text, shortcuts = at(run, "text"), at(run, "emoji", "shortcuts")
    if isinstance(text, str):
        return text
    sign = at(run, "emoji", "emojiId")
    if at(run, "emoji", "isCustomEmoji") or not isinstance(sign, str):
        sign = shortcuts[0] if isinstance(shortcuts, list) and shortcuts else ""
    return sign if isinstance(sign, str) else ""


def _clock_s(text: str) -> float:
    """Seconds of "1:02:03" or "2:03"."""
    total = 0.0
    for part in text.replace(",", "").split(":"):
        total = total * 60 + seconds(part, "timestampText")
    return total


def _name(who: Any, *keys: str) -> str:
    """The first of the keys that names a viewer, "" where none does."""
    return next((name for key in keys if (name := text_id(at(who, key)))), "")


def _joined(parts: Any, key: str) -> str:
    texts = [at(part, key) for part in parts] if isinstance(parts, list) else []
    return "".join(text for text in texts if isinstance(text, str))


def engagement(comments: Sequence[Comment]) -> list[float]:
    """How engaged each comment is, in the order given, >= 0.

    ln(1 + words) x ln(1 + comments of that viewer in the live) / times the same text was posted; a tenth of that for a
    bot command ("!move left"). Long messages of regulars come first, copied ones and commands last. Viewers whom nobody
    knows are no regulars.
    """
    by_viewer = Counter(said.commenter for said in comments)
    by_viewer[""] = 1
    by_text = Counter(_normal(said.text) for said in comments)
    values = []
    for said in comments:
        value = math.log1p(len(said.text.split())) * math.log1p(by_viewer[said.commenter])
        value /= by_text[_normal(said.text)]
        values.append(value * (BOT_FACTOR if said.text.lstrip().startswith(BOT_COMMAND) else 1.0))
    return values


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
