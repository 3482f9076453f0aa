"""A base tokenizer made ready to carry live-streaming merges behind its own.

Live merges rank behind all base merges, so within one pre-token the base's own tokens are made first and live merges
then join them: A'_s is the live merges applied to A_s, and expanding A'_s gives A_s. That holds for any BPE model whose
first symbols depend on the text alone; options that break it are refused.

To let merges join words as well, runs of words that one space separates ("used car inspection") become one pre-token.
The base still makes the same tokens: every boundary inside such a run lies between a letter and a space, and a base
without a merge over such a boundary cannot see that it is gone.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers

State = dict[str, Any]
"""A tokenizer.json, parsed."""

_REFUSED = ("dropout", "ignore_merges", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACE = "Ġ"
_WITHIN = "set join_words to false to merge within the base tokenizer's own words only"


def prepare(base: Tokenizer, *, join_words: bool) -> State:
    """The base's tokenizer.json without padding, truncation and post-processing, every token's id held fast.

    Raises ValueError for a base tokenizer that cannot be extended exactly.
    """
    state: State = json.loads(base.to_str())
    _check_model(state["model"])
    state |= {"truncation": None, "padding": None, "post_processor": None}
    _hold_added_ids(state)
    if join_words and state["pre_tokenizer"] is not None:
        _check_boundaries(state["model"])
        words = _word_pattern(state["pre_tokenizer"])
        state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [_split(_runs(words)), _byte_level()]}
    return state


def _check_model(model: State) -> None:
    if model["type"] != "BPE":
        raise ValueError(f"wanted a base tokenizer with a BPE model, got {model['type']}; live merges extend BPE only")
    for option in _REFUSED:
        if model.get(option):
            raise ValueError(
                f"wanted a base tokenizer without {option}, got {option} = {model[option]!r}: with it, merges appended "
                "to the model would change the base's own tokens"
            )


def _hold_added_ids(state: State) -> None:
    """Puts added tokens into the model's vocabulary: the library numbers those outside it behind the vocabulary."""
    vocabulary = state["model"]["vocab"]
    for token in state["added_tokens"]:
        content = token["content"]
        if content not in vocabulary and len(content) == 1:
            raise ValueError(
                f"the added token {content!r} is one character that the base's model does not know; wanted it in the "
                "model's vocabulary, or as a longer string"
            )
        vocabulary.setdefault(content, token["id"])


def _word_pattern(pre_tokenizer: State) -> str:
    """The regular expression that cuts the base's words."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    kinds = [step["type"] for step in steps]
    last = steps[-1] if steps else {}
    if last.get("type") == "ByteLevel" and not last["add_prefix_space"]:
        if kinds == ["ByteLevel"] and last["use_regex"]:
            return _GPT2_WORDS
        if kinds == ["Split", "ByteLevel"] and not last["use_regex"] and _isolates(steps[0]):
            return str(steps[0]["pattern"]["Regex"])
    raise ValueError(
        "join_words: wanted a base tokenizer that cuts words by ByteLevel, or by one Split (a Regex, isolated) and "
        f"ByteLevel, without a prefix space; got {json.dumps(pre_tokenizer)[:300]}; {_WITHIN}"
    )


def _isolates(split: State) -> bool:
    return split["behavior"] == "Isolated" and not split["invert"] and "Regex" in split["pattern"]


def _runs(words: str) -> str:
    """One word, and every next one that begins with a space between two letters.

    Nothing behind a word can make it shorter, so each one ends where it would end by itself.
    """
    return rf"(?:{words})(?:(?<=[\p{{L}}\p{{M}}])(?= \p{{L}})(?:{words}))*"


def _check_boundaries(model: State) -> None:
    """Raises ValueError where a base merge may reach over the boundary between a letter and a space."""
    missing = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - model["vocab"].keys())
    if missing:
        raise ValueError(
            f"join_words: wanted a base tokenizer with all 256 bytes, got none for {missing[:9]}; {_WITHIN}"
        )
    for left, right in model["merges"]:
        if right.startswith(_SPACE) and _may_end_in_a_letter(left):
            raise ValueError(
                f"join_words: the base tokenizer merges {left!r}, which may end in a letter, with {right!r}, which "
                f"begins with a space; {_WITHIN}"
            )


def _may_end_in_a_letter(token: str) -> bool:
    last = decoders.ByteLevel().decode([token])[-1:]
    # U+FFFD stands for a part of a character; one without a category here (Cn) may be a newer letter.
    return last == "\ufffd" or unicodedata.category(last) == "Cn" or unicodedata.category(last)[0] in "LM"


def _split(pattern: str) -> State:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _byte_level() -> State:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
