"""Importance of words and of parts of an anchor."""

from functools import cache

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig
from pipelines.analysis import importance
from pipelines.tables.anchor_text import field_texts
from pipelines.tables.contract import FIELDS

ANCHOR = dict.fromkeys(FIELDS, []) | {"theme": ["big  drum"], "topic": ["é"]}


@cache
def tokenizer(max_tokens: int = 200) -> LiveStreamingTokenizer:
    """Tokens are bytes, spaces included."""
    base = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    config = TokenizerConfig(min_frequency=9, max_tokens=max_tokens)
    return LiveStreamingTokenizer.train([field_texts(ANCHOR)], base, config)


def test_a_word_has_its_own_tokens_and_the_space_before_it() -> None:
    count = int(tokenizer().encode([field_texts(ANCHOR)]).lengths[0])
    found = importance.by_word(ANCHOR, np.full(count, 1 / count), tokenizer())
    assert found["tokens"] == count and found["cls"] == pytest.approx(1 / count)
    words = [[(w["word"], w["tokens"]) for w in field] for field in found["fields"]]
    assert words[FIELDS.index("theme")] == [("theme:", 6), ("big", 4), ("drum", 6)]  # two spaces before drum
    assert words[FIELDS.index("topic")] == [("topic:", 6), ("é", 3)]  # a space and two bytes
    assert words[FIELDS.index("scene")] == [("scene:", 7)]  # the space at the end has no other word
    total = found["cls"] + sum(w["importance"] for field in found["fields"] for w in field)
    assert total == pytest.approx(1.0)


def test_the_weights_of_a_word_are_those_of_its_tokens() -> None:
    short = tokenizer(1 + len("point of interest: theme: big"))
    spans = short.spans(field_texts(ANCHOR))
    weights = np.arange(len(spans) + 1, dtype=np.float64)
    theme = importance.by_word(ANCHOR, weights, short)["fields"][FIELDS.index("theme")]
    first = 1 + len("point of interest: theme:")
    assert theme[1] == {"word": "big", "importance": sum(range(first, first + 4)), "tokens": 4}
    assert theme[2] == {"word": "drum", "importance": 0.0, "tokens": 0}  # cut off


def test_parts_tell_names_from_phrases() -> None:
    texts = field_texts(ANCHOR)
    spans = tokenizer().spans(texts)
    count = 1 + len(spans)
    weights = np.zeros(count)
    weights[0] = 0.25
    weights[1 + next(i for i, (field, _, end) in enumerate(spans) if texts[field][:end].endswith("big"))] = 0.75
    found = {row["part"]: row for row in importance.by_part([ANCHOR], [weights], tokenizer())}
    assert set(found) == {"[CLS]", "names of fields", *FIELDS}
    assert {part for part, row in found.items() if row["importance"]} == {"[CLS]", "theme"}
    assert found["theme"]["importance"] == pytest.approx(0.75) and found["[CLS]"]["importance"] == pytest.approx(0.25)
    names = sum(len(text[: text.index(":") + 1]) for text in texts)
    assert found["names of fields"]["tokens"] == pytest.approx(names / count)
    assert found["theme"]["tokens"] == pytest.approx(len(" big  drum") / count)
    assert sum(row["tokens"] for row in found.values()) == pytest.approx(1.0)


def test_parts_are_means_over_anchors() -> None:
    count = int(tokenizer().encode([field_texts(ANCHOR)]).lengths[0])
    first, second = np.eye(count)[0], np.eye(count)[1]
    found = importance.by_part([ANCHOR, ANCHOR], [first, second], tokenizer())
    assert [row["importance"] for row in found[:2]] == [0.5, 0.5]
