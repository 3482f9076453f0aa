"""The Qwen vocabulary at full size as a base tokenizer, where ../shared/qwen_vocab is present."""

from __future__ import annotations

import base64
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

RANKS = Path(__file__).resolve().parents[3] / "shared" / "qwen_vocab" / "qwen.tiktoken"
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_tokenizer() -> Tokenizer:
    """Byte-level BPE of 151,643 ids. A rank's merge is the pair that BPE with the lower ranks leaves of it."""
    lines = (line.split() for line in RANKS.read_text().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    shown = _byte_characters()
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            left, right = _halves(token, ranks, rank)
            merges.append((_text(left, shown), _text(right, shown)))
    vocabulary = {_text(token, shown): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    split = pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _halves(token: bytes, ranks: dict[bytes, int], below: int) -> tuple[bytes, bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, below) for a, b in zip(parts[:-1], parts[1:], strict=True)]
        at = min(range(len(pairs)), key=pairs.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _byte_characters() -> dict[int, str]:
    """How byte-level BPE writes bytes: printable ones as themselves, the others from 256 on (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _text(token: bytes, shown: dict[int, str]) -> str:
    return "".join(shown[byte] for byte in token)
