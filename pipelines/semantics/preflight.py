"""A checkpoint is looked at before Ray starts: whether vLLM will run it, and what it must be told for that.

Reads JSON files, headers of weights and the tokenizer, no torch: seconds, where an engine that fails takes minutes to
say so.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.runtime.config import ConfigError
from pipelines.semantics import prompt
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.budget import Budget
from pipelines.semantics.checkpoint import Checkpoint
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.tokenizer_file import TOKENIZER, load_tokenizer
from pipelines.semantics.weights import weights_bytes

log = logging.getLogger(__name__)

_TEXT_ARCHITECTURE = {
    "qwen2_vl": "Qwen2ForCausalLM",
    "qwen2_5_vl": "Qwen2ForCausalLM",
    "qwen3_vl": "Qwen3ForCausalLM",
    "qwen3_vl_moe": "Qwen3MoeForCausalLM",
}
"""Model types that prompts, frames and engine are made for, and the class of their language model."""
_ON_CPU = ("awq", "gptq", "compressed-tensors", "auto-round")
"""Quantisations that vLLM's CPU build computes."""
_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
IMAGE = "<|image_pad|>"
"""Where a Qwen-VL expects a picture's tokens."""


def look(model: str, *, use_gpu: bool, key: str = "anchors.model") -> Checkpoint:
    """The checkpoint in a folder. Raises ConfigError, which begins with `key`, where it cannot write anchors."""
    checkpoint = Checkpoint.read(model, key)
    kind = checkpoint.config.get("model_type")
    if kind not in _TEXT_ARCHITECTURE:
        raise ConfigError(
            f"{key} {model}: wanted a Qwen-VL (model_type {', '.join(_TEXT_ARCHITECTURE)} in config.json), got "
            f"{kind!r}; name the folder of one"
        )
    _check_quantisation(checkpoint, use_gpu, key)
    _check_template(checkpoint, key)
    weights_bytes(checkpoint.folder, key)
    marks = load_tokenizer(checkpoint.folder / TOKENIZER, key)
    if (got := marks.token_to_id(IMAGE)) != (wanted := checkpoint.config.get("image_token_id", got)):
        raise ConfigError(
            f"{key} {model}: {TOKENIZER} gives {IMAGE} the id {got}, config.json says {wanted}; the files are of two "
            "checkpoints: download it again"
        )
    return checkpoint


def fitted(
    checkpoint: Checkpoint,
    prompts: PromptConfig,
    config: EngineConfig,
    question: prompt.Question = prompt.ANCHOR,
) -> EngineConfig:
    """The engine's configuration with all that this checkpoint needs. Raises ConfigError where its prompts do not fit.

    What `engine_kwargs` says stands.
    """
    budget = Budget.of(checkpoint, prompts, config, question)
    config = replace(config, max_model_len=budget.max_model_len)
    _check_memory(checkpoint, config, question.job)
    kwargs: dict[str, Any] = dict(overrides(checkpoint, config))
    if budget.frame < checkpoint.images.most_tokens:  # what it starts up for, too: a picture of 16,384 tokens otherwise
        block = checkpoint.images.block
        size = {"shortest_edge": checkpoint.images.min_pixels, "longest_edge": budget.frame * block**2}
        kwargs["mm_processor_kwargs"] = {"size": size}
    return replace(config, engine_kwargs=kwargs | config.engine_kwargs)


def overrides(checkpoint: Checkpoint, config: EngineConfig) -> Mapping[str, Any]:
    """What vLLM's CPU build must be told of a published Qwen3-VL, whose `text_config` names no architecture."""
    text = checkpoint.config.get("text_config")
    own = config.engine_kwargs.get("hf_overrides")
    kind = checkpoint.config["model_type"]
    if config.use_gpu or own is not None or not text or text.get("architectures") or not kind.startswith("qwen3_vl"):
        return {}
    architecture = _TEXT_ARCHITECTURE[kind]
    log.info(
        "engine | %s/config.json names no text_config.architectures, which vLLM needs on CPU: %s is set for this job",
        checkpoint.folder, architecture,
    )  # fmt: skip
    return {"hf_overrides": {"text_config": {"architectures": [architecture]}}}


def _check_quantisation(checkpoint: Checkpoint, use_gpu: bool, key: str) -> None:
    found = checkpoint.config.get("quantization_config") or checkpoint.text.get("quantization_config")
    if use_gpu or not found:
        return
    method = str(found.get("quant_method", "")).lower()
    groups = (found.get("config_groups") or {}).values()
    floats = any((group.get("weights") or {}).get("type") == "float" for group in groups)
    if method not in _ON_CPU or floats:
        raise ConfigError(
            f"{key} {checkpoint.folder}: its weights are quantised as {method or 'unknown'}{' floats' * floats}, which "
            f"vLLM's CPU build cannot compute (it can {', '.join(_ON_CPU)}); take the unquantised checkpoint, or set "
            "engine.use_gpu"
        )


def _check_template(checkpoint: Checkpoint, key: str) -> None:
    """One picture must leave one mark in the prompt: the templates of text models leave none."""
    content = prompt.content(profile="", frames=(b"",), speech=(), comments=())
    try:
        marks = prompt.rendered(content, checkpoint.chat_template).count(IMAGE)
    except Exception as error:  # a template may raise anything
        raise ConfigError(
            f"{key} {checkpoint.folder}: its chat template fails ({type(error).__name__}: {error}); take the template "
            "of the model that it was tuned from"
        ) from error
    if marks != 1:
        raise ConfigError(
            f"{key} {checkpoint.folder}: wanted a chat template that writes {IMAGE} once for a picture, got it {marks} "
            "times; take the template of the Qwen-VL that it was tuned from"
        )


def _check_memory(checkpoint: Checkpoint, config: EngineConfig, job: str) -> None:
    """vLLM refuses to start where keys and values of one request do not fit; on GPUs it knows better than we do."""
    length, gib = config.max_model_len or 0, kv_gib(checkpoint, config)
    if not config.use_gpu and gib > config.kv_cache_gb:
        raise ConfigError(
            f"{job}.engine.kv_cache_gb: one request of {length} tokens takes {gib:.2f} GiB in {checkpoint.folder}, "
            f"got {config.kv_cache_gb}; set it to {int(gib) + 1} or more, or lower {job}.engine.max_model_len"
        )


def kv_gib(checkpoint: Checkpoint, config: EngineConfig) -> float:
    """Memory of one request's keys and values, GiB."""
    return checkpoint.kv_bytes(_BYTES.get(config.dtype, 4)) * (config.max_model_len or 0) / 2**30
