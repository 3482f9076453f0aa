"""The Live-Streaming Tokenizer (SARM 3.2.1): byte pair encoding over the token ids of the base tokenizer.

Every base id is one symbol; the trainer of the `tokenizers` library merges adjacent pairs above a frequency. Each field
of the anchor is tokenised on its own, so no merge crosses the boundary between two fields. An update only appends
merges: rows that were given once never move.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from models.sarm.anchor_tokens import CLS_ROW, NO_LIVE_ROW, PAD_ROW, AnchorTokens, TokenRows
from models.sarm.merges import Merges

IntArray = npt.NDArray[np.int64]

_FORMAT = "live-streaming-tokenizer/1"
_BASE_FILE, _LIVE_FILE = "base_tokenizer.json", "live_streaming.json"
_FIRST_BUCKET = CLS_ROW + 1
_HASH_MULTIPLIER = 2_654_435_761
_MAX_CACHED_FIELDS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """How the Live-Streaming Tokenizer is trained and how long anchors may be."""

    min_frequency: int = 100_000
    """A pair is merged when the corpus holds it at least this often (the paper's threshold)."""
    max_merges: int = 50_000
    """Most merges that one training or one update may add."""
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
    """Anchor fields -> base rows A_s and, aligned by cover, live rows A'_s. Made by train, update or load."""

    def __init__(self, base: Tokenizer, config: TokenizerConfig, seen: Sequence[int], merges: Merges) -> None:
        """``seen`` are the base ids with rows of their own, in the order of their rows."""
        self.config = config
        self._base = _plain(base)
        self._base_json = self._base.to_str()
        self._seen = list(seen)
        self._merges = merges
        self._row_of_base = self._base_rows()
        self._cache = _FieldCache()

    @classmethod
    def train(
        cls, texts_fields: Iterable[Sequence[str]], base: Tokenizer, config: TokenizerConfig
    ) -> LiveStreamingTokenizer:
        """Learn merges and base rows from a corpus: per anchor its fields' texts."""
        base = _plain(base)
        texts, ids = _base_ids(base, counts := _count(texts_fields))
        seen = np.unique(np.concatenate([np.asarray(i, dtype=np.int64) for i in ids])).tolist() if ids else []
        merges = Merges(base.get_vocab_size(), [])
        learned = merges.extended(ids, [counts[t] for t in texts], config.min_frequency, config.max_merges)
        return cls(base, config, seen, learned)

    def update(self, texts_fields: Iterable[Sequence[str]]) -> LiveStreamingTokenizer:
        """A tokenizer with merges learnt from a newer corpus appended; all rows that exist keep their meaning.

        Base ids new in this corpus stay in their hashed buckets.
        """
        texts, ids = _base_ids(self._base, counts := _count(texts_fields))
        weights = [counts[t] for t in texts]
        learned = self._merges.extended(ids, weights, self.config.min_frequency, self.config.max_merges)
        return LiveStreamingTokenizer(self._base, self.config, self._seen, learned)

    @property
    def rows(self) -> TokenRows:
        """Sizes of the tables that the encoder needs."""
        return TokenRows(
            num_base_rows=_FIRST_BUCKET + self.config.hash_buckets + len(self._seen),
            num_live_rows=1 + len(self._merges.pieces),
        )

    @property
    def base_vocabulary(self) -> int:
        """Ids of the base tokenizer; ``live_ids`` from here on are merged tokens."""
        return self._merges.num_base

    @property
    def fingerprint(self) -> str:
        """sha256 over all that decides the rows of a text."""
        return hashlib.sha256(json.dumps(self._state(), sort_keys=True).encode()).hexdigest()

    def encode(self, fields_batch: Sequence[Sequence[str]]) -> AnchorTokens:
        """Tokenise anchors, field after field. T is the longest of them, at most ``max_tokens``."""
        texts = [text for fields in fields_batch for text in fields]
        self._remember(texts)
        num_fields = np.fromiter((len(fields) for fields in fields_batch), np.int64, len(fields_batch))
        source, anchor = self._cache.gather(texts, np.repeat(np.arange(len(fields_batch)), num_fields))
        lengths = np.bincount(anchor, minlength=len(fields_batch))
        first = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])[:-1]
        position = 1 + np.arange(len(anchor)) - first[anchor]
        width = min(self.config.max_tokens, 1 + int(lengths.max(initial=0)))
        base = np.full((len(fields_batch), width), PAD_ROW, dtype=np.int32)
        base[:, 0] = CLS_ROW
        live = np.full_like(base, NO_LIVE_ROW)
        kept = position < width
        base[anchor[kept], position[kept]] = self._cache.base[source[kept]]
        live[anchor[kept], position[kept]] = self._cache.live[source[kept]]
        return AnchorTokens(base=base, live=live, num_truncated=int((lengths >= width).sum()))

    @property
    def live_rows(self) -> TokenRows:
        """Sizes of the tables for what ``live_only`` gives."""
        rows = self.rows
        return TokenRows(num_base_rows=rows.num_base_rows + rows.num_live_rows - 1, num_live_rows=1)

    def live_only(self, tokens: AnchorTokens) -> AnchorTokens:
        """A'_s in the place of A_s: every merged token once, with a row behind the base rows; nothing left to fuse."""
        live = tokens.live.astype(np.int64)
        # A merged token spans a fixed number of positions: within a run of one row, each begins a multiple of it later.
        column = np.arange(live.shape[1])
        new_run = np.ones_like(live, dtype=bool)
        new_run[:, 1:] = live[:, 1:] != live[:, :-1]
        run_start = np.maximum.accumulate(np.where(new_run, column, 0), axis=1)
        kept = (tokens.base != PAD_ROW) & (
            (live == NO_LIVE_ROW) | ((column - run_start) % self._merges.span(live) == 0)
        )
        rows = np.where(live == NO_LIVE_ROW, tokens.base, self.rows.num_base_rows + live - 1)
        order = np.argsort(~kept, axis=1, kind="stable")
        moved = np.take_along_axis(np.where(kept, rows, PAD_ROW), order, axis=1)[
            :, : max(1, int(kept.sum(axis=1).max()))
        ]
        return AnchorTokens(
            base=moved.astype(np.int32), live=np.zeros_like(moved, dtype=np.int32), num_truncated=tokens.num_truncated
        )

    def base_ids(self, field: str) -> list[int]:
        """A_s of one field: ids of the base tokenizer."""
        ids: list[int] = self._base.encode(field, add_special_tokens=False).ids
        return ids

    def spans(self, fields: Sequence[str]) -> list[tuple[int, int, int]]:
        """Where each base token of an anchor stands: (field, first character, end), in the order of ``encode``.

        [CLS] has no place and is left out; so is the tail beyond ``max_tokens``.
        """
        encoded = self._base.encode_batch(list(fields), add_special_tokens=False)
        found = [(index, start, end) for index, field in enumerate(encoded) for start, end in field.offsets]
        return found[: self.config.max_tokens - 1]

    def live_ids(self, field: str) -> list[int]:
        """A'_s of one field: ids below the base vocabulary are base tokens, live row r has id vocabulary + r - 1."""
        return self._merges.segment([self.base_ids(field)])[0]

    def decode_live(self, ids: Sequence[int]) -> list[int]:
        """The base ids that ``live_ids`` covers, in order."""
        return [piece for symbol in ids for piece in self._merges.expand(symbol)]

    def live_text(self, row: int) -> str:
        """What a live row stands for. Raises ValueError for rows without a token."""
        if not 1 <= row <= len(self._merges.pieces):
            raise ValueError(f"live rows go from 1 to {len(self._merges.pieces)}, got {row}")
        text: str = self._base.decode(list(self._merges.pieces[row - 1]))
        return text

    def save(self, folder: Path) -> None:
        """Write the base tokenizer and the live-streaming part into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _BASE_FILE).write_text(self._base_json, encoding="utf-8")
        state = {**self._state(), "fingerprint": self.fingerprint}
        (folder / _LIVE_FILE).write_text(json.dumps(state), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LiveStreamingTokenizer:
        """Read what ``save`` wrote. Raises ValueError when format or fingerprint differ, with both values."""
        state = json.loads((folder / _LIVE_FILE).read_text(encoding="utf-8"))
        if state.get("format") != _FORMAT:
            raise ValueError(f"{folder / _LIVE_FILE} has format {state.get('format')!r}, wanted {_FORMAT!r}")
        base = Tokenizer.from_str((folder / _BASE_FILE).read_text(encoding="utf-8"))
        merges = Merges(base.get_vocab_size(), [(left, right) for left, right in state["merges"]])
        tokenizer = cls(base, TokenizerConfig(**state["config"]), state["seen"], merges)
        if tokenizer.fingerprint != state["fingerprint"]:
            raise ValueError(
                f"the tokenizer in {folder} has fingerprint {tokenizer.fingerprint}, its file says "
                f"{state['fingerprint']}; a file was changed after it was saved"
            )
        return tokenizer

    def _state(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "config": asdict(self.config),
            "base_sha256": hashlib.sha256(self._base_json.encode()).hexdigest(),
            "seen": self._seen,
            "merges": [list(pair) for pair in self._merges.pairs],
        }

    def _base_rows(self) -> npt.NDArray[np.int32]:
        ids = np.arange(self._merges.num_base, dtype=np.int64)
        rows = _FIRST_BUCKET + (ids * _HASH_MULTIPLIER % 2**32) % self.config.hash_buckets
        rows[np.asarray(self._seen, dtype=np.int64)] = (
            _FIRST_BUCKET + self.config.hash_buckets + np.arange(len(self._seen))
        )
        return rows.astype(np.int32)

    def _remember(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._cache.index]
        if len(self._cache.index) + len(new) > _MAX_CACHED_FIELDS:
            self._cache = _FieldCache()
            new = list(dict.fromkeys(texts))
        if new:
            ids = [encoding.ids for encoding in self._base.encode_batch_fast(new, add_special_tokens=False)]
            lengths = np.fromiter(map(len, ids), np.int64, len(ids))
            flat = np.fromiter((i for sequence in ids for i in sequence), np.int64, int(lengths.sum()))
            self._cache.add(new, lengths, self._row_of_base[flat], self._merges.cover(flat, lengths))


class _FieldCache:
    """Rows of the fields met so far, in flat arrays. The unit is the field, because formats and scenes repeat."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}
        self.base = np.zeros(0, dtype=np.int32)
        self.live = np.zeros(0, dtype=np.int32)
        self._start = np.zeros(1, dtype=np.int64)

    def add(
        self, texts: Sequence[str], lengths: IntArray, base: npt.NDArray[np.int32], live: npt.NDArray[np.int32]
    ) -> None:
        known = len(self.index)
        self.index.update((text, known + i) for i, text in enumerate(texts))
        self.base, self.live = np.concatenate([self.base, base]), np.concatenate([self.live, live])
        self._start = np.concatenate([self._start, self._start[-1] + np.cumsum(lengths)])

    def gather(self, texts: Sequence[str], anchor: IntArray) -> tuple[IntArray, IntArray]:
        """Position in the flat arrays, and anchor, of every token of the texts in order."""
        index = np.fromiter(map(self.index.__getitem__, texts), np.int64, len(texts))
        lengths = self._start[index + 1] - self._start[index]
        before = np.cumsum(lengths) - lengths
        source = np.repeat(self._start[index] - before, lengths) + np.arange(int(lengths.sum()))
        return source, np.repeat(anchor, lengths)


def _plain(base: Tokenizer) -> Tokenizer:
    """A copy that neither pads nor truncates, whatever the given one does."""
    copy = Tokenizer.from_str(base.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def _count(texts_fields: Iterable[Sequence[str]]) -> Counter[str]:
    return Counter(text for fields in texts_fields for text in fields)


def _base_ids(base: Tokenizer, counts: Counter[str]) -> tuple[list[str], list[list[int]]]:
    # Sorted, so that the result does not depend on the order of the corpus.
    texts = sorted(counts)
    return texts, [encoding.ids for encoding in base.encode_batch_fast(texts, add_special_tokens=False)]
