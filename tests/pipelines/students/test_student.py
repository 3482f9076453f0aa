"""The small Qwen3-VL: its tokenizer, and that its checkpoint is an ordinary one."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts.manifest import Manifest
from pipelines.semantics import prompt
from pipelines.semantics.checkpoint import STUDENT
from pipelines.students import pairs as distil_data
from pipelines.students import student as students_module
from pipelines.students.pairs import Pair
from pipelines.tables.contract import FIELDS
from tests.pipelines import little_student as students

SHIPPED = STUDENT
FIXED = (*prompt.SECTIONS, prompt.INSTRUCTION)
JOINTS = ('{"point_of_interest":["', *(f'"],"{field}":["' for field in FIELDS[1:]), '","', '"]}')


@pytest.fixture(scope="module")
def pairs(tiny_store: Path) -> list[Pair]:
    return students.pairs_of(tiny_store)


@pytest.fixture(scope="module")
def folder(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return students.create(pairs, tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def pieces(tokenizer: Any, text: str) -> list[str]:
    return [tokenizer.decode([number]) for number in encode(tokenizer, text)]


@pytest.mark.parametrize("text", [*students_module.SPECIAL, *FIXED], ids=lambda text: text[:20])
def test_what_is_fixed_is_one_token(tokenizer: Any, text: str):
    assert len(encode(tokenizer, text)) == 1
    assert pieces(tokenizer, f"before {text} after").count(text) == 1


def test_each_joint_of_the_answer_is_one_token(tokenizer: Any, pairs: list[Pair]):
    got = pieces(tokenizer, pairs[0].answer)
    assert "".join(got) == pairs[0].answer
    for joint in (*JOINTS[:6], JOINTS[7]):
        assert got.count(joint) == 1, joint
    several = next(pair.answer for pair in pairs if '","' in pair.answer)
    assert JOINTS[6] in pieces(tokenizer, several)


def test_the_words_of_the_platform_are_short(tokenizer: Any, pairs: list[Pair]):
    """A prompt and its answer fit a laptop: the untrained bytes would be several times as many."""
    for pair in pairs[:10]:
        text = "\n".join(part["text"] for part in pair.day.content() if part["type"] == "text")
        assert len(encode(tokenizer, text)) < len(text) / 4


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str):
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_answers_survive_without_special_tokens(tokenizer: Any, pairs: list[Pair]):
    for pair in pairs[:5]:
        ids = encode(tokenizer, pair.answer + "<|im_end|>")
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == pair.answer


def test_the_vocabulary_is_bounded(tokenizer: Any):
    assert len(tokenizer) <= students.CONFIG.vocab_size
    ids = [encode(tokenizer, text)[0] for text in FIXED]
    assert all(b - a == 1 for a, b in pairwise(ids)), "fixed texts come last"
    assert max(ids) == len(tokenizer) - 1


def test_the_checkpoint_is_an_ordinary_qwen3_vl(folder: Path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert config["text_config"]["architectures"] == ["Qwen3ForCausalLM"], "vLLM's CPU build reads it"
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model).__name__ == "Qwen3VLForConditionalGeneration"
    assert type(processor).__name__ == "Qwen3VLProcessor"
    assert model.config.text_config.vocab_size >= len(processor.tokenizer)
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_the_same_chat_template_is_saved_for_text_and_for_images(folder: Path, pairs: list[Pair]):
    from transformers import AutoProcessor, AutoTokenizer

    messages = distil_data.messages(pairs[0], with_answer=True)
    texts = [
        loaded.apply_chat_template(messages, tokenize=False)
        for loaded in (AutoProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
    ]
    assert texts[0] == texts[1]
    assert texts[0].count("<|vision_start|><|image_pad|><|vision_end|>") == len(pairs[0].day.frames)
    assert texts[0].endswith(f"<|im_start|>assistant\n{pairs[0].answer}<|im_end|>\n")


def test_the_student_sees_the_frame(folder: Path, pairs: list[Pair]):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    batch = distil_data.Collator(AutoProcessor.from_pretrained(folder))(pairs[:1])
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    with torch.inference_mode():
        seen = model(**batch).logits
        other = model(**batch | {"pixel_values": -batch["pixel_values"]}).logits
    assert torch.isfinite(seen).all()
    assert (seen[0, -1] - other[0, -1]).abs().max() > 1e-4


def test_equal_seeds_give_equal_weights(folder: Path, pairs: list[Pair], tmp_path: Path):
    same, other = (students.create(pairs, tmp_path / str(seed), seed) for seed in (0, 1))
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (same / file).read_bytes() == (folder / file).read_bytes()
    assert (other / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()
    assert (other / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="no student is shipped yet: run python -m pipelines distil")
def test_the_shipped_student_is_whole_and_reads_this_prompt():
    from transformers import AutoTokenizer

    assert Manifest.verify(SHIPPED).kind == "student"
    shipped = AutoTokenizer.from_pretrained(SHIPPED)
    for text in FIXED:
        assert len(encode(shipped, text)) == 1, f"taught on another prompt: {text[:40]}"
    card = json.loads((SHIPPED / "DISTIL.json").read_text())
    assert card["held_out"]["valid_rate"] > 0.9
