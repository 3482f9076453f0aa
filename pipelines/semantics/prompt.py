"""The prompt that asks a Qwen-VL model for a semantic anchor, its JSON schema, and the anchor's canonical text.

Order and steps follow SARM, Appendix B: profile, keyframes, speech, comments, then three steps that end in JSON.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.tables.contract import FIELD_LIMITS, FIELDS
from pipelines.tables.fingerprint import digest

SECTIONS = ("[Author Profile]", "[Visual KeyFrames]", "[Audio Transcription]", "[Text Comments]")

MAX_PHRASE_CHARS = 64


INSTRUCTION = """Above is what is known of one live streamer today: who they are, frames in time order, what was said, \
and what viewers wrote. You know live streaming well. Read all of it, then produce summary tags that will be used to \
distribute, recommend and search the stream. Work in three steps.
Step 1, understand: what is going on, which theme dominates, what the streamer wants.
Step 2, propose tags of six kinds:
point_of_interest: what draws viewers in, at most 3 (such as "middle-aged man angrily reviewing cars");
theme: one short phrase for the whole stream, at most 1;
topic: matters people discuss in it, at most 2;
target_audience: groups of users it suits, at most 2;
format: how it is presented (such as "single-author live-streaming", "outdoor live-streaming");
scene: where it takes place (such as "home interior", "virtual studio", "mobile screen").
Step 3, classify: answer with one JSON object only, its keys being the six kinds above in that order, each value a \
list of phrases, even if it is empty or holds one item."""


def schema() -> dict[str, Any]:
    """JSON schema of the answer, for structured outputs. Bounded phrases make every answer end."""
    phrase = {"type": "string", "minLength": 1, "maxLength": MAX_PHRASE_CHARS}
    return {
        "type": "object",
        "properties": {field: {"type": "array", "items": phrase, "maxItems": FIELD_LIMITS[field]} for field in FIELDS},
        "required": list(FIELDS),
        "additionalProperties": False,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a job asks about what it shows the model."""

    job: str
    """Its section of the configuration, as errors name it."""
    instruction: str
    """Text behind what is shown; "" = none."""
    answered: bool
    """Whether the model writes an answer, for which tokens are kept."""


ANCHOR = Question(job="anchors", instruction=INSTRUCTION, answered=True)
"""Asks for the anchor of an author's day."""


PROMPT_HASH = digest([SECTIONS, INSTRUCTION])
SCHEMA_HASH = digest(schema())


def content(
    *,
    profile: str,
    frames: Sequence[bytes],
    speech: Sequence[str],
    comments: Sequence[str],
    instruction: str = INSTRUCTION,
) -> list[dict[str, Any]]:
    """One user message's content parts in OpenAI form, frames as data URLs."""
    before = f"{SECTIONS[0]}\n{_plain(profile)}\n{SECTIONS[1]}\n"
    lines = [SECTIONS[2], *map(_plain, speech), SECTIONS[3], *map(_plain, comments), instruction]
    return [
        {"type": "text", "text": before},
        *({"type": "image_url", "image_url": {"url": data_url(frame)}} for frame in frames),
        {"type": "text", "text": "\n" + "\n".join(lines)},
    ]


def with_marks(content: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """`content` in the form that chat templates read: a picture is a mark, its pixels travel beside the prompt."""
    return [{"type": "image"} if part["type"] == "image_url" else part for part in content]


def rendered(content: Sequence[Mapping[str, Any]], chat_template: str) -> str:
    """The prompt of one user message, as text, by a checkpoint's Jinja template. Loads no torch."""
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = [{"role": "user", "content": with_marks(content)}]
    (text,), _ = render_jinja_template([turns], chat_template=chat_template, add_generation_prompt=True)
    return str(text)


def _plain(text: str) -> str:
    """What people wrote, with Qwen's control tokens (<|im_end|>, <|image_pad|>) broken: no viewer may end a turn."""
    return text.replace("<|", "< |")


def data_url(jpeg: bytes) -> str:
    """A JPEG as a data URL, so that no engine ever fetches from outside."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def answer(anchor: Mapping[str, Sequence[str]]) -> str:
    """The JSON answer for an anchor, in the compact form that models are taught."""
    return json.dumps({field: list(anchor[field]) for field in FIELDS}, separators=(",", ":"), ensure_ascii=False)


def parse(text: str) -> dict[str, list[str]]:
    """The six fields of an answer. Raises ValueError that says what is wrong with it."""
    raw = json.loads(text)
    if not isinstance(raw, dict) or set(raw) != set(FIELDS):
        raise ValueError(f"wanted the keys {', '.join(FIELDS)}, got {str(text)[:200]!r}")
    for field in FIELDS:
        values = raw[field]
        if not isinstance(values, list) or any(not isinstance(v, str) for v in values):
            raise ValueError(f"{field}: wanted a list of phrases, got {values!r}")
        if len(values) > FIELD_LIMITS[field]:
            raise ValueError(f"{field}: wanted at most {FIELD_LIMITS[field]} phrases, got {len(values)}")
        if any("\ud800" <= c <= "\udfff" for v in values for c in v):
            raise ValueError(f"{field}: wanted text that UTF-8 can hold, got {values!r}")
    return {field: list(dict.fromkeys(" ".join(v.split()) for v in raw[field] if v.strip())) for field in FIELDS}
