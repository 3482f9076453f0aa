"""The Live-Streaming Tokenizer (SARM 3.2.1): byte pair encoding over the token ids of the base tokenizer.

One tokenizer.json holds the base tokenizer and, behind its tokens and merges, the live-streaming ones: the library's
own `Tokenizer.from_file(path).encode(field).ids` are A'_s, and expanding them gives A_s. Each field of the anchor is
tokenised on its own, so no merge crosses the boundary between two fields. An update only appends merges: ids and rows
that were given once never move.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from models.sarm.anchor_tokens import CLS_ROW, NO_LIVE_ROW, PAD_ROW, AnchorTokens, TokenRows
from models.sarm.live_tokenizer import merges
from models.sarm.live_tokenizer.base_tokenizer import prepare
from models.sarm.live_tokenizer.field_encoder import FieldEncoder
from models.sarm.live_tokenizer.live_tokens import LiveTokens

IntArray = npt.NDArray[np.int64]
RowArray = npt.NDArray[np.int32]

FORMAT = "live-streaming-tokenizer/2"
"""What `save` writes and `load` reads."""
TOKENIZER_FILE, STATE_FILE = "tokenizer.json", "live_streaming.json"
_FIRST_BUCKET = CLS_ROW + 1
_HASH_MULTIPLIER = 2_654_435_761
_BATCH = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How the Live-Streaming Tokenizer is trained and how long anchors may be."""

    min_frequency: int = 100_000
    """A pair is merged when the corpus holds it at least this often (the paper's threshold)."""
    max_merges: int = 50_000
    """Most merges that one training or one update may add."""
    join_words: bool = True
    """Merges may join words that one space separates; false: they stay within the words of the base tokenizer."""
    hash_buckets: int = 256
    """Rows shared by the base ids that the training corpus did not hold."""
    max_tokens: int = 64
    """Longest anchor, [CLS] included; the tail of longer ones is cut and counted."""

    def __post_init__(self) -> None:
        if min(self.min_frequency, self.hash_buckets) < 1 or self.max_merges < 0 or self.max_tokens < 2:
            raise ValueError(
                f"wanted min_frequency >= 1, hash_buckets >= 1, max_merges >= 0 and max_tokens >= 2, got {self}"
            )


