"""The Live-Streaming Tokenizer at full size: 200,000 anchors of about 60 tokens over the Qwen vocabulary.

Wants ../shared/qwen_vocab. Target: training under 60 s, encoding at 20,000 anchors/s or more, on 2 cores.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig
from pipelines.tables.contract import FIELDS
from tests.models.qwen import RANKS, qwen_tokenizer

_WORDS, _SYLLABLES = 30_000, ("ka", "lo", "PU", "BG", "zi", "men", "tor", "xy", "qua", "直", "播", "ne", "rim", "Va")
_PHRASES = 50_000
_PER_FIELD = {"point_of_interest": 2, "topic": 2, "target_audience": 2}  # the other fields hold one phrase


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
    rules = TokenizerConfig(min_frequency=args.min_frequency, max_tokens=128)
    started, used = time.perf_counter(), time.process_time()
    tokenizer = LiveStreamingTokenizer.train(corpus, base, rules)
    train_s, train_cpu_s = time.perf_counter() - started, time.process_time() - used
    with tempfile.TemporaryDirectory() as folder:  # as a job meets it
        tokenizer.save(Path(folder))
        tokenizer = LiveStreamingTokenizer.load(Path(folder))
    started, used = time.perf_counter(), time.process_time()
    tokens = [tokenizer.encode(corpus[i : i + 4096]) for i in range(0, len(corpus), 4096)]
    encode_s, encode_cpu_s = time.perf_counter() - started, time.process_time() - used
    live = int(tokenizer.ids_in(tokenizer.count(corpus))[1].sum())
    lengths = np.concatenate([t.lengths for t in tokens])
    figures = {
        "bench": "tokenizer",
        "anchors": len(corpus),
        "tokens_mean": round(float(lengths.mean()), 1),
        "distinct_fields": len({field for fields in corpus for field in fields}),
        "merges": tokenizer.rows.num_live_rows - 1,
        "live_tokens_mean": round(live / len(corpus), 1),
        "train_s": round(train_s, 1),
        "train_cpu_s": round(train_cpu_s, 1),
        "encode_s": round(encode_s, 1),
        "encode_cpu_s": round(encode_cpu_s, 1),
        "anchors_per_s": round(len(corpus) / encode_s),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    for name, value in figures.items():
        print(f"{name:<18}{value}")
    print(json.dumps(figures))
    return 0


def _corpus(anchors: int) -> list[list[str]]:
    """Anchors of made-up phrases, long-tailed, so that about half of all fields are there only once or twice."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(_SYLLABLES, size=rng.integers(1, 4))) for _ in range(_WORDS)])
    tail = 1.0 / np.arange(1, _WORDS + 1)
    drawn = rng.choice(words, size=(_PHRASES, 2), p=tail / tail.sum())
    phrases = np.array([" ".join(pair) for pair in drawn])
    rank = 1.0 / np.arange(1, _PHRASES + 1) ** 0.7
    chosen = rng.choice(phrases, size=(anchors, len(FIELDS), 2), p=rank / rank.sum()).tolist()
    heads = [(f"{field.replace('_', ' ')}: ", _PER_FIELD.get(field, 1)) for field in FIELDS]
    return [
        [head + ", ".join(pair[:most]) for (head, most), pair in zip(heads, anchor, strict=True)] for anchor in chosen
    ]
