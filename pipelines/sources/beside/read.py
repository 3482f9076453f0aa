"""A file beside a video, read by what it holds. Its name says where to look, and what it is meant to be."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from pipelines.sources.beside import content
from pipelines.sources.beside.captions import ARROW, captions
from pipelines.sources.beside.chat import chat_downloader, twitch, youtube
from pipelines.sources.beside.danmaku import danmaku
from pipelines.sources.beside.entries import Comment, Entries, LeftOut, Line, Tally, Unreadable, at, utf8
from pipelines.sources.beside.transcript import segments

CHAT = "chat"
TRANSCRIPT = "transcript"
WANTED = {
    CHAT: "a chat: TwitchDownloader's JSON (an object with a list `comments`), yt-dlp's live_chat (JSON lines with "
    "`replayChatItemAction`), chat-downloader's list (`time_in_seconds`, `author`, `message`) or Bilibili's XML "
    "(<d p=...> in <i>)",
    TRANSCRIPT: "a transcript: JSON lines or a list with start_s, end_s, text (or start, end, text), Whisper's object "
    "(a list `segments`, `transcription` or `chunks`), SRT or WebVTT",
}
_UNITS = {CHAT: "comment", TRANSCRIPT: "line"}
_LISTS = {"comments": CHAT, "segments": TRANSCRIPT, "transcription": TRANSCRIPT, "chunks": TRANSCRIPT}
"""Keys of an object that hold its entries."""
_NOTHING = ("jsonl", "live_chat.json", "srt", "vtt")
"""Endings of files that are empty where nothing was said: a line or a block for each entry."""
_BAD_BYTES = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, kw_only=True)
class Read:
    """What one file holds: comments or lines in the order of time, and the account of all entries found."""

    kind: str
    comments: list[Comment]
    lines: list[Line]
    tally: Tally


def read(path: str, kind: str) -> Read:
    """The entries of a file; `kind` is what its name says it is, and decides only where its content does not.

    Raises Unreadable where it is no chat and no transcript.
    """
    text = content.of(path)
    kind, entries = _entries(text.text.strip(), path, kind)
    tally = Tally(unit=_UNITS[kind])
    kept: list[Any] = []
    for entry in _once(_storable(entries, text.damaged)):
        tally.found += 1
        if isinstance(entry, LeftOut):
            tally.leave(entry.reason, entry.example)
        else:
            kept.append(entry)
    if not tally.found:
        tally.note = f"it holds no {tally.unit}"
    comments = sorted((e for e in kept if isinstance(e, Comment)), key=lambda e: e.offset_s)
    lines = sorted((e for e in kept if isinstance(e, Line)), key=lambda e: e.start_s)
    return Read(kind=kind, comments=comments, lines=lines, tally=tally)


def _entries(text: str, path: str, kind: str) -> tuple[str, Entries]:
    """The kind that the text is and what it holds."""
    if not text:
        if path.lower().removesuffix(".gz").endswith(_NOTHING):
            return kind, iter(())
        raise Unreadable(f"the file is empty; wanted {WANTED[kind]}")
    if text.startswith("<") and "<html" not in text[:1000].lower():
        return CHAT, danmaku(text)
    if text.startswith("WEBVTT") or (text[0] not in "{[<" and ARROW in text):
        return TRANSCRIPT, captions(text)
    found = content.json_of(text) if text[0] in "{[" else None
    known = found and (_of_lines(found.lines) if found.lines is not None else _of_value(found.value, kind))
    if not known:
        raise Unreadable(f"got {content.described(text)}, wanted {WANTED[kind]}")
    return known


def _of_value(value: Any, kind: str) -> tuple[str, Entries] | None:
    """The entries of one JSON value: those of a list in it, of the list that it is, or the one that it is."""
    for key, listed_kind in _LISTS.items():
        listed = at(value, key)
        if isinstance(listed, list):
            return listed_kind, twitch(listed, at(value, "video")) if listed_kind == CHAT else segments(listed)
    if value == []:
        return kind, iter(())
    return _of_lines(iter(value if isinstance(value, list) else [value]))


def _of_lines(items: Iterator[Any]) -> tuple[str, Entries] | None:
    """The entries of a list: the first object of a known shape tells the shape of all. None where no object does."""
    before: list[Any] = []
    for item in items:
        before.append(item)
        everything: Iterable[Any] = chain(before, items)
        if at(item, "content_offset_seconds") is not None:
            return CHAT, twitch(list(everything))
        if isinstance(at(item, "replayChatItemAction"), dict):
            return CHAT, youtube(everything)
        if at(item, "time_in_seconds") is not None:
            return CHAT, chat_downloader(everything)
        if isinstance(item, dict) and "text" in item and item.keys() & {"start_s", "start", "timestamp", "offsets"}:
            return TRANSCRIPT, segments(everything)
    return None


def _storable(entries: Entries, damaged: bool) -> Entries:
    """The entries with text that a column can hold; an entry with bytes that were not UTF-8 is left out."""
    for entry in entries:
        if isinstance(entry, LeftOut) or entry.text.isascii():
            yield entry
        elif damaged and _BAD_BYTES.search(entry.text):
            yield LeftOut("with bytes that are not UTF-8, as which the file should be saved")
        else:
            yield replace(entry, text=utf8(entry.text))


def _once(entries: Entries) -> Entries:
    """The entries, each message once: parts of a chat that were downloaded one by one overlap."""
    seen: set[str] = set()
    for entry in entries:
        if isinstance(entry, Comment) and entry.id:
            if entry.id in seen:
                yield LeftOut("that are there twice", f"id {entry.id:.40}")
                continue
            seen.add(entry.id)
        yield entry
