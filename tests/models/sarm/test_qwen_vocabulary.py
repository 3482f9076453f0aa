"""The Live-Streaming Tokenizer over the whole Qwen vocabulary."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig
from tests.models.qwen import RANKS, qwen_tokenizer

pytestmark = pytest.mark.skipif(
    not RANKS.is_file(), reason="../shared/qwen_vocab is absent: the Qwen vocabulary is not in the project"
)
CONFIG = TokenizerConfig(min_frequency=20, max_merges=1000)
CORPUS = [[f"theme: {a} PUBG {b}", "scene: studio 直播间"] for a in ("red", "old", "big", "my") for b in "abcdefghi"]


@cache
def base() -> Tokenizer:
    return qwen_tokenizer()


@cache
def trained() -> LiveStreamingTokenizer:
    return LiveStreamingTokenizer.train(CORPUS, base(), CONFIG)


def test_the_base_splits_domain_words_as_the_paper_says() -> None:
    assert base().get_vocab_size() == 151_643
    assert base().encode("PUBG").tokens == ["P", "UB", "G"]
    assert base().decode(base().encode("What's 直播 2026?").ids) == "What's 直播 2026?"


def test_a_domain_word_becomes_one_token_and_the_base_tokens_stay() -> None:
    tokenizer = trained()
    assert " PUBG" in [tokenizer.live_text(row) for row in range(1, tokenizer.rows.num_live_rows)]
    for field in ("theme: my PUBG day", "scene: studio 直播间"):
        assert tokenizer.base_ids(field) == base().encode(field).ids
        assert tokenizer.decode_live(tokenizer.live_ids(field)) == tokenizer.base_ids(field)
    assert [tokenizer.decode_live([i]) for i in tokenizer.live_ids("scene: studio 直播间")] == [
        base().encode(term).ids for term in ("scene", ":", " studio 直播间")
    ]


def test_a_daily_update_appends_and_moves_nothing() -> None:
    tokenizer = trained()
    newer = tokenizer.update([["theme: Genshin Impact boss"]] * 25)
    rows = tokenizer.rows.num_live_rows
    assert newer.rows.num_live_rows > rows
    assert [newer.live_text(r) for r in range(1, rows)] == [tokenizer.live_text(r) for r in range(1, rows)]
    assert newer.live_ids("theme: my PUBG day") == tokenizer.live_ids("theme: my PUBG day")
    assert len(newer.live_ids(" Genshin Impact boss")) == 1


def test_the_library_loads_the_saved_file_and_no_original_token_moved(tmp_path: Path) -> None:
    trained().save(tmp_path)
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert base().get_vocab().items() <= loaded.get_vocab().items()
    for field in ("theme: my PUBG day", "scene: studio 直播间", "What's 直播\n\n  2026?\u00a0 ｘ"):
        assert trained().decode_live(loaded.encode(field).ids) == base().encode(field).ids