class LiveStreamingTokenizer:
    """Anchor fields -> base rows A_s and, aligned by cover, live rows A'_s. Made by train, update or load.

    Example:
        >>> from tokenizers import models, pre_tokenizers
        >>> alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        >>> base = Tokenizer(models.BPE({letter: row for row, letter in enumerate(alphabet)}, []))
        >>> base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        >>> corpus = [["karaoke night"], ["karaoke"], ["night walk"]]
        >>> tokenizer = LiveStreamingTokenizer.train(corpus, base, TokenizerConfig(min_frequency=2))
        >>> len(tokenizer.base_ids("karaoke")), len(tokenizer.live_ids("karaoke"))
        (7, 1)
        >>> tokenizer.encode([["karaoke", "night"]]).lengths.tolist()
        [13]
    """

    def __init__(self, tokenizer: Tokenizer, config: TokenizerConfig, seen: Sequence[int], live: LiveTokens) -> None:
        """`seen` are the base ids with rows of their own, in the order of their rows."""
        self.config = config
        self._tokenizer = tokenizer
        self._encoder = FieldEncoder(tokenizer)
        self._seen = list(seen)
        self._live = live
        self._row_of_base = self._base_rows()

    @classmethod
    def train(
        cls, texts_fields: Iterable[Sequence[str]], base: Tokenizer, config: TokenizerConfig
    ) -> LiveStreamingTokenizer:
        """Learn merges and base rows from a corpus: per anchor its fields' texts.

        Raises ValueError for a base tokenizer that live merges cannot extend exactly.
        """
        blank = cls.blank(base, config)
        return blank.train_on(blank.count(texts_fields, like=base))

    @classmethod
    def blank(cls, base: Tokenizer, config: TokenizerConfig) -> LiveStreamingTokenizer:
        """The base tokenizer before any training: it counts a corpus, and is trained on the counts."""
        state = prepare(base, join_words=config.join_words)
        return cls(Tokenizer.from_str(json.dumps(state)), config, [], LiveTokens.none(state))

    def count(self, texts_fields: Iterable[Sequence[str]], like: Tokenizer | None = None) -> Counter[str]:
        """How often a corpus holds each phrase of base tokens (see merges.py); counts of corpora add up.

        With `like` the first batch is checked against that base tokenizer: ValueError where the ids differ.
        """
        phrases: Counter[str] = Counter()
        for batch in _batches(texts_fields):
            if like is not None and not phrases:
                self._check(batch, like)
            phrases.update(merges.phrases(self._encoder.words(batch)))
        counts: Counter[str] = Counter()
        for phrase, count in phrases.items():
            counts[merges.text_of(self._live.expand(merges.ids_of(phrase)))] += count
        return counts

    def train_on(self, counts: Counter[str]) -> LiveStreamingTokenizer:
        """`train` on a corpus that a blank tokenizer has counted."""
        return self._extended(counts, seen=merges.ids_of(sorted(set().union(*counts))))

    def update(self, texts_fields: Iterable[Sequence[str]]) -> LiveStreamingTokenizer:
        """A tokenizer with merges learnt from a newer corpus appended; all ids and rows that exist keep their meaning.

        Base ids new in this corpus stay in their hashed buckets.
        """
        return self.update_on(self.count(texts_fields))

    def update_on(self, counts: Counter[str]) -> LiveStreamingTokenizer:
        """`update` on a corpus that was counted."""
        return self._extended(counts, seen=self._seen)

    @property
    def rows(self) -> TokenRows:
        """Sizes of the tables that the encoder needs."""
        return TokenRows(
            num_base_rows=_FIRST_BUCKET + self.config.hash_buckets + len(self._seen),
            num_live_rows=1 + len(self._live.pieces),
        )

    @property
    def live_rows(self) -> TokenRows:
        """Sizes of the tables for what `encode_live` gives."""
        rows = self.rows
        return TokenRows(num_base_rows=rows.num_base_rows + rows.num_live_rows - 1, num_live_rows=1)

    @property
    def base_vocabulary(self) -> int:
        """Ids of the base tokenizer, its added tokens included; `live_ids` from here on are merged tokens."""
        return self._live.num_base

    @property
    def fingerprint(self) -> str:
        """sha256 over all that decides the rows of a text."""
        return _fingerprint(self._tokenizer.to_str(), self._state())

    def replaced(self, num_live_rows: int) -> list[RowArray]:
        """What an update took from a tokenizer with so many live rows: for each row that it appended, the older live
        row over each of its base tokens, NO_LIVE_ROW where none stood there."""
        return self._live.replaced(num_live_rows - 1)

    def encode(self, fields_batch: Sequence[Sequence[str]]) -> AnchorTokens:
        """Tokenise anchors, field after field. T is the longest of them, at most `max_tokens`."""
        ids, counts = self._encoder.ids(fields_batch)
        base, live = self._live.cover(ids)
        return self._anchors(self._row_of_base[base], live, self._num_base_tokens(ids, counts))

    def lengths(self, texts_fields: Iterable[Sequence[str]]) -> IntArray:
        """Tokens of each anchor of a corpus, [N]: those that `encode` gives, [CLS] included, before any is cut."""
        batches = [self._num_base_tokens(*self._encoder.ids(batch)) for batch in _batches(texts_fields)]
        lengths: IntArray = 1 + np.concatenate([np.zeros(0, np.int64), *batches])
        return lengths

    def _num_base_tokens(self, ids: IntArray, counts: IntArray) -> IntArray:
        """[N] base tokens that the ids of each anchor stand for."""
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._live.span(ids))])
        return np.diff(ends[np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])])

    def encode_live(self, fields_batch: Sequence[Sequence[str]]) -> AnchorTokens:
        """A'_s in the place of A_s: every merged token once, with a row behind the base rows; nothing left to fuse."""
        ids, counts = self._encoder.ids(fields_batch)
        first_live = np.arange(self.rows.num_base_rows, self.live_rows.num_base_rows, dtype=np.int32)
        rows = np.concatenate([self._row_of_base, first_live])[ids]
        return self._anchors(rows, np.full(len(rows), NO_LIVE_ROW, dtype=np.int32), counts)

    def ids_in(self, counts: Counter[str]) -> tuple[IntArray, IntArray]:
        """How often each id is in A_s of a counted corpus, [base_vocabulary], and in A'_s, [base_vocabulary + live]."""
        times = list(counts.values())
        base = _weighed(map(merges.ids_of, counts), times, self.base_vocabulary)
        live = _weighed(self._live.join(list(counts)), times, self.base_vocabulary + len(self._live.pieces))
        return base, live

    def base_ids(self, field: str) -> list[int]:
        """A_s of one field: ids of the base tokenizer."""
        return self.decode_live(self.live_ids(field))

    def spans(self, fields: Sequence[str]) -> list[tuple[int, int, int]]:
        """Where each base token of an anchor stands: (field, first character, end), in the order of `encode`.

        [CLS] has no place and is left out; so is the tail beyond `max_tokens`.
        """
        encoded = self._base.encode_batch(list(fields), add_special_tokens=False)
        spans = [(index, start, end) for index, field in enumerate(encoded) for start, end in field.offsets]
        return spans[: self.config.max_tokens - 1]

    @cached_property
    def _base(self) -> Tokenizer:
        """The same file without its live tokens: gives A_s, with the place of every base token."""
        state = json.loads(self._tokenizer.to_str())
        model = state["model"]
        model["vocab"] = {token: index for token, index in model["vocab"].items() if index < self._live.num_base}
        del model["merges"][self._live.num_base_merges :]
        return Tokenizer.from_str(json.dumps(state))

    def live_ids(self, field: str) -> list[int]:
        """A'_s of one field: ids below the base vocabulary are base tokens, live row r has id vocabulary + r - 1."""
        ids: list[int] = self._tokenizer.encode(field, add_special_tokens=False).ids
        return ids

    def decode_live(self, ids: Sequence[int]) -> list[int]:
        """The base ids that `live_ids` covers, in order."""
        return list(self._live.expand(ids))

    def live_text(self, row: int) -> str:
        """What a live row stands for. Raises ValueError for rows without a token."""
        if not 1 <= row <= len(self._live.pieces):
            raise ValueError(f"live rows go from 1 to {len(self._live.pieces)}, got {row}")
        text: str = self._tokenizer.decode(list(self._live.pieces[row - 1]))
        return text

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, which the `tokenizers` library reads by itself, and beside it what rows are made of."""
        folder.mkdir(parents=True, exist_ok=True)
        text, state = self._tokenizer.to_str(), self._state()
        (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")
        state["fingerprint"] = _fingerprint(text, state)
        (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LiveStreamingTokenizer:
        """Read what `save` wrote. Raises ValueError when format or fingerprint differ, with both values."""
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if state.get("format") != FORMAT:
            raise ValueError(
                f"{folder / STATE_FILE} has format {state.get('format')!r}, wanted {FORMAT!r}; "
                "make the tokenizer again: run the job vocabulary"
            )
        text, wanted = (folder / TOKENIZER_FILE).read_text(encoding="utf-8"), state.pop("fingerprint")
        if (got := _fingerprint(text, state)) != wanted:
            raise ValueError(
                f"the tokenizer in {folder} has fingerprint {got}, its file says {wanted}; "
                "a file was changed after it was saved"
            )
        live = LiveTokens(json.loads(text), state["base_vocabulary"], state["base_merges"])
        return cls(Tokenizer.from_str(text), TokenizerConfig(**state["config"]), state["seen"], live)

    def _state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": asdict(self.config),
            "base_vocabulary": self._live.num_base,
            "base_merges": self._live.num_base_merges,
            "seen": self._seen,
        }

    def _check(self, fields_batch: Sequence[Sequence[str]], base: Tokenizer) -> None:
        base = Tokenizer.from_str(base.to_str())
        base.no_padding()
        base.no_truncation()
        fields = [field for fields in fields_batch for field in fields]
        for field, wanted in zip(fields, base.encode_batch_fast(fields, add_special_tokens=False), strict=True):
            if (got := self.base_ids(field)) != wanted.ids:
                raise ValueError(
                    f"wanted the base tokenizer's own ids {wanted.ids} for {field!r}, got {got} from the copy that is "
                    f"to be extended, with join_words = {self.config.join_words}; set it to false, or take another base"
                )

    def _extended(self, counts: Counter[str], seen: Sequence[int]) -> LiveStreamingTokenizer:
        by_joined: Counter[str] = Counter()
        for joined, count in zip(self._live.join(list(counts)), counts.values(), strict=True):
            by_joined[merges.text_of(joined)] += count
        state = json.loads(self._tokenizer.to_str())
        live = self._live.extended(state, merges.learn(by_joined, self.config.min_frequency, self.config.max_merges))
        return LiveStreamingTokenizer(Tokenizer.from_str(json.dumps(state)), self.config, seen, live)

    def _base_rows(self) -> RowArray:
        ids = np.arange(self._live.num_base, dtype=np.int64)
        rows = _FIRST_BUCKET + (ids * _HASH_MULTIPLIER % 2**32) % self.config.hash_buckets
        rows[np.asarray(self._seen, dtype=np.int64)] = (
            _FIRST_BUCKET + self.config.hash_buckets + np.arange(len(self._seen))
        )
        return rows.astype(np.int32)

    def _anchors(self, base: RowArray, live: RowArray, lengths: IntArray) -> AnchorTokens:
        """Anchors of rows that lie one after the other, `lengths` of them each: [CLS] before, the tail cut."""
        room = min(self.config.max_tokens - 1, int(lengths.max(initial=0)))
        tokens = AnchorTokens(
            base=np.full((len(lengths), 1 + room), PAD_ROW, dtype=np.int32),
            live=np.full((len(lengths), 1 + room), NO_LIVE_ROW, dtype=np.int32),
            num_truncated=int((lengths > room).sum()),
        )
        tokens.base[:, 0] = CLS_ROW
        if tokens.num_truncated:
            kept = np.arange(len(base)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < room
            base, live = base[kept], live[kept]
        filled = np.arange(room) < lengths[:, None]
        tokens.base[:, 1:][filled] = base
        tokens.live[:, 1:][filled] = live
        return tokens


def _fingerprint(tokenizer_json: str, state: dict[str, Any]) -> str:
    return hashlib.sha256((json.dumps(state, sort_keys=True) + tokenizer_json).encode()).hexdigest()


def _batches(texts_fields: Iterable[Sequence[str]]) -> Iterator[list[Sequence[str]]]:
    rest = iter(texts_fields)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _weighed(ids: Iterable[Sequence[int]], times: Sequence[int], num_ids: int) -> IntArray:
    """How often each id occurs, [num_ids], in sequences of ids that occur so many times."""
    sequences = list(ids)
    weights = np.repeat(np.asarray(times, np.int64), np.fromiter(map(len, sequences), np.int64, len(sequences)))
    occurs = np.zeros(num_ids, np.int64)
    np.add.at(occurs, np.fromiter(chain.from_iterable(sequences), np.int64, len(weights)), weights)
    return occurs
