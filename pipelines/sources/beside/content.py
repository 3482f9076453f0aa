"""The text of a file beside a video, whatever its compression and encoding, and the JSON in it."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.sources.beside.entries import LeftOut, Unreadable, utf8

MAX_BYTES = 2**30
"""Most bytes of text: a small compressed file may unpack to any size."""

GZIP = b"\x1f\x8b"
_PACKED = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard", b"7z\xbc": "7z"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with that one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """The text of one file."""

    text: str
    damaged: bool
    """Some bytes were not of the encoding, and are lone surrogates U+DC80 to U+DCFF in the text."""


def of(path: str) -> Content:
    """The content of a file: plain or gzip (by its first bytes), UTF-8, or UTF-16 and UTF-32 by their marks.

    Raises Unreadable where the file cannot be read, holds packed data of another kind, or more than MAX_BYTES.
    """
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"the file cannot be read ({error.strerror}); change its permissions") from error
    if data.startswith(GZIP):
        data = _unpacked(data)
    if len(data) > MAX_BYTES:
        raise Unreadable(f"the file holds more than {MAX_BYTES >> 20} MiB of text; cut it to the length of the video")
    for magic, name in _PACKED.items():
        if data.startswith(magic):
            raise Unreadable(f"the file is packed as {name}, wanted plain text or gzip; unpack it")
    encoding, data = _encoding(data)
    try:
        return Content(text=data.decode(encoding), damaged=False)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise Unreadable(f"the file breaks off inside its {encoding.upper()} text; save it as UTF-8") from error
    return Content(text=data.decode("utf-8", "surrogateescape"), damaged=True)


def _unpacked(data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable("the gzip data are damaged or break off; download the file again") from error


def _encoding(data: bytes) -> tuple[str, bytes]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding, data[len(mark) :]
    if len(data) >= 2 and (data[0] == 0) != (data[1] == 0):  # ASCII signs, as all shapes start with, in UTF-16
        return ("utf-16-be" if data[0] == 0 else "utf-16-le"), data
    return "utf-8", data


@dataclass(frozen=True, kw_only=True)
class Json:
    """The JSON of a file."""

    value: Any = None
    """One value, where the whole text is one."""
    lines: Iterator[Any] | None = None
    """Else the value of each line that is not blank, read as they are asked for; LeftOut where a line is no JSON."""


def json_of(text: str) -> Json | None:
    """The text as JSON or JSON lines, None where it is neither. Raises Unreadable for endless nesting."""
    try:
        return Json(value=json.loads(text))
    except RecursionError as error:
        raise Unreadable("the JSON is nested too deep to be a chat or a transcript") from error
    except ValueError:
        # Not a single value: it may still be lines of JSON, of which a few may be broken.
        return Json(lines=_lines(text)) if any(isinstance(value, dict) for value in _lines(text)) else None


def _lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            yield LeftOut("that are no JSON", f"line {number}")


def described(text: str) -> str:
    """What a text that is no known shape looks like, for the person who put it there."""
    start = text[:200].lstrip()
    if "\0" in text[:1000]:
        return "binary data"
    if start.startswith(("{", "[")):
        return _described_json(text)
    if start.lower().startswith(("<!doctype html", "<html")):
        return "a page of HTML"
    return "XML of another kind" if start.startswith("<") else f"text that starts with {start.split(chr(10))[0]!r:.60}"


def _described_json(text: str) -> str:
    found = json_of(text)
    if found is None:
        return "JSON that breaks off or is damaged"
    value, kind = found.value, "a JSON object"
    if found.lines is not None:
        value, kind = next(found.lines), "JSON lines of objects"
        if not isinstance(value, dict):
            return "JSON that breaks off or is damaged"
    elif isinstance(value, list):
        value, kind = next((item for item in value if isinstance(item, dict)), None), "a JSON list of objects"
        if value is None:
            return "a JSON list without objects"
    keys = utf8(", ".join(str(key)[:30] for key in list(value)[:6]))
    return f"{kind} with the keys {keys}" if keys else f"{kind} without keys"
