"""A'_s from the saved tokenizer.json, against the untouched base tokenizer and against slow merging by definition."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.sarm.anchor_tokens import CLS_ROW, NO_LIVE_ROW
from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig
from tests.models.sarm import bases

BASES: dict[str, tuple[Callable[[], Tokenizer], bool]] = {
    "gpt2": (bases.gpt2, True),
    "gpt2 within words": (bases.gpt2, False),
    "qwen": (bases.qwen, True),
    "qwen within words": (bases.qwen, False),
    "metaspace": (bases.metaspace, False),
    "whole": (bases.whole, True),
}
PIECES = [
    "pubg",
    " squad",
    "home",
    " interior",
    "café",
    "cafe\u0301",
    " 直播间",
    "直播",
    "'s",
    " 2026",
    " ",
    "  ",
    "\n",
    ", ",
    "λ",
]
ADDED = ["<|im_start|>", "gym", "karaoke ", "karaoke  "]
# Assigned characters: the library's tables of Unicode may be newer than Python's.
ANY = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=3)
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), ANY), max_size=12).map("".join)
TEXT_WITH_ADDED = st.lists(st.one_of(st.sampled_from(PIECES + ADDED), ANY), max_size=12).map("".join)
CORPUS = [["".join(PIECES[(7 * i + j * j) % len(PIECES)] for j in range(9))] for i in range(60)] + [
    ["pubg squad home interior", "café 直播间", "home squad's pubg, home interior"]
] * 5


@cache
def learnt(name: str) -> LiveStreamingTokenizer:
    base, join_words = BASES[name]
    config = TokenizerConfig(min_frequency=2, max_merges=200, max_tokens=400, join_words=join_words)
    first = LiveStreamingTokenizer.train(CORPUS[:5], base(), config)
    return first.update(CORPUS)


@cache
def saved(name: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        learnt(name).save(Path(folder))
        return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


@cache
def live_merges(name: str) -> dict[tuple[int, int], tuple[int, int]]:
    """Rank and id by the pair of ids, read from the saved file."""
    model, vocabulary = json.loads(saved(name).to_str())["model"], saved(name).get_vocab()
    known = len(json.loads(BASES[name][0]().to_str())["model"]["merges"])
    pairs = [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in model["merges"][known:]]
    return {(left, right): (rank, made) for rank, (left, right, made) in enumerate(pairs)}


def merged(ids: list[int], ranks: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Byte pair encoding by definition: the merge of lowest rank, leftmost first, until there is none."""
    while True:
        found = [(*ranks[pair], at) for at, pair in enumerate(zip(ids, ids[1:], strict=False)) if pair in ranks]
        if not found:
            return ids
        _, made, at = min(found, key=lambda merge: (merge[0], merge[2]))
        ids = [*ids[:at], made, *ids[at + 2 :]]


def phrases(base: Tokenizer, text: str, join_words: bool) -> list[list[int]]:
    """Base ids of a text that holds no added token, phrase by phrase."""
    if base.normalizer is not None:
        text = base.normalizer.normalize_str(text)
    words = (
        base.pre_tokenizer.pre_tokenize_str(text) if base.pre_tokenizer else [(text, (0, len(text)))] if text else []
    )
    found: list[list[int]] = []
    for word, (start, _) in words:
        ids = [token.id for token in base.model.tokenize(word)]
        before, after = text[max(start - 1, 0) : start], text[start + 1 : start + 2]
        joined = before and after and unicodedata.category(before)[0] in "LM" and unicodedata.category(after)[0] == "L"
        if join_words and base.pre_tokenizer and joined and text[start] == " ":
            found[-1] += ids
        else:
            found.append(ids)
    return found


@pytest.mark.parametrize("name", BASES)
def test_many_merges_were_learnt_in_training_and_update(name: str) -> None:
    base, join_words = BASES[name]
    config = TokenizerConfig(min_frequency=2, max_merges=200, max_tokens=400, join_words=join_words)
    first = LiveStreamingTokenizer.train(CORPUS[:5], base(), config)
    assert 10 < first.rows.num_live_rows < learnt(name).rows.num_live_rows


@pytest.mark.parametrize("name", BASES)
@settings(deadline=None)
@given(text=TEXT_WITH_ADDED)
def test_the_saved_file_expands_to_the_base_tokenizers_own_ids(name: str, text: str) -> None:
    wanted = BASES[name][0]().encode(text, add_special_tokens=False).ids
    assert learnt(name).decode_live(saved(name).encode(text).ids) == wanted
    assert learnt(name).base_ids(text) == wanted


@pytest.mark.parametrize("name", BASES)
@settings(deadline=None)
@given(text=TEXT)
def test_the_saved_file_merges_by_definition(name: str, text: str) -> None:
    base, join_words = BASES[name]
    if any(token.content in text for token in base().get_added_tokens_decoder().values()):
        return
    wanted = [i for ids in phrases(base(), text, join_words) for i in merged(ids, live_merges(name))]
    assert saved(name).encode(text).ids == wanted == learnt(name).live_ids(text)


@pytest.mark.parametrize("name", BASES)
@settings(deadline=None)
@given(fields=st.lists(TEXT_WITH_ADDED, max_size=3))
def test_every_base_position_has_the_one_live_token_that_covers_it(name: str, fields: list[str]) -> None:
    tokenizer = learnt(name)
    tokens = tokenizer.encode([fields])
    base, live = [], [NO_LIVE_ROW]
    for field in fields:
        for token in saved(name).encode(field).ids:
            pieces = tokenizer.decode_live([token])
            base += pieces
            live += [max(token - tokenizer.base_vocabulary + 1, NO_LIVE_ROW)] * len(pieces)
    assert tokens.live[0].tolist() == live
    rows = tokens.base[0].tolist()
    assert rows[0] == CLS_ROW and len(rows) == 1 + len(base)
    assert len(set(zip(base, rows[1:], strict=True))) == len(set(base))  # an id has one row, wherever it is


@pytest.mark.parametrize("name", BASES)
def test_no_id_of_the_base_moves_and_every_live_id_comes_behind(name: str) -> None:
    base, vocabulary = BASES[name][0](), saved(name).get_vocab()
    assert base.get_vocab().items() <= vocabulary.items()
    new = sorted(vocabulary.values())[base.get_vocab_size() :]
    assert new == list(range(base.get_vocab_size(), base.get_vocab_size() + learnt(name).rows.num_live_rows - 1))
