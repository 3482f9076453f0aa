"""The benchmarks: `python -m tests.bench` runs all of them, `python -m tests.bench NAME [options]` one.

Each prints a table and, as its last line, one JSON object with its figures.
"""

import argparse
import importlib
import sys

BENCHES = {
    "seeds": "AUC and GAUC of Base and SARM over seeds, with semantic tastes on and off",
    "daily": "cost of a daily run on day 5, 50 and 500 of a platform",
    "anchors": "author-days a second through the anchor job",
    "segments": "segments a second through the job embed_segments, where the time goes, and batched against single",
    "poison": "what becomes of an anchor batch of which 1 % of the authors are poisoned",
    "tokenizer": "training and encoding of the Live-Streaming Tokenizer over the Qwen vocabulary",
    "codes": "residual codes beside faiss: error, equal codes, and the time and memory of a million segments",
    "workers": "examples a second of the plain loop, and of Ray Train on one and two workers",
    "exchange": "milliseconds of a training step of one worker and of two, without Ray, by shared memory and by gloo",
    "ids": "milliseconds of a training step by the number of ids, whole tables against rows alone",
    "shards": "a training step on two workers, and the memory of each, with id tables whole or spread over them",
    "follow": "what a day more costs a ranker that follows its days, and what each day showed before it was learnt",
    "fuxictr": "samples a second of Base against MMoE of FuxiCTR, at equal dense parameters",
    "scale": "memory and speed of the job train, by default over a small log; --full is of 10 M impressions",
    "windows": "labels by Moment, Sliver, 5 minutes and 1 hour over one event log: how right, how soon, at what cost",
    "labels": "what a ranker knows of the next 30 seconds by when its labels come: Moment, Sliver, 5 min, 1 h, a day",
    "training": "seconds of a training step, Base and SARM by encode window and budget, and where they go",
    "proportions": "seconds of a training step where Base is as wide as an industrial ranker",
    "kills": "what a SIGKILL at a random step of training costs, and whether the same ranker comes out",
    "faults": "random SIGKILLs of drivers, engines, workers and nodes: what is lost, done twice or left running",
    "disks": "full and read-only disks under train and follow: what is said, what stays, what is gone on from",
    "swaps": "what a new model and bank every few seconds cost those who ask",
    "soak": "whether the endpoint stays as it is for half an hour: memory, descriptors, answers",
    "serving": "where the time of a request goes; CPU of the start command against uvicorn, and of SARM against Base",
    "overload": "1 to 128 clients, twice the capacity, and bodies that never come: what is still answered, and when",
    "recovery": "what a SIGKILL of each part of serving costs those who ask, and how soon it is back",
    "freshness": "what fresh vectors and fresh weights are worth: GAUC of the next 30 seconds",
    "stream": "how soon an author's new vector is served while a ranker follows a day by windows, under load",
    "store": "the online store: loading, reading, writing, and what a SIGKILL takes",
    "banks": "a bank of millions of authors: verified, opened, held, gathered from, asked who is alike, swapped",
    "retrieval": "the nearest lives on air among many: milliseconds, and whether they are the nearest",
    "events": "how soon an event counts in the next answer, and whether it is scored as offline",
    "deltas": "how soon a delta of the bank is served, and what deltas cost those who ask meanwhile",
}
"""Module of this package -> what it measures. A module has `main(argv) -> int`."""


def main(argv: list[str]) -> int:
    """Runs one bench with its options, or all that exist with their defaults; returns the worst exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHES, "all"], default="all", help="one of the benches, or all")
    chosen, rest = parser.parse_known_args(argv)
    if chosen.name != "all":
        return int(importlib.import_module(f"tests.bench.{chosen.name}").main(rest))
    worst = 0
    for name, what in BENCHES.items():
        print(f"== {name}: {what}", flush=True)
        worst = max(worst, int(importlib.import_module(f"tests.bench.{name}").main([])))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
