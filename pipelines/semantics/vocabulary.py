"""The Live-Streaming Tokenizer, trained on the anchors of all days so far, or extended by those of newer days.

Reads anchors, publishes the artifact "tokenizer".
Run: python -m pipelines vocabulary --config pipelines/configs/demo.yaml
"""

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
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
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig

log = logging.getLogger(__name__)
KIND = "tokenizer"
_DAY = "anchors/"
_EXAMPLES = 24
COUNTED = "counted.json"
"""File of the artifact that holds the counts of its corpus."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """A corpus as its tokenizer counts it. It is kept beside the tokenizer, so that a day is read once."""

    anchors: int
    phrases: Counter[str]
    """How often the corpus holds each phrase of base tokens."""

    @classmethod
    def load(cls, folder: Path) -> "Counted":
        """Reads what `save` wrote."""
        content = json.loads((folder / COUNTED).read_text(encoding="utf-8"))
        return cls(anchors=content["anchors"], phrases=Counter(content["phrases"]))

    def save(self, folder: Path) -> None:
        """Writes the file COUNTED."""
        content = {"anchors": self.anchors, "phrases": self.phrases}
        (folder / COUNTED).write_text(json.dumps(content, ensure_ascii=False, sort_keys=True), encoding="utf-8")


def run(config: VocabularyConfig, run: Run) -> dict[str, Any]:
    """Trains the tokenizer, or extends the published one where it was made from a subset of the same days."""
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer

    storage = run.storage
    artifacts = Artifacts(storage)
    anchors = storage.listing("anchors")
    days = anchors.up_to(until=config.until)
    if not days:
        raise ContractError(
            f"table anchors: wanted at least one day up to {config.until or 'today'}, got none; "
            "run the job anchors first"
        )
    made_from = _rules(config) | {_DAY + day: anchors.stamp(day) for day in days}
    published = artifacts.manifest(KIND) if artifacts.current(KIND) else None
    if published is not None and _extends(published.made_from, made_from):
        folder = artifacts.fetch(KIND)
        tokenizer, counted = LiveStreamingTokenizer.load(folder), Counted.load(folder)
        new = [day for day in days if _DAY + day not in published.made_from]
        how = "extended" if new else "current"
        if new:
            counted = _with_days(counted, tokenizer, storage, new)
            tokenizer = tokenizer.update_on(counted.phrases)
    else:
        how, base = "trained", _base(config)
        blank = LiveStreamingTokenizer.blank(base, _tokenizer_config(config))
        counted = _with_days(Counted(anchors=0, phrases=Counter()), blank, storage, days, like=base)
        tokenizer = blank.train_on(counted.phrases)
    if how != "current":
        run_id = f"{days[-1]}-{digest([made_from, tokenizer.fingerprint])}"
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer.save(Path(scratch))
            counted.save(Path(scratch))
            artifacts.publish(KIND, Path(scratch), run_id, made_from)
    metrics = {"run_id": artifacts.current(KIND), "how": how, "days": days} | _measure(tokenizer, counted)
    log.info(
        "tokenizer %s from %d days | %d merges | %.1f tokens per anchor, %.1f after merging",
        how, len(days), metrics["merges"], metrics["base_tokens_mean"], metrics["live_tokens_mean"],
    )  # fmt: skip
    return metrics


def _with_days(
    counted: Counted, tokenizer: "LiveStreamingTokenizer", storage: Storage, days: list[str], like: Any = None
) -> Counted:
    """The corpus with further days; `like` is the base tokenizer that the first anchors are checked against."""
    anchors = sum(storage.dataset("anchors", day).count_rows() for day in days)
    phrases = tokenizer.count(corpus(storage, days), like=like)
    return Counted(anchors=counted.anchors + anchors, phrases=counted.phrases + phrases)


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


def _tokenizer_config(config: VocabularyConfig) -> "TokenizerConfig":
    from models.sarm.live_tokenizer.tokenizer import TokenizerConfig

    return TokenizerConfig(
        min_frequency=config.min_frequency,
        max_merges=config.max_merges,
        join_words=config.join_words,
        hash_buckets=config.hash_buckets,
        max_tokens=config.max_tokens,
    )


def _rules(config: VocabularyConfig) -> dict[str, str]:
    """What a tokenizer is made by, beside the days that it is made from."""
    from models.sarm.live_tokenizer.tokenizer import FORMAT

    rules = {key: value for key, value in asdict(config).items() if key != "until"} | {
        "format": FORMAT,
        "names": list(NAMES.values()),
    }
    base = Path(config.base_tokenizer)
    rules["base_tokenizer"] = digest(base.read_text(encoding="utf-8")) if base.is_file() else config.base_tokenizer
    return {"config": digest(rules)}


def _extends(old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """True if all that the old one was made from is still as it was, and is part of the new."""
    return all(new.get(key) == value for key, value in old.items())


def _measure(tokenizer: "LiveStreamingTokenizer", counted: Counted) -> dict[str, Any]:
    """Sizes, mean tokens per anchor before and after merging, and the merged terms met most often."""
    base, live = tokenizer.ids_in(counted.phrases)
    merged = live[tokenizer.base_vocabulary :]
    often = [1 + int(index) for index in np.argsort(-merged, kind="stable") if merged[index]]
    return {
        "anchors": counted.anchors,
        "base_vocabulary": tokenizer.base_vocabulary,
        "merges": len(merged),
        "base_rows": tokenizer.rows.num_base_rows,
        "base_tokens_mean": int(base.sum()) / max(counted.anchors, 1),
        "live_tokens_mean": int(live.sum()) / max(counted.anchors, 1),
        "examples": [tokenizer.live_text(row).strip() for row in often[:_EXAMPLES]],
    }
