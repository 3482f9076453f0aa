from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from models.sarm.live_tokenizer.merges import ids_of, join, learn, most_frequent_pair, phrases

QWEN_VOCABULARY = 151_643
CORPUS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=8), max_size=6)


def text(*ids: int) -> str:
    """Ids as phrases hold them."""
    return "".join(chr(0x10000 + i) for i in ids)


def merged(phrase: str, merges: list[tuple[str, str]]) -> list[str]:
    symbols = list(phrase)
    for left, right in merges:
        at = 0
        while at < len(symbols) - 1:
            if symbols[at : at + 2] == [left, right]:
                symbols[at : at + 2] = [left + right]
            at += 1
    return symbols


def test_phrases_are_the_pre_tokens_of_every_text() -> None:
    words = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "c": 3}, merges=[("a", "b")]))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert phrases(words.encode_batch(["ab c", "", "cab", "c"])) == [text(2), text(3), text(3, 2), text(3)]
    assert phrases(words.encode_batch([])) == [] == phrases(words.encode_batch([""]))


def test_ids_of_a_vocabulary_as_large_as_qwens_are_symbols() -> None:
    high = QWEN_VOCABULARY - 1
    found = Counter({text(0, high, 13, 9, 32, 0, high): 5})
    assert learn(found, 10, 10) == [(text(0), text(high))]
    assert ids_of(text(0, high)) == [0, high]


def test_counts_are_occurrences_however_many() -> None:
    found = Counter({text(0, 1): 2500, text(2, 3): 2499})
    assert learn(found, 2500, 9) == [(text(0), text(1))]


def test_max_merges_is_the_most_that_are_learnt() -> None:
    assert len(learn(Counter({text(*range(20)): 9, text(30): 9, text(31): 9}), 1, 3)) == 3


@settings(deadline=None)
@given(CORPUS)
def test_after_training_no_pair_of_the_corpus_is_frequent(sequences: list[list[int]]) -> None:
    found = Counter(text(*ids) for ids in sequences)
    merges = learn(found, 2, 1000)
    counts: Counter[tuple[str, str]] = Counter()
    for phrase, times in found.items():
        symbols = merged(phrase, merges)
        for left, right in zip(symbols, symbols[1:], strict=False):
            counts[left, right] += times * (left != right)
    assert max(counts.values(), default=0) < 2


@settings(deadline=None)
@given(CORPUS)
def test_joined_phrases_are_those_that_the_merges_give_one_after_the_other(sequences: list[list[int]]) -> None:
    corpus = [text(*ids) for ids in sequences]
    merges = learn(Counter(corpus), 2, 5)
    made = {left + right: 100 + number for number, (left, right) in enumerate(merges)}
    wanted = [[made.get(symbol) or ids_of(symbol)[0] for symbol in merged(phrase, merges)] for phrase in corpus]
    assert join(corpus, [(ids_of(left), ids_of(right)) for left, right in merges], 100) == wanted


@given(CORPUS)
def test_the_most_frequent_pair_is_the_highest_threshold_that_merges(corpus: list[list[int]]) -> None:
    counts = Counter(text(*ids) for ids in corpus)
    most = most_frequent_pair(counts)
    assert not learn(counts, most + 1, 10)
    assert bool(learn(counts, most, 10)) == (most > 0)
