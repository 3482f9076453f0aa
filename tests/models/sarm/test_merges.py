from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from models.sarm.merges import Merges

QWEN_VOCABULARY = 151_643
SEQUENCES = st.lists(st.lists(st.integers(0, 3), max_size=8), max_size=6)


def test_ids_of_a_vocabulary_as_large_as_qwens_are_symbols() -> None:
    high = QWEN_VOCABULARY - 1
    merges = Merges(QWEN_VOCABULARY, []).extended([[0, high, 13, 9, 32, 0, high]], [5], 10, 10)
    assert merges.pieces == [(0, high)]
    assert merges.segment([[0, high, 5]]) == [[QWEN_VOCABULARY, 5]]


def test_a_merge_of_merges_spells_all_of_its_pieces() -> None:
    merges = Merges(4, [(0, 1), (4, 2), (3, 5)])
    assert merges.pieces == [(0, 1), (0, 1, 2), (3, 0, 1, 2)]
    assert merges.segment([[3, 0, 1, 2, 0, 1, 3]]) == [[6, 4, 3]]


def test_two_merges_that_spell_the_same_make_one_token() -> None:
    merges = Merges(4, [(0, 1), (1, 2), (4, 2), (0, 5)])
    assert merges.pieces == [(0, 1), (1, 2), (0, 1, 2)]


def test_weights_count_as_repetitions() -> None:
    once = Merges(4, []).extended([[0, 1], [2, 3]], [3, 1], min_frequency=2, max_merges=9)
    assert once.pieces == [(0, 1)]


@settings(deadline=None)
@given(SEQUENCES, SEQUENCES, SEQUENCES)
def test_extensions_append_and_segments_always_spell_the_input(
    first: list[list[int]], second: list[list[int]], other: list[list[int]]
) -> None:
    one = Merges(4, []).extended(first, [1] * len(first), 2, 9)
    two = one.extended(second, [1] * len(second), 2, 9)
    assert two.pieces[: len(one.pieces)] == one.pieces and two.pairs[: len(one.pairs)] == one.pairs
    assert len(set(two.pieces)) == len(two.pieces)
    for merges in (one, two):
        spelled = [[p for symbol in s for p in merges.expand(symbol)] for s in merges.segment(other)]
        assert spelled == other


@settings(deadline=None)
@given(SEQUENCES)
def test_after_training_no_pair_of_the_corpus_is_frequent(sequences: list[list[int]]) -> None:
    merges = Merges(4, []).extended(sequences, [1] * len(sequences), 2, 1000)
    counts: dict[tuple[int, int], int] = {}
    for symbols in merges.segment(sequences):
        for left, right in zip(symbols, symbols[1:], strict=False):
            counts[left, right] = counts.get((left, right), 0) + (left != right)
    assert max(counts.values(), default=0) < 2
