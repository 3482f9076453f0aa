"""Which comments of an author's day the model reads: the most engaged viewers', each text once.

SARM 3.1.2 keeps the top 32 comments per stream by engagement value and semantic relevance.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MAX_CHARS = 120


def select(segments: Sequence[Mapping[str, Any]], count: int) -> list[str]:
    """At most `count` comment texts, most engaged first, in a form that fits a prompt line.

    Relevance is what a reader can use: commands to bots, links, and texts without a letter say nothing about a live.
    """
    best: dict[str, float] = {}
    for segment in segments:
        for comment in segment["comments"]:
            text = " ".join((comment["text"] or "").split())[:MAX_CHARS]
            if is_relevant(text):
                best[text] = max(best.get(text, float("-inf")), float(comment["engagement"] or 0.0))
    return sorted(best, key=lambda text: (-best[text], text))[:count]


def is_relevant(text: str) -> bool:
    """False for bot commands, links and texts without a letter."""
    return any(c.isalpha() for c in text) and not text.startswith("!") and "://" not in text
