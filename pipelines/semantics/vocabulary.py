"""The Live-Streaming Tokenizer, trained on the anchors of all days so far, or extended by those of newer days.

Reads anchors, publishes the artifact "tokenizer".
Run: python -m pipelines vocabulary --config pipelines/configs/demo.yaml
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.runtime.run import Run
from pipelines.tables.anchor_text import NAMES, field_texts
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import FIELDS, ContractError
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage, batches

if TYPE_CHECKING:
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer

log = logging.getLogger(__name__)
KIND = "tokenizer"
_DAY = "anchors/"
_BATCH, _EXAMPLES = 4096, 24


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    """How the tokenizer is made."""

    base_tokenizer: str = ""
    """The `tokenizer.json` of the model that writes the anchors."""
    until: str | None = None
    """Newest day of anchors to learn from, YYYY-MM-DD; null = the newest there is."""
    min_frequency: int = 100_000
    """A pair of tokens is merged when the corpus holds it at least this often (the paper's threshold)."""
    max_merges: int = 50_000
    """Most merges that one run may add."""
    join_words: bool = True
    """Merges may join words that one space separates; false: they stay within the words of the base tokenizer."""
    hash_buckets: int = 256
    """Rows shared by base tokens that the corpus did not hold."""
    max_tokens: int = 64
    """Longest anchor in tokens, [CLS] included."""


def run(config: VocabularyConfig, run: Run) -> dict[str, Any]:
    """Trains the tokenizer, or extends the published one where it was made from a subset of the same days."""
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig

    storage = run.storage
    artifacts = Artifacts(storage)
    days = [d for d in storage.days("anchors") if config.until is None or d <= config.until]
    if not days:
        raise ContractError(
            f"table anchors: wanted at least one day up to {config.until or 'today'}, got none; "
            "run the job anchors first"
        )
    made_from = _made_from(storage, config, days)
    published = artifacts.manifest(KIND) if artifacts.current(KIND) else None
    if published is not None and dict(published.made_from) == made_from:
        tokenizer, how = LiveStreamingTokenizer.load(artifacts.fetch(KIND)), "current"
    elif published is not None and _extends(published.made_from, made_from):
        how = "extended"
        tokenizer = LiveStreamingTokenizer.load(artifacts.fetch(KIND)).update(corpus(storage, days))
    else:
        how = "trained"
        rules = TokenizerConfig(
            min_frequency=config.min_frequency,
            max_merges=config.max_merges,
            join_words=config.join_words,
            hash_buckets=config.hash_buckets,
            max_tokens=config.max_tokens,
        )
        tokenizer = LiveStreamingTokenizer.train(corpus(storage, days), _base(config), rules)
    run_id = f"{days[-1]}-{digest([made_from, tokenizer.fingerprint])}"
    if how != "current":
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(Path(folder))
            artifacts.publish(KIND, Path(folder), run_id, made_from)
    metrics = {"run_id": artifacts.current(KIND), "how": how, "days": days} | _measure(tokenizer, storage, days)
    log.info(
        "tokenizer %s from %d days | %d merges | %.1f tokens an anchor, %.1f after merging",
        how, len(days), metrics["merges"], metrics["base_tokens_mean"], metrics["live_tokens_mean"],
    )  # fmt: skip
    return metrics


def corpus(storage: Storage, days: list[str]) -> Iterator[list[str]]:
    """The fields' texts of every anchor of `days`, as the tokenizer reads them."""
    for day in days:
        for table in batches(storage.dataset("anchors", day), 4096, list(FIELDS)):
            for row in table.to_pylist():
                yield field_texts(row)


def _base(config: VocabularyConfig) -> Any:
    """The base tokenizer of the config, with a token for the name of each field. Raises ValueError where there is none.

    Spelled out, the names would be half of an anchor's tokens, the same six in every anchor.
    """
    from tokenizers import AddedToken, Tokenizer

    path = Path(config.base_tokenizer)
    if not config.base_tokenizer or not path.is_file():
        raise ContractError(
            f"vocabulary.base_tokenizer: wanted a tokenizer.json, got {config.base_tokenizer!r}; "
            "name the file in the folder of the model that writes the anchors"
        )
    base = Tokenizer.from_file(str(path))
    base.add_tokens([AddedToken(name, normalized=False) for name in NAMES.values()])
    return base


def _made_from(storage: Storage, config: VocabularyConfig, days: list[str]) -> dict[str, str]:
    from models.sarm.live_tokenizer.tokenizer import FORMAT

    rules = {key: value for key, value in asdict(config).items() if key != "until"} | {
        "format": FORMAT,
        "names": list(NAMES.values()),
    }
    base = Path(config.base_tokenizer)
    rules["base_tokenizer"] = digest(base.read_text(encoding="utf-8")) if base.is_file() else config.base_tokenizer
    return {"config": digest(rules)} | {_DAY + day: storage.fingerprint("anchors", day) for day in days}


def _extends(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """True if all that the old one was made from is still as it was, and is part of the new."""
    return all(new.get(key) == value for key, value in old.items())


def _measure(tokenizer: "LiveStreamingTokenizer", storage: Storage, days: list[str]) -> dict[str, Any]:
    """Sizes, mean tokens per anchor before and after merging, and the merged terms met most often."""
    base_tokens = live_tokens = anchors = 0
    merged = np.zeros(tokenizer.rows.num_live_rows - 1, dtype=np.int64)
    rest = corpus(storage, days)
    while batch := list(islice(rest, _BATCH)):
        base, live = tokenizer.counts(batch)
        merged += live[tokenizer.base_vocabulary :]
        base_tokens += int(base.sum())
        live_tokens += int(live.sum())
        anchors += len(batch)
    often = [1 + int(index) for index in np.argsort(-merged, kind="stable") if merged[index]]
    return {
        "anchors": anchors,
        "base_vocabulary": tokenizer.base_vocabulary,
        "merges": len(merged),
        "base_rows": tokenizer.rows.num_base_rows,
        "base_tokens_mean": base_tokens / max(anchors, 1),
        "live_tokens_mean": live_tokens / max(anchors, 1),
        "examples": [tokenizer.live_text(row).strip() for row in often[:_EXAMPLES]],
    }
