"""The Live-Streaming Tokenizer, trained on the anchors before the days that are scored, or extended by newer ones.

Reads anchors, publishes the artifact "tokenizer".
Run: python -m pipelines vocabulary --config pipelines/configs/demo.yaml
"""

import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.config import DayText, PathText
from pipelines.runtime.config import ConfigError
from pipelines.runtime.run import Run
from pipelines.runtime.shares import is_worth_saying, share
from pipelines.semantics.corpus import corpus, corpus_days
from pipelines.semantics.tokenizer_file import load_tokenizer
from pipelines.tables.anchor_text import NAMES
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.contract import ContractError
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig

log = logging.getLogger(__name__)
KIND = "tokenizer"
_KEY = "vocabulary.base_tokenizer"
_DAY = "anchors/"
_EXAMPLES = 24
COUNTED = "counted.json"
"""File of the artifact that holds the counts of its corpus."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    """How the tokenizer is made."""

    base_tokenizer: PathText = ""
    """The `tokenizer.json` of the model that writes the anchors, or the one that the job base_tokenizer made."""
    until: DayText | None = None
    """Newest day of anchors to learn from, YYYY-MM-DD; null = those known before the newest `test_days` days of
    impressions, which are scored."""
    test_days: int = 1
    """Newest days of impressions that rankers are scored on; where no file says it, train.test_days."""
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

    def __post_init__(self) -> None:
        if self.test_days < 0:
            raise ValueError(f"test_days: wanted 0 or more, got {self.test_days}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """A corpus as its tokenizer counts it. It is kept beside the tokenizer, so that a day is read once."""

    phrases: Counter[str]
    """How often the corpus holds each phrase of base tokens."""
    lengths: Counter[int]
    """How many anchors have so many base tokens, [CLS] included, before any is cut."""

    @property
    def anchors(self) -> int:
        """How many there are."""
        return self.lengths.total()

    @classmethod
    def load(cls, folder: Path) -> "Counted":
        """Reads what `save` wrote."""
        content = json.loads((folder / COUNTED).read_text(encoding="utf-8"))
        lengths = {int(length): count for length, count in content["lengths"].items()}
        return cls(phrases=Counter(content["phrases"]), lengths=Counter(lengths))

    def save(self, folder: Path) -> None:
        """Writes the file COUNTED."""
        content = {"phrases": self.phrases, "lengths": {str(n): count for n, count in self.lengths.items()}}
        (folder / COUNTED).write_text(json.dumps(content, ensure_ascii=False, sort_keys=True), encoding="utf-8")


def run(config: VocabularyConfig, run: Run) -> dict[str, Any]:
    """Trains the tokenizer, or extends the published one where it was made from a subset of the same days."""
    from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer

    storage = run.storage
    artifacts = Artifacts(storage)
    anchors = storage.listing("anchors")
    days = corpus_days(storage, until=config.until, test_days=config.test_days)
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
        with _faults_of(config):
            blank = LiveStreamingTokenizer.blank(base, _tokenizer_config(config))
            counted = _with_days(Counted(phrases=Counter(), lengths=Counter()), blank, storage, days, like=base)
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
    for warning in warnings(tokenizer, counted):
        log.warning("tokenizer | %s", warning)
    return metrics


def warnings(tokenizer: "LiveStreamingTokenizer", counted: Counted) -> list[str]:
    """What a tokenizer does to its corpus that its owner may not want: nothing merged, anchors cut. [] for nothing."""
    from models.sarm.live_tokenizer.merges import most_frequent_pair

    found, config = [], tokenizer.config
    if tokenizer.rows.num_live_rows == 1:
        most = most_frequent_pair(counted.phrases)
        found.append(
            f"no merges: the most frequent pair of tokens occurs {most:,} time(s) in {counted.anchors:,} anchors, and "
            f"vocabulary.min_frequency is {config.min_frequency:,}; set it to at most {max(1, most):,}, for example "
            f"{max(1, most // 10):,}"
        )
    lengths = np.sort(np.fromiter(counted.lengths.elements(), np.int64, counted.anchors))
    cut = int((lengths > config.max_tokens).sum())
    if is_worth_saying(cut, counted.anchors):
        enough = int(lengths[math.ceil(0.99 * len(lengths)) - 1])
        found.append(
            f"anchors cut: {share(cut, counted.anchors)} are longer than vocabulary.max_tokens = {config.max_tokens} "
            f"and lose their tail; set it to {enough} to keep 99 % of them whole"
        )
    return found


def _with_days(
    counted: Counted, tokenizer: "LiveStreamingTokenizer", storage: Storage, days: list[str], like: Any = None
) -> Counted:
    """The corpus with further days; `like` is the base tokenizer that the first anchors are checked against."""
    phrases = tokenizer.count(corpus(storage, days), like=like)
    lengths = Counter(tokenizer.lengths(corpus(storage, days)).tolist())
    return Counted(phrases=counted.phrases + phrases, lengths=counted.lengths + lengths)


def _base(config: VocabularyConfig) -> Any:
    """The base tokenizer of the config, with a token for the name of each field. ConfigError where there is none.

    Spelled out, the names would be half of an anchor's tokens, the same six in every anchor.
    """
    from tokenizers import AddedToken

    path = Path(config.base_tokenizer)
    if not config.base_tokenizer or not path.is_file():
        raise ContractError(
            f"{_KEY} {config.base_tokenizer or '(not set)'}: wanted a tokenizer.json, got none; "
            "name the file in the folder of the model that writes the anchors, or make one: run the job base_tokenizer"
        )
    base = load_tokenizer(path, _KEY)
    base.add_tokens([AddedToken(name, normalized=False) for name in NAMES.values()])
    return base


@contextmanager
def _faults_of(config: VocabularyConfig) -> Iterator[None]:
    """Names key and file where a base tokenizer is of a family that cannot be extended."""
    try:
        yield
    except ContractError:  # of the anchors
        raise
    except ValueError as error:
        raise ConfigError(
            f"{_KEY} {config.base_tokenizer}: {error}; take the tokenizer.json of a Qwen checkpoint, or run the job "
            "base_tokenizer"
        ) from error


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

    rules = {key: value for key, value in asdict(config).items() if key not in ("until", "test_days")} | {
        "format": FORMAT,
        "counted": "2",
        "names": list(NAMES.values()),
    }
    base = Path(config.base_tokenizer)
    rules["base_tokenizer"] = (
        digest(base.read_text(encoding="utf-8", errors="replace")) if base.is_file() else config.base_tokenizer
    )
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
