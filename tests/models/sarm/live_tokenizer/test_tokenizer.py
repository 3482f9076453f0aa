from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.sarm.live_tokenizer.tokenizer import LiveStreamingTokenizer, TokenizerConfig

OLD = [["pubg squad", "home interior", "lao tie"], ["pubg solo", "home interior", ""], ["pubg squad", "gym", "lao tie"]]
NEW = [["karaoke night", "home studio", "lao tie"], ["karaoke duet", "pubg squad", "karaoke night"]] * 2
CONFIG = TokenizerConfig(min_frequency=2, max_merges=30, hash_buckets=4, max_tokens=40)
FIELDS = st.lists(
    st.lists(st.sampled_from(["pubg", " squad", "home", " interior", "karaoke", " night", "λ", "x"])).map("".join),
    max_size=4,
)


@cache
def base() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["pubg lao home", "pubg tie home"], trainer)
    return tokenizer


@cache
def old() -> LiveStreamingTokenizer:
    return LiveStreamingTokenizer.train(OLD, base(), CONFIG)


@cache
def new() -> LiveStreamingTokenizer:
    return old().update(NEW)


def live_texts(tokenizer: LiveStreamingTokenizer) -> list[str]:
    return [tokenizer.live_text(row) for row in range(1, tokenizer.rows.num_live_rows)]


def test_frequent_terms_become_one_live_token() -> None:
    assert "pubg squad" in live_texts(old())
    tokens = old().encode([["pubg squad"]])
    row = 1 + live_texts(old()).index("pubg squad")
    length = int(tokens.lengths[0])
    assert tokens.live[0].tolist() == [0] + [row] * (length - 1)


def test_pairs_below_the_threshold_are_not_merged() -> None:
    rare = LiveStreamingTokenizer.train(OLD, base(), TokenizerConfig(min_frequency=3, max_merges=30))
    assert "pubg squad" not in live_texts(rare) and "pubg s" in live_texts(rare)


def test_max_merges_is_the_most_that_one_training_adds() -> None:
    few = LiveStreamingTokenizer.train(OLD, base(), TokenizerConfig(min_frequency=1, max_merges=3))
    assert few.rows.num_live_rows == 4


def test_no_merge_crosses_from_one_field_into_the_next() -> None:
    corpus = [["gym", "gym"]] * 50
    one = LiveStreamingTokenizer.train(corpus, base(), TokenizerConfig(min_frequency=2, max_merges=50))
    assert max(live_texts(one), key=len) == "gym"


@settings(deadline=None)
@given(st.lists(FIELDS, max_size=5))
def test_anchors_are_encoded_alike_alone_and_in_a_batch(anchors: list[list[str]]) -> None:
    together = new().encode(anchors)
    for row, fields in enumerate(anchors):
        alone = new().encode([fields])
        assert together.base[row, : alone.base.shape[1]].tolist() == alone.base[0].tolist()
        assert together.live[row, : alone.base.shape[1]].tolist() == alone.live[0].tolist()
        assert not together.base[row, alone.base.shape[1] :].any()


def test_an_update_appends_and_moves_nothing() -> None:
    assert live_texts(new())[: len(live_texts(old()))] == live_texts(old())
    assert "karaoke night" in live_texts(new()) and "karaoke night" not in live_texts(old())
    assert new().rows.num_base_rows == old().rows.num_base_rows
    assert np.array_equal(new().encode(NEW).base, old().encode(NEW).base)


def test_no_live_token_is_there_twice_after_updates() -> None:
    again = new().update(OLD * 3).update(NEW * 3)
    assert len(set(live_texts(again))) == len(live_texts(again))


def test_ids_of_the_corpus_have_rows_of_their_own_and_the_rest_share_buckets() -> None:
    first_own = 2 + CONFIG.hash_buckets
    assert (old().encode(OLD).base[:, 1:].max(initial=0)) == old().rows.num_base_rows - 1
    seen = old().encode([["pubg"]]).base[0, 1:]
    unseen = old().encode([["QZ%λ"]]).base[0, 1:]
    assert (seen >= first_own).all()
    assert ((2 <= unseen) & (unseen < first_own)).all()


def test_training_does_not_depend_on_the_order_of_the_corpus() -> None:
    assert LiveStreamingTokenizer.train(OLD[::-1], base(), CONFIG).fingerprint == old().fingerprint


