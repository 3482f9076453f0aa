"""A base tokenizer made from the text of the anchors, where no Qwen checkpoint with one of its own writes them.

Reads anchors, leaves a `tokenizer.json`, which `vocabulary.base_tokenizer` then names.
Run: python -m pipelines base_tokenizer --config my.yaml
"""

import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from models.config import DayText, PathText
from pipelines.runtime.run import Run
from pipelines.semantics.corpus import corpus, corpus_days

log = logging.getLogger(__name__)
BYTES = 256
"""Every text is made of these, so that none is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseTokenizerConfig:
    """How large it is, what it learns from, and where it goes."""

    size: int = 8192
    """Most tokens; the 256 bytes are among them."""
    output: PathText = ""
    """The file; empty = `tokenizer.json` below run_dir."""
    until: DayText | None = None
    """Newest day of anchors to learn from, YYYY-MM-DD; null = those known before the newest `test_days` days of
    impressions."""
    test_days: int = 1
    """Newest days of impressions that rankers are scored on; where no file says it, train.test_days."""

    def __post_init__(self) -> None:
        if self.size < BYTES or self.test_days < 0:
            raise ValueError(
                f"wanted size >= {BYTES} and test_days >= 0, got {self.size} and {self.test_days}; correct them"
            )


def run(config: BaseTokenizerConfig, run: Run) -> dict[str, Any]:
    """Trains a byte-level BPE; the same anchors give the same file. Raises ContractError where there are none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    days = corpus_days(run.storage, until=config.until, test_days=config.test_days)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=config.size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(chain.from_iterable(corpus(run.storage, days)), trainer)
    path = Path(config.output or run.folder / "tokenizer.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    log.info("base tokenizer | %d tokens from %d day(s) of anchors | %s", tokenizer.get_vocab_size(), len(days), path)
    return {"tokenizer": str(path), "tokens": tokenizer.get_vocab_size(), "days": days}
