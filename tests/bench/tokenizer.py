"""The Live-Streaming Tokenizer at full size: 200,000 anchors of about 60 tokens over the Qwen vocabulary.

Wants ../shared/qwen_vocab. Target: training under 60 s, encoding at 20,000 anchors/s or more, on 2 cores.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from models.sarm.tokenizer import LiveStreamingTokenizer, TokenizerConfig
from pipelines.contract import FIELDS
from tests.models.qwen import RANKS, qwen_tokenizer

_WORDS, _SYLLABLES = 30_000, ("ka", "lo", "PU", "BG", "zi", "men", "tor", "xy", "qua", "直", "播", "ne", "rim", "Va")
_PHRASES, _PER_FIELD = 50_000, 2


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 0, or 2 where the vocabulary is absent."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench tokenizer", description=__doc__)
    parser.add_argument("--anchors", type=int, default=200_000, help="anchors of the corpus")
    parser.add_argument("--min-frequency", type=int, default=100, help="least frequency of a merge")
    args = parser.parse_args(argv)
    if not RANKS.is_file():
        print(f"skipped: {RANKS} is absent")
        return 2
    base, corpus = qwen_tokenizer(), _corpus(args.anchors)
    started = time.perf_counter()
    rules = TokenizerConfig(min_frequency=args.min_frequency, max_tokens=128)
    tokenizer = LiveStreamingTokenizer.train(corpus, base, rules)
    train_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:  # as a job meets it: without a cache of fields
        tokenizer.save(Path(folder))
        tokenizer = LiveStreamingTokenizer.load(Path(folder))
    started = time.perf_counter()
    tokens = [tokenizer.encode(corpus[i : i + 4096]) for i in range(0, len(corpus), 4096)]
    encode_s = time.perf_counter() - started
    lengths = np.concatenate([t.lengths for t in tokens])
    figures = {
        "bench": "tokenizer",
        "anchors": len(corpus),
        "tokens_mean": round(float(lengths.mean()), 1),
        "distinct_fields": len({field for fields in corpus for field in fields}),
        "merges": tokenizer.rows.num_live_rows - 1,
        "train_s": round(train_s, 1),
        "encode_s": round(encode_s, 1),
        "anchors_per_s": round(len(corpus) / encode_s),
        "peak_gib": round(psutil.Process().memory_info().rss / 2**30, 2),
    }
    for name, value in figures.items():
        print(f"{name:<18}{value}")
    print(json.dumps(figures))
    return 0


def _corpus(anchors: int) -> list[list[str]]:
    """Anchors of made-up phrases, long-tailed, so that most fields of different anchors differ."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(_SYLLABLES, size=rng.integers(1, 4))) for _ in range(_WORDS)])
    tail = 1.0 / np.arange(1, _WORDS + 1)
    drawn = rng.choice(words, size=(_PHRASES, 2), p=tail / tail.sum())
    phrases = np.array([" ".join(pair) for pair in drawn])
    rank = 1.0 / np.arange(1, _PHRASES + 1) ** 0.7
    chosen = rng.choice(phrases, size=(anchors, len(FIELDS), _PER_FIELD), p=rank / rank.sum())
    names = [field.replace("_", " ") for field in FIELDS]
    return [[f"{name}: {', '.join(pair)}" for name, pair in zip(names, row, strict=True)] for row in chosen.tolist()]
