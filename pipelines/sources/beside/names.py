"""How a file beside a video is called, and what it is then meant to be."""

import re
from pathlib import PurePosixPath

from pipelines.sources.beside.read import CHAT, TRANSCRIPT

ENDINGS = {
    ".chat.json": CHAT,
    ".chat.jsonl": CHAT,
    ".live_chat.json": CHAT,
    ".rechat.json": CHAT,
    ".danmaku.xml": CHAT,
    ".xml": CHAT,
    ".transcript.jsonl": TRANSCRIPT,
    ".transcript.json": TRANSCRIPT,
    ".jsonl": TRANSCRIPT,
    ".json": TRANSCRIPT,
    ".srt": TRANSCRIPT,
    ".vtt": TRANSCRIPT,
}
"""What follows the name of a live, in the order in which files are tried; each may also end in .gz. A plain .json or
.jsonl may as well hold a chat."""

EITHER = (".json", ".jsonl")
WANTED = f"<live> and one of {', '.join(ENDINGS)} (or with .gz)"

_ORDER = {ending: number for number, ending in enumerate(ENDINGS)}
_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")


def kind_of(name: str) -> str | None:
    """What a file of that name is meant to be, None where its ending says nothing."""
    return next((ENDINGS[ending] for ending, _ in _split(name)), None)


def may_be(name: str) -> set[str]:
    """The kinds that a file of that name may be."""
    ending = next(ending for ending, _ in _split(name))
    return {CHAT, TRANSCRIPT} if ending in EITHER else {ENDINGS[ending]}


def readings(name: str) -> list[tuple[str, tuple[int, str]]]:
    """(name of the live, place in the order) for every way to read the name; captions may name their language."""
    found = [(live, (_ORDER[ending], "")) for ending, live in _split(name)]
    for ending, live in _split(name):
        language = PurePosixPath(live).suffix
        if ending in (".srt", ".vtt") and _LANGUAGE.fullmatch(language):
            found.append((live.removesuffix(language), (_ORDER[ending], language)))
    return found


def _split(name: str) -> list[tuple[str, str]]:
    """(ending, what comes before it) for every ending that fits, the longest first."""
    plain = name[:-3] if name.lower().endswith(".gz") else name
    fitting = [ending for ending in ENDINGS if plain.lower().endswith(ending) and len(plain) > len(ending)]
    return [(ending, plain[: -len(ending)]) for ending in sorted(fitting, key=len, reverse=True)]
