"""Questions about one segment, and a teacher's answers: the second task that a student may learn (LARM 2.1).

The teacher is who wrote the anchors: a large model, or the simulated world with its truth. An anchor is of a whole day,
so that a segment is asked about only where its own words bear out the day's theme: what the anchor says of theme, scene
and format then holds for the segment, and of the topics those hold that are in its words.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pipelines.semantics import author_day
from pipelines.semantics.author_day import PromptConfig
from pipelines.students.pairs import Pair
from pipelines.tables.contract import FIELDS
from pipelines.tables.storage import Storage

QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "theme": "Which theme is on?",
        "topic": "What is being talked about?",
        "scene": "Where does it take place?",
        "format": "How is it presented?",
        "on_screen": "What is on screen?",
    }
)
"""Kind -> question. `scene`, `format` and `on_screen` are answered from the frames; the last is a summary of all."""


def load(
    storage: Storage,
    config: PromptConfig,
    count: int,
    *,
    without: Collection[int] = (),
    only: Collection[int] | None = None,
) -> list[Pair]:
    """At most `count` pairs of each segment whose author has an anchor that day, oldest day first.

    Leaves out the authors of `without`, and all but those of `only`. Segments start at different questions, so that all
    are learnt alike. About 3 kB a pair are held in memory.
    """
    pairs: list[Pair] = []
    for day in storage.days("anchors"):
        anchors = {row["author_id"]: row for row in storage.read("anchors", day, ["author_id", *FIELDS]).to_pylist()}
        for author_id, rows in author_day.stream(storage, day):
            if author_id not in anchors or author_id in without or (only is not None and author_id not in only):
                continue
            for segment in rows:
                found = answers(segment, anchors[author_id])
                kinds = [kind for kind in QUESTIONS if kind in found]
                gathered = author_day.gather("", [segment], config) if kinds else None
                for at in range(min(count, len(kinds))):
                    kind = kinds[(len(pairs) + at) % len(kinds)]
                    assert gathered is not None
                    pairs.append(Pair(author_id=author_id, day=gathered, answer=found[kind], question=QUESTIONS[kind]))
    return pairs


def answers(segment: Mapping[str, Any], anchor: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """By kind of question, what is true of a segment by the anchor of its day; nothing where that cannot be told."""
    said = "\n".join([segment["speech"] or "", *(comment["text"] or "" for comment in segment["comments"])])
    if len(anchor["theme"]) != 1 or anchor["theme"][0] not in said:
        return {}
    found = {"theme": anchor["theme"][0]}
    if topics := sorted((topic for topic in anchor["topic"] if topic in said), key=said.index):
        found["topic"] = ", ".join(topics)
    if segment["frames"]:
        found |= {field: anchor[field][0] for field in ("scene", "format") if len(anchor[field]) == 1}
    if {"scene", "format"} <= found.keys():
        found["on_screen"] = f"{found['theme']}, {found['format']}, {found['scene']}"
    return found
