"""Byte pair encoding over token ids (SARM eq. 2), learnt by the trainer of the `tokenizers` library.

The trainer works on text, so a token id becomes the character `chr(0x10000 + id)`: the supplementary planes hold no
surrogates, white space or control characters and have room for a million ids. A phrase is the ids of one pre-token.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
from tokenizers import Encoding, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import BpeTrainer

_FIRST_CHAR = 0x10000
MAX_IDS = 0x110000 - _FIRST_CHAR
"""Most ids that can be written as characters."""
_PER_TEXT = 1000


def phrases(encodings: Sequence[Encoding]) -> list[str]:
    """The phrases of texts, each id written as one character. The encodings must hold word ids."""
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    total, text = int(lengths.sum()), np.repeat(np.arange(len(encodings)), lengths)
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64, total)
    word = np.fromiter(chain.from_iterable(encoding.word_ids for encoding in encodings), np.int64, total)
    starts = 1 + np.flatnonzero((word[1:] != word[:-1]) | (text[1:] != text[:-1]))
    codes = np.insert(ids + _FIRST_CHAR, starts, ord(" "))
    return codes.astype("<u4").tobytes().decode("utf-32-le").split()


def ids_of(text: Iterable[str]) -> list[int]:
    """The ids that characters stand for."""
    return [ord(char) - _FIRST_CHAR for char in text]


def text_of(ids: Iterable[int]) -> str:
    """Ids, each written as one character."""
    return "".join(chr(_FIRST_CHAR + index) for index in ids)


def join(
    phrases: Sequence[str], pairs: Sequence[tuple[Sequence[int], Sequence[int]]], first_id: int
) -> list[list[int]]:
    """The ids of phrases in which the merges `pairs`, in their order, have joined what they can.

    Merge i joins two runs of ids and makes the id `first_id + i`. Base merges rank before these, so over the ids of
    one pre-token this gives what the whole tokenizer gives over its text.
    """
    merges = [(text_of(left), text_of(right)) for left, right in pairs]
    chars = set().union(*phrases, *(left + right for left, right in merges))
    vocabulary = dict(zip(chars, ids_of(chars), strict=True))
    vocabulary |= {left + right: first_id + number for number, (left, right) in enumerate(merges)}
    joiner = Tokenizer(BPE(vocabulary, merges))
    return [encoding.ids for encoding in joiner.encode_batch_fast(list(phrases), add_special_tokens=False)]


def learn(counts: Counter[str], min_frequency: int, max_merges: int) -> list[tuple[str, str]]:
    """At most `max_merges` merges of pairs that the phrases hold at least `min_frequency` times, in order."""
    # A single id has no pair to merge. Sorted, so that the result does not depend on the order of the corpus.
    weights = sorted((phrase, count) for phrase, count in counts.items() if len(phrase) > 1)
    trainer = BpeTrainer(
        vocab_size=len(set().union(*(phrase for phrase, _ in weights))) + max_merges,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=[],
    )
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = WhitespaceSplit()
    learner.train_from_iterator(_repeated(weights), trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def most_frequent_pair(counts: Counter[str]) -> int:
    """How often the phrases hold the pair of ids that they hold most often: the highest min_frequency that merges."""
    pairs: Counter[str] = Counter()
    for phrase, count in counts.items():
        for start in range(len(phrase) - 1):
            pairs[phrase[start : start + 2]] += count
    return max(pairs.values(), default=0)


def _repeated(weights: Sequence[tuple[str, int]]) -> Iterator[str]:
    for phrase, count in weights:
        for start in range(0, count, _PER_TEXT):
            yield f"{phrase} " * min(_PER_TEXT, count - start)
