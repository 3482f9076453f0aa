"""The one text form of an anchor: six named fields, in the order of the contract."""

import re
from collections.abc import Mapping, Sequence

from pipelines.tables.contract import FIELDS

NAMES = {field: f"{field.replace('_', ' ')}:" for field in FIELDS}
"""What stands before a field's phrases in an anchor's text."""


def field_texts(anchor: Mapping[str, Sequence[str]]) -> list[str]:
    """The anchor field by field, as the tokenizer reads it (A_s of SARM eq. 1)."""
    return [f"{name} {', '.join(anchor[field])}" for field, name in NAMES.items()]


def canonical_text(anchor: Mapping[str, Sequence[str]]) -> str:
    """The one text form of an anchor."""
    return "; ".join(field_texts(anchor))


def phrases_of(anchor: Mapping[str, Sequence[str]]) -> list[str]:
    """Every phrase of the anchor behind the name of its field: the same words in two fields are two phrases."""
    return [f"{name} {phrase}" for field, name in NAMES.items() for phrase in anchor[field]]


def words_of(anchor: Mapping[str, Sequence[str]]) -> list[str]:
    """The words of all fields in lower case, each once, in the order of their first place."""
    text = " ".join(phrase for field in FIELDS for phrase in anchor[field])
    return list(dict.fromkeys(re.findall(r"\w+", text.lower())))
