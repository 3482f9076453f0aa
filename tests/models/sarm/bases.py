"""Small base tokenizers of the kinds that Hugging Face models come with."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["pubg lao home", "pubg tie home", "what's on, 直播间 2026", "über   café\n\n"]
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@cache
def gpt2() -> Tokenizer:
    """Byte-level, with the library's own words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())


@cache
def qwen() -> Tokenizer:
    """Byte-level, normalised, with words by a pattern, added tokens behind the vocabulary and a post-processor."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer = _trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("gym", single_word=True), AddedToken("karaoke ", rstrip=True, normalized=True)])
    end = tokenizer.token_to_id("<|im_end|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", end)]
    )
    return tokenizer


@cache
def metaspace() -> Tokenizer:
    """Words that begin with a mark for the space, and a token for what is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _trained(tokenizer, [], special=["<unk>"])


@cache
def whole() -> Tokenizer:
    """No words at all: the text is one pre-token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Replace("▁", " ")
    return _trained(tokenizer, [], special=["<unk>"])


def _trained(tokenizer: Tokenizer, alphabet: list[str], special: list[str] | None = None) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + 30, show_progress=False, initial_alphabet=alphabet, special_tokens=special or []
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer
