"""Byte pair encoding over integer symbols (SARM eq. 2), carried out by the `tokenizers` library.

A symbol below ``num_base`` is a base token id; symbol ``num_base + j`` is the j-th merged token. The library works on
text, so a symbol becomes the character ``chr(0x10000 + symbol)``: the supplementary planes hold no surrogates, white
space or control characters and have room for a million symbols.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

IntArray = npt.NDArray[np.int64]

_FIRST_CHAR = 0x10000
_NUM_CHARS = 0x110000 - _FIRST_CHAR
_UNKNOWN = "unknown"


class Merges:
    """An ordered list of merges, and the tokens that they make. Immutable: ``extended`` gives a longer list."""

    def __init__(self, num_base: int, pairs: Sequence[tuple[int, int]]) -> None:
        """``pairs`` are (left symbol, right symbol) by rank; two merges that spell the same make one token."""
        self.num_base = num_base
        self.pairs = [(int(left), int(right)) for left, right in pairs]
        self.pieces: list[tuple[int, ...]] = []
        """Base ids of the merged tokens, by their number j."""
        self._number: dict[tuple[int, ...], int] = {}
        for left, right in self.pairs:
            self._add(self.expand(left) + self.expand(right))
        if num_base + len(self.pieces) > _NUM_CHARS:
            raise ValueError(f"{num_base} base ids and {len(self.pieces)} merged tokens exceed {_NUM_CHARS} symbols")
        self._coder = self._make_coder()
        self._span = np.array([1, *map(len, self.pieces)], dtype=np.int64)

    def expand(self, symbol: int) -> tuple[int, ...]:
        """Base ids of a symbol."""
        return (symbol,) if symbol < self.num_base else self.pieces[symbol - self.num_base]

    def segment(self, sequences: Sequence[Sequence[int]]) -> list[list[int]]:
        """Apply the merges to sequences of base ids -> sequences of symbols."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        flat = np.fromiter((i for sequence in sequences for i in sequence), np.int64, int(lengths.sum()))
        numbers, counts = self._encode(flat, lengths)
        starts = np.cumsum(self._span[numbers]) - self._span[numbers]
        symbols = np.where(numbers > 0, self.num_base + numbers - 1, flat[starts])
        return [part.tolist() for part in np.split(symbols, np.cumsum(counts)[:-1])] if len(counts) else []

    def cover(self, flat: IntArray, lengths: IntArray) -> npt.NDArray[np.int32]:
        """1 + number of the merged token over each base id, 0 where there is none.

        ``flat`` are the base ids of all sequences, ``lengths`` how many each sequence has.
        """
        numbers, _ = self._encode(flat, lengths)
        return np.repeat(numbers, self._span[numbers]).astype(np.int32)

    def span(self, rows: IntArray) -> IntArray:
        """Base tokens that live rows cover, 1 for row 0; the shape of ``rows``."""
        return self._span[rows]

    def extended(
        self, sequences: Sequence[Sequence[int]], weights: Sequence[int], min_frequency: int, max_merges: int
    ) -> Merges:
        """Append at most ``max_merges`` merges of pairs that the corpus holds at least ``min_frequency`` times.

        The corpus is ``sequences`` of base ids, each occurring ``weights[i]`` times; it is read through the merges that
        exist, so the new ones build upon them.
        """
        texts = ["".join(map(_char, symbols)) for symbols in self.segment(sequences)]
        alphabet = set().union(*texts)
        trainer = BpeTrainer(
            vocab_size=len(alphabet) + max_merges, min_frequency=min_frequency, show_progress=False, special_tokens=[]
        )
        learner = Tokenizer(BPE())
        learner.train_from_iterator(_repeated(texts, weights), trainer)
        learned = json.loads(learner.to_str())["model"]["merges"]
        longer = Merges(self.num_base, self.pairs)
        known = set(self.pairs)
        pairs = list(self.pairs)
        for sides in learned:
            left, right = (tuple(p for char in side for p in self.expand(ord(char) - _FIRST_CHAR)) for side in sides)
            pair = (longer._symbol(left), longer._symbol(right))
            longer._add(left + right)
            if pair not in known:
                known.add(pair)
                pairs.append(pair)
        return Merges(self.num_base, pairs)

    def _symbol(self, pieces: tuple[int, ...]) -> int:
        return pieces[0] if len(pieces) == 1 else self.num_base + self._number[pieces]

    def _add(self, pieces: tuple[int, ...]) -> None:
        if pieces not in self._number:
            self._number[pieces] = len(self.pieces)
            self.pieces.append(pieces)

    def _make_coder(self) -> Tokenizer:
        # Number 0 stands for every base id that takes part in no merge; merged token j has number 1 + j.
        texts = [_text(pieces) for pieces in self.pieces]
        vocabulary = {_UNKNOWN: 0} | {text: 1 + j for j, text in enumerate(texts)}
        for char in sorted({char for text in texts for char in text}):
            vocabulary[char] = len(vocabulary)
        pairs = [(_text(self.expand(left)), _text(self.expand(right))) for left, right in self.pairs]
        return Tokenizer(BPE(vocab=vocabulary, merges=pairs, unk_token=_UNKNOWN, fuse_unk=False))

    def _encode(self, flat: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
        """Numbers of the tokens (0 = a base id by itself) of all sequences, and how many tokens each has."""
        text = (flat + _FIRST_CHAR).astype("<u4").tobytes().decode("utf-32-le")
        ends = np.cumsum(lengths).tolist()
        parts = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
        encoded = [encoding.ids for encoding in self._coder.encode_batch_fast(parts, add_special_tokens=False)]
        counts = np.fromiter(map(len, encoded), np.int64, len(encoded))
        numbers = np.fromiter((i for ids in encoded for i in ids), np.int64, int(counts.sum()))
        numbers[numbers > len(self.pieces)] = 0
        return numbers, counts


def _char(symbol: int) -> str:
    return chr(_FIRST_CHAR + symbol)


def _text(pieces: tuple[int, ...]) -> str:
    return "".join(map(_char, pieces))


def _repeated(texts: Sequence[str], weights: Sequence[int]) -> Iterator[str]:
    for text, weight in zip(texts, weights, strict=True):
        for _ in range(weight):
            yield text
