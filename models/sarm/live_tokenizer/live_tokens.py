"""The live-streaming tokens of a tokenizer.json: appended to it, and expanded to the base ids that they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.sarm.live_tokenizer.base_tokenizer import State
from models.sarm.live_tokenizer.merges import MAX_IDS, ids_of, join, text_of

IntArray = npt.NDArray[np.int64]


class LiveTokens:
    """The tokens with ids from `num_base` on, made by the merges from `num_base_merges` on."""

    def __init__(self, state: State, num_base: int, num_base_merges: int) -> None:
        """Raises ValueError where the merges of `state` do not make those tokens in the order of their ids."""
        self.num_base = num_base
        self.num_base_merges = num_base_merges
        self.pieces: list[tuple[int, ...]] = []
        """Base ids of the tokens, in the order of their ids."""
        self._pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        vocabulary = state["model"]["vocab"]
        for left, right in state["model"]["merges"][num_base_merges:]:
            got, wanted = vocabulary[left + right], num_base + len(self.pieces)
            if got != wanted:
                raise ValueError(f"the merge of {left!r} and {right!r} makes id {got}, wanted {wanted}")
            self._pairs.append((self.expand([vocabulary[left]]), self.expand([vocabulary[right]])))
            self.pieces.append(self._pairs[-1][0] + self._pairs[-1][1])
        if num_base + len(self.pieces) > MAX_IDS:
            raise ValueError(f"wanted at most {MAX_IDS} ids, got {num_base + len(self.pieces)}; lower max_merges")
        self._span = np.concatenate([np.ones(num_base, np.int64), [len(pieces) for pieces in self.pieces]]).astype(int)
        self._first = np.cumsum(self._span) - self._span
        self._flat = np.array(
            [*range(num_base), *(piece for pieces in self.pieces for piece in pieces)], dtype=np.int64
        )

    @classmethod
    def none(cls, state: State) -> LiveTokens:
        """Those of a base tokenizer without live merges."""
        return cls(state, 1 + max(state["model"]["vocab"].values(), default=-1), len(state["model"]["merges"]))

    def expand(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The base ids that ids stand for, in order."""
        return tuple(piece for i in ids for piece in (self.pieces[i - self.num_base] if i >= self.num_base else (i,)))

    def span(self, ids: IntArray) -> IntArray:
        """How many base ids each id stands for; the shape of `ids`."""
        return self._span[ids]

    def cover(self, ids: IntArray) -> tuple[IntArray, npt.NDArray[np.int32]]:
        """Base ids of a sequence of ids and, over each, 1 + the number of its live token, or 0 for none."""
        span = self._span[ids]
        before = np.cumsum(span) - span
        source = np.repeat(self._first[ids] - before, span) + np.arange(int(span.sum()))
        number = np.maximum(ids - (self.num_base - 1), 0).astype(np.int32)
        return self._flat[source], np.repeat(number, span)

    def join(self, phrases: Sequence[str]) -> list[list[int]]:
        """Phrases of base ids, each id one character (see merges.py) -> their ids with the live merges applied."""
        return join(phrases, self._pairs, self.num_base)

    def replaced(self, since: int) -> list[npt.NDArray[np.int32]]:
        """For each token from number `since` on, over each of its base ids: 1 + the number of the token before `since`
        that stands there where it is not merged, or 0 for none."""
        phrases = [text_of(pieces) for pieces in self.pieces[since:]]
        joined = join(phrases, self._pairs[:since], self.num_base) if phrases else []
        return [self.cover(np.array(ids, dtype=np.int64))[1] for ids in joined]

    def extended(self, state: State, learned: Sequence[tuple[str, str]]) -> LiveTokens:
        """Appends learnt merges to `state`, the file that these tokens come from.

        A merge whose token would spell what another token spells is left out, and so is what was learnt upon it: one
        string of the vocabulary stands for one sequence of base ids.
        """
        vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
        spelling = {index: token for token, index in vocabulary.items()}
        next_id = self.num_base + len(self.pieces)
        new_ids: dict[str, int] = {}
        for left, right in learned:
            pair = [new_ids.get(side, -1) if len(side) > 1 else ids_of(side)[0] for side in (left, right)]
            sides = [spelling.get(side, "") for side in pair]
            token = "".join(sides)
            if -1 not in pair and token not in vocabulary:
                new_ids[left + right] = vocabulary[token] = next_id
                spelling[next_id] = token
                merges.append(sides)
                next_id += 1
        return LiveTokens(state, self.num_base, self.num_base_merges)