def test_long_anchors_are_cut_and_counted() -> None:
    short = LiveStreamingTokenizer.train(OLD, base(), replace(CONFIG, max_tokens=5))
    tokens = short.encode([["home interior", "gym gym gym"], ["pubg"]])
    whole = old().encode([["home interior", "gym gym gym"]])
    assert tokens.base.shape == (2, 5) and tokens.num_truncated == 1
    assert tokens.lengths.tolist() == [5, 2]
    assert tokens.base[0].tolist() == whole.base[0, :5].tolist()


def test_an_anchor_that_just_fits_is_not_counted_as_cut() -> None:
    length = int(old().encode([["pubg squad"]]).lengths[0])
    exact = LiveStreamingTokenizer.train(OLD, base(), TokenizerConfig(min_frequency=2, max_tokens=length))
    assert exact.encode([["pubg squad"]]).num_truncated == 0


def test_no_anchors_and_empty_fields_are_fine() -> None:
    assert old().encode([]).base.shape == (0, 1)
    assert old().encode([["", ""], []]).base.tolist() == [[1], [1]]


def test_a_corpus_without_text_trains_a_tokenizer_without_merges() -> None:
    empty = LiveStreamingTokenizer.train([], base(), CONFIG)
    assert empty.rows.num_live_rows == 1
    assert not empty.encode([["pubg"]]).live.any()
    assert "pubg squad" in live_texts(empty.update(OLD))


def test_padding_and_truncation_of_the_base_tokenizer_are_ignored() -> None:
    noisy = Tokenizer.from_str(base().to_str())
    noisy.enable_padding(length=12)
    noisy.enable_truncation(2)
    assert LiveStreamingTokenizer.train(OLD, noisy, CONFIG).fingerprint == old().fingerprint


def test_words_are_joined_or_not_as_the_config_says() -> None:
    within = LiveStreamingTokenizer.train(OLD * 9, base(), replace(CONFIG, join_words=False))
    assert " interior" in live_texts(within)
    assert not any(" " in text.strip() for text in live_texts(within))


def test_a_base_tokenizer_whose_tokens_would_change_is_refused() -> None:
    """A pattern that refers back to its own groups cannot stand twice in the pattern of a run of words."""
    odd = Tokenizer.from_str(base().to_str())
    split = pre_tokenizers.Split(Regex(r" (\p{L})\1| ?\p{L}+|\s|."), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    odd.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    with pytest.raises(ValueError, match="own ids .* for 'a hhome'.* join_words = True"):
        LiveStreamingTokenizer.train([["a home", "a hhome"]], odd, CONFIG)


def test_the_saved_file_is_one_tokenizer_that_the_library_loads(tmp_path: Path) -> None:
    new().save(tmp_path)
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert loaded.encode("pubg squad home").ids == new().live_ids("pubg squad home")
    assert loaded.decode(loaded.encode("pubg squad home").ids) == "pubg squad home"
    assert loaded.get_vocab_size() == base().get_vocab_size() + new().rows.num_live_rows - 1


def test_save_and_load_give_the_same_rows(tmp_path: Path) -> None:
    new().save(tmp_path)
    loaded = LiveStreamingTokenizer.load(tmp_path)
    assert loaded.fingerprint == new().fingerprint != old().fingerprint
    assert loaded.rows == new().rows
    assert np.array_equal(loaded.encode(NEW).live, new().encode(NEW).live)
    assert loaded.update(OLD * 3).fingerprint == new().update(OLD * 3).fingerprint


@pytest.mark.parametrize("name", ["tokenizer.json", "live_streaming.json"])
def test_a_changed_file_is_refused_with_both_fingerprints(tmp_path: Path, name: str) -> None:
    old().save(tmp_path)
    state = json.loads((tmp_path / name).read_text())
    (state["model"]["merges"] if "model" in state else state["seen"]).pop()
    (tmp_path / name).write_text(json.dumps(state))
    with pytest.raises(ValueError, match=old().fingerprint):
        LiveStreamingTokenizer.load(tmp_path)


def test_a_tokenizer_of_an_older_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "live_streaming.json").write_text(json.dumps({"format": "live-streaming-tokenizer/1", "merges": []}))
    with pytest.raises(ValueError, match="tokenizer/1.*tokenizer/2.*run the job vocabulary"):
        LiveStreamingTokenizer.load(tmp_path)


def test_live_text_of_a_row_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="live rows go from 1"):
        old().live_text(0)


@pytest.mark.parametrize("change", [{"min_frequency": 0}, {"hash_buckets": 0}, {"max_tokens": 1}, {"max_merges": -1}])
def test_impossible_settings_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="wanted min_frequency"):
        TokenizerConfig(**change)


