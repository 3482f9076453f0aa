from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from models.sarm.live_tokenizer.base_tokenizer import prepare
from tests.models.sarm import bases


def changed(base: Tokenizer, part: str, **values: Any) -> Tokenizer:
    state = json.loads(base.to_str())
    state[part] |= values
    return Tokenizer.from_str(json.dumps(state))


def made(state: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(state))


def words(base: Tokenizer, text: str, *, join_words: bool = True) -> list[str]:
    prepared = made(prepare(base, join_words=join_words))
    return [text[start:end] for _, (start, end) in prepared.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize("base", [bases.gpt2, bases.qwen])
def test_words_that_one_space_separates_are_joined_and_nothing_else(base: Any) -> None:
    text = "theme: used car inspection, 3 cars  and 直播 间"
    assert [word.strip() for word in words(base(), text) if word.strip()] == [
        "theme", ":", "used car inspection", ",", "3", "cars", "and 直播 间",
    ]  # fmt: skip
    within = [word.strip() for word in words(base(), text, join_words=False)]
    assert [word for word in within if word][2:5] == ["used", "car", "inspection"]


@pytest.mark.parametrize(
    "model, option",
    [
        ({"dropout": 0.1}, "dropout"),
        ({"ignore_merges": True}, "ignore_merges"),
        ({"byte_fallback": True}, "byte_fallback"),
        ({"continuing_subword_prefix": "##"}, "continuing_subword_prefix"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix"),
    ],
)
def test_options_that_would_change_the_base_tokens_are_refused(model: dict[str, Any], option: str) -> None:
    with pytest.raises(ValueError, match=f"without {option}"):
        prepare(Tokenizer(models.BPE(vocab={"a": 0}, merges=[], **model)), join_words=False)


def test_a_model_that_is_not_bpe_is_refused() -> None:
    with pytest.raises(ValueError, match="BPE model, got WordLevel"):
        prepare(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), join_words=False)


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.Metaspace(),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\w+"), behavior="removed"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    ],
)
def test_words_cut_in_other_ways_are_not_joined(pre_tokenizer: Any) -> None:
    base = Tokenizer.from_str(bases.gpt2().to_str())
    base.pre_tokenizer = pre_tokenizer
    with pytest.raises(ValueError, match="join_words: wanted .* set join_words to false"):
        prepare(base, join_words=True)
    kept = prepare(base, join_words=False)["pre_tokenizer"]
    assert kept == json.loads(base.to_str())["pre_tokenizer"]


def test_words_are_not_joined_where_a_base_merge_could_see_it() -> None:
    alphabet = {char: i for i, char in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    space, letter = "Ġ", "e"
    base = Tokenizer(models.BPE(vocab=alphabet | {letter + space: 256}, merges=[(letter, space)]))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(ValueError, match="may end in a letter"):
        prepare(base, join_words=True)
    base.model = models.BPE(vocab=alphabet | {space + space: 256}, merges=[(space, space)])
    prepare(base, join_words=True)
    base.model = models.BPE(vocab={char: i for char, i in alphabet.items() if i}, merges=[])
    with pytest.raises(ValueError, match="all 256 bytes"):
        prepare(base, join_words=True)


def test_padding_truncation_and_post_processor_do_not_come_along() -> None:
    base = Tokenizer.from_str(bases.qwen().to_str())
    base.enable_padding(length=12)
    base.enable_truncation(2)
    prepared = made(prepare(base, join_words=True))
    assert prepared.encode("pubg lao home").ids == bases.qwen().encode("pubg lao home", add_special_tokens=False).ids


def test_added_tokens_keep_their_ids_when_the_vocabulary_grows() -> None:
    state = prepare(bases.qwen(), join_words=True)
    state["model"]["vocab"]["new one"] = bases.qwen().get_vocab_size()
    grown = made(state)
    assert grown.token_to_id("<|im_end|>") == bases.qwen().token_to_id("<|im_end|>")
    assert grown.token_to_id("new one") == bases.qwen().get_vocab_size()
    assert grown.encode("a<|im_end|>").ids == bases.qwen().encode("a<|im_end|>", add_special_tokens=False).ids


def test_an_added_token_of_one_unknown_character_is_refused() -> None:
    base = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    base.add_tokens(["b"])
    with pytest.raises(ValueError, match="'b' is one character"):
        prepare(base, join_words=False)
