"""Fields of many anchors -> token ids, in as few and as large calls of the `tokenizers` library as there can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

IntArray = npt.NDArray[np.int64]

_BREAK = "\U0010ffff"
"""Ends a field. Not a character: text that is meant to be exchanged does not hold it."""
_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}


class FieldEncoder:
    """Applies a tokenizer to every field by itself."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._joined = _breaking(tokenizer) if _is_local(tokenizer) else None

    def ids(self, fields_batch: Sequence[Sequence[str]]) -> tuple[IntArray, IntArray]:
        """Ids of all anchors one after the other, and how many each anchor has: [total], [N]."""
        if (texts := self._joinable(fields_batch)) is not None:
            assert self._joined is not None
            encodings = self._joined.encode_batch_fast(texts, add_special_tokens=False)
        else:
            lists = [list(fields) for fields in fields_batch]
            encodings = self._tokenizer.encode_batch_fast(lists, is_pretokenized=True, add_special_tokens=False)
        counts = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, np.int64, int(counts.sum())), counts

    def words(self, fields_batch: Sequence[Sequence[str]]) -> list[Encoding]:
        """Encodings of one or more fields each, with the number of every token's pre-token. Slower than `ids`."""
        encodings: list[Encoding]
        if (texts := self._joinable(fields_batch)) is not None:
            assert self._joined is not None
            encodings = self._joined.encode_batch(texts, add_special_tokens=False)
        else:
            each = [field for fields in fields_batch for field in fields]
            encodings = self._tokenizer.encode_batch(each, add_special_tokens=False)
        return encodings

    def _joinable(self, fields_batch: Sequence[Sequence[str]]) -> list[str] | None:
        """One text for each anchor, or None where breaks would not do."""
        if self._joined is None or any(_BREAK in field for fields in fields_batch for field in fields):
            return None
        return [_BREAK.join(fields) for fields in fields_batch]


def _is_local(tokenizer: Tokenizer) -> bool:
    """True if a field's tokens are the same by itself and between breaks: nothing looks at where the text begins."""
    normalizers = {step["type"] for step in _steps(tokenizer.normalizer)}
    splits = (
        step["type"] == "Split" or (step["type"] == "ByteLevel" and not step["add_prefix_space"])
        for step in _steps(tokenizer.pre_tokenizer)
    )
    return normalizers <= _LOCAL_NORMALIZERS and all(splits)


def _steps(part: Normalizer | PreTokenizer | None) -> list[dict[str, Any]]:
    """What tokenizer.json says of a part, step by step."""
    if part is None:
        return []
    state: dict[str, Any] = json.loads(part.__getstate__())
    steps: list[dict[str, Any]] = state.get("normalizers") or state.get("pretokenizers") or [state]
    return steps


def _breaking(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, its model shared, that takes a break as the end of the text."""
    breaking = Tokenizer(tokenizer.model)
    breaking.normalizer = tokenizer.normalizer
    at_breaks = pre_tokenizers.Split(_BREAK, behavior="removed")
    inner = [] if tokenizer.pre_tokenizer is None else [tokenizer.pre_tokenizer]
    breaking.pre_tokenizer = pre_tokenizers.Sequence([at_breaks, *inner])
    added = tokenizer.get_added_tokens_decoder()
    breaking.add_tokens([added[index] for index in sorted(added)])
    return breaking