@given(st.lists(FIELDS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_encode_live_is_the_sequence_of_merged_tokens(anchors: list[list[str]]) -> None:
    """Each merged token once, behind the base rows; base tokens have the rows that encode gives them."""
    tokenizer = new()
    merged, full = tokenizer.encode_live(anchors), tokenizer.encode(anchors)
    first_live = tokenizer.rows.num_base_rows
    for row, fields in enumerate(anchors):
        rest = full.base[row, 1:].tolist()
        wanted = [1]
        for token in (token for field in fields for token in tokenizer.live_ids(field)):
            span = len(tokenizer.decode_live([token]))
            live = token - tokenizer.base_vocabulary
            wanted.append(first_live + live if live >= 0 else rest[0] if rest else 0)
            rest = rest[span:]
        reached = min(len(wanted), merged.base.shape[1])
        known = min(reached, merged.base.shape[1] if full.lengths[row] < CONFIG.max_tokens else 5)
        assert merged.base[row, :known].tolist() == wanted[:known]
        assert merged.lengths[row] == min(len(wanted), CONFIG.max_tokens)
    assert not merged.live.any() and merged.base.max() < tokenizer.live_rows.num_base_rows
    assert tokenizer.live_rows.num_live_rows == 1


def test_spans_say_where_each_token_stands() -> None:
    fields = ["pubg squad", "", "lao λ tie"]
    spans, length = old().spans(fields), int(old().encode([fields]).lengths[0])
    assert len(spans) == length - 1
    for index, field in enumerate(fields):
        mine = [(start, end) for of, start, end in spans if of == index]
        pieces = [old().base_ids(field)[i : i + 1] for i in range(len(mine))]
        assert {field[start:end] for start, end in mine} >= {base().decode(p) for p in pieces} - {"\ufffd"}
        assert mine == sorted(mine) and (not field or (mine[0][0], mine[-1][1]) == (0, len(field)))


def test_spans_end_where_the_anchor_is_cut() -> None:
    short = LiveStreamingTokenizer.train(OLD, base(), replace(CONFIG, max_tokens=5))
    assert short.spans(["home interior"]) == old().spans(["home interior"])[:4]


def test_counts_are_those_of_both_sequences() -> None:
    base_counts, live_counts = new().ids_in(new().count(NEW))
    fields = [field for anchor in NEW for field in anchor]
    for counts, ids in ((base_counts, new().base_ids), (live_counts, new().live_ids)):
        wanted = np.bincount([i for field in fields for i in ids(field)], minlength=len(counts))
        assert counts.tolist() == wanted.tolist()
    assert len(live_counts) == len(base_counts) + new().rows.num_live_rows - 1


@settings(deadline=None)
@given(st.lists(FIELDS, max_size=4), st.lists(FIELDS, max_size=4))
def test_counts_of_corpora_add_up_whoever_counts(first: list[list[str]], second: list[list[str]]) -> None:
    """A job counts each day once, by the tokenizer of that time, and trains on the sum."""
    blank = LiveStreamingTokenizer.blank(base(), CONFIG)
    assert blank.count(first) + new().count(second) == old().count(first + second)
    assert (
        old().update_on(blank.count(first) + new().count(second)).fingerprint
        == old().update(first + second).fingerprint
    )


def test_replaced_rows_are_those_that_the_older_tokenizer_gives_the_same_text() -> None:
    before, after = old(), old().update([["pubg squad goals", "lao tie"], ["pubg squad goals"]] * 3)
    replaced = after.replaced(before.rows.num_live_rows)
    assert len(replaced) == after.rows.num_live_rows - before.rows.num_live_rows > 0
    for row, parts in enumerate(replaced, before.rows.num_live_rows):
        tokens = before.encode([[after.live_text(row)]])
        assert tokens.live[0, 1:].tolist() == parts.tolist()
    assert any((parts > 0).any() for parts in replaced)


def test_lengths_are_those_before_anything_is_cut() -> None:
    anchors = [["pubg squad", "home"], ["x"], [""]]
    whole = old().encode(anchors).lengths.tolist()
    short = LiveStreamingTokenizer.train(OLD, base(), replace(CONFIG, max_tokens=3))
    assert old().lengths(anchors).tolist() == short.lengths(anchors).tolist() == whole
    assert short.encode(anchors).lengths.max() == 3
    assert old().lengths([]).tolist() == []
