"""The small Qwen3-VL that ships with the simulated world: the real architecture, about a million parameters, own BPE.

Saved as an ordinary Hugging Face checkpoint, so that transformers and vLLM load it like any Qwen3-VL.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.semantics import prompt
from pipelines.tables.contract import FIELDS

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

CHAT_TEMPLATE = (
    r"{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\n' }}"
    r"{%- if message.content is string -%}{{ message.content }}"
    r"{%- else -%}{%- for part in message.content -%}"
    r"{%- if part.type == 'text' -%}{{ part.text }}"
    r"{%- else -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{%- endif -%}"
    r"{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
    r"{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """Shape of the small model."""

    vocab_size: int = 4096
    """Most entries of its BPE, special tokens included; the words decide how many are used."""
    hidden_size: int = 128
    """Width of the language model."""
    num_layers: int = 3
    """Layers of the language model."""
    num_heads: int = 4
    """Attention heads of the language model."""
    vision_hidden_size: int = 64
    """Width of the vision tower."""
    vision_depth: int = 2
    """Layers of the vision tower."""
    frame_size: int = 64
    """Frames are resized to about this side, pixels; a multiple of 32."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE over `texts`, as a transformers tokenizer.

    The fixed instruction and section heads are one token each, and so is each joint of the JSON answer: the prompt is
    the same text that a large model reads, at a length that a small one can afford.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    joints = [r"\{\"" + FIELDS[0] + r"\":\[\"", *(rf"\"\],\"{f}\":\[\"" for f in FIELDS[1:]), r"\",\"", r"\"\]\}"]
    words = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join([*joints, words])), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fixed = [*prompt.SECTIONS, prompt.INSTRUCTION]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(fixed),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in fixed])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def create(config: StudentConfig, texts: Iterable[str], seed: int, folder: Path) -> None:
    """Writes an untrained student: weights from `seed`, a tokenizer from `texts`, and its processor's files."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen3_vl import Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = train_tokenizer(texts, config.vocab_size)
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    head_dim = config.hidden_size // config.num_heads
    rotary = head_dim // 2  # split between time, height and width
    sections = [rotary - 2 * (rotary // 3), rotary // 3, rotary // 3]
    model_config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "hidden_size": config.hidden_size,
            "intermediate_size": 3 * config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_heads,
            "head_dim": head_dim,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": sections,
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": ids["<|endoftext|>"],
            # vLLM's CPU build reads this name from the nested config.
            "architectures": ["Qwen3ForCausalLM"],
        },
        vision_config={
            "depth": config.vision_depth,
            "hidden_size": config.vision_hidden_size,
            "intermediate_size": 2 * config.vision_hidden_size,
            "num_heads": 4,
            "patch_size": 16,
            "out_hidden_size": config.hidden_size,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [config.vision_depth - 1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(model_config)
    pixels = config.frame_size**2
    size = {"shortest_edge": pixels, "longest_edge": pixels}
    images = Qwen2VLImageProcessor(patch_size=16, merge_size=2, temporal_patch_size=2, size=size)
    videos = Qwen3VLVideoProcessor(patch_size=16, merge_size=2, temporal_patch_size=2)
    processor = Qwen3VLProcessor(images, tokenizer, videos, chat_template=CHAT_TEMPLATE)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
