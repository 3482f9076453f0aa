"""What [TAR] reads in the text of anchors: importance by attention rollout, of words and of parts of the anchor."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.embeddings import IdTable
from models.sarm.anchor_tokens import AnchorTokens
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer
from models.sarm.model import SARM
from models.sarm.rollout import token_importance
from pipelines.tables.anchor_text import field_texts
from pipelines.tables.contract import FIELDS

CLS, NAMES = "[CLS]", "names of fields"
PARTS = (CLS, NAMES, *FIELDS)
"""Where a token may stand: at the head of the anchor, in the name of a field, in the phrases of a field."""

_ENCODED_TOGETHER = 256
Floats = npt.NDArray[np.float64]
Span = tuple[int, int, int]
"""A token's field, first character and end, as of `LiveStreamingTokenizer.spans`."""


def of_authors(sarm: SARM, ids: IdTable, tokens: AnchorTokens, rows: npt.NDArray[np.int64]) -> list[Floats]:
    """The importance of every token of each author row's anchor, [CLS] first; each sums to 1.

    `ids` are the author vectors of the ranker that the source has joined.
    """
    importance: list[Floats] = []
    for start in range(0, len(rows), _ENCODED_TOGETHER):
        chosen = rows[start : start + _ENCODED_TOGETHER]
        anchors = tokens.select(chosen)
        weights = token_importance(sarm, ids, torch.from_numpy(chosen), *anchors.tensors()).double().numpy()
        importance += [row[:length] for row, length in zip(weights, anchors.lengths, strict=True)]
    return importance


def by_part(
    anchors: Sequence[Mapping[str, Sequence[str]]], importance: Sequence[Floats], tokenizer: LiveStreamingTokenizer
) -> list[dict[str, Any]]:
    """{part, importance, tokens} of PARTS: the shares of importance and of tokens, as means over anchors."""
    shares = np.zeros((2, len(PARTS)))
    for anchor, weights in zip(anchors, importance, strict=True):
        texts = field_texts(anchor)
        parts = [PARTS.index(CLS)] + [_part(span, texts) for span in tokenizer.spans(texts)]
        shares[0] += np.bincount(parts, weights=weights, minlength=len(PARTS))
        shares[1] += np.bincount(parts, minlength=len(PARTS)) / len(parts)
    shares /= max(len(anchors), 1)
    return [
        {"part": part, "importance": float(weight), "tokens": float(tokens)}
        for part, weight, tokens in zip(PARTS, *shares, strict=True)
    ]


def by_word(
    anchor: Mapping[str, Sequence[str]], importance: Floats, tokenizer: LiveStreamingTokenizer
) -> dict[str, Any]:
    """{tokens, cls, fields}: tokens of the anchor, importance of [CLS], and each field's {word, importance, tokens}.

    A word has the sum over the tokens that end in it, and of those between it and the word before; with [CLS] all words
    together have 1.
    """
    texts = field_texts(anchor)
    ends: list[list[int]] = [[] for _ in texts]
    weights: list[list[float]] = [[] for _ in texts]
    for (field, _, end), weight in zip(tokenizer.spans(texts), importance[1:].tolist(), strict=True):
        ends[field].append(end)
        weights[field].append(weight)
    fields = [_words(*of_field) for of_field in zip(texts, ends, weights, strict=True)]
    return {"tokens": len(importance), "cls": float(importance[0]), "fields": fields}


def _words(text: str, ends: Sequence[int], weights: Sequence[float]) -> list[dict[str, Any]]:
    """The words of a text with the summed weights of their tokens, which are given by end and weight."""
    words = list(re.finditer(r"\S+", text))
    word = np.searchsorted([match.end() for match in words], np.asarray(ends, dtype=np.int64))
    word = np.minimum(word, len(words) - 1)
    totals = np.bincount(word, weights=weights, minlength=len(words))
    counts = np.bincount(word, minlength=len(words))
    return [
        {"word": match.group(), "importance": float(total), "tokens": int(count)}
        for match, total, count in zip(words, totals, counts, strict=True)
    ]


def _part(span: Span, texts: Sequence[str]) -> int:
    """The index in PARTS of a token of a field's text, whose name ends with a colon."""
    field, _, end = span
    return PARTS.index(NAMES if end <= texts[field].index(":") + 1 else FIELDS[field])
