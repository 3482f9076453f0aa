"""The anchors' engine as an embedding model: vLLM's pooling task, of which a vector does not depend on its batch."""

from typing import Any

from pipelines.runtime.config import ConfigError
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.engine import processor_kwargs
from pipelines.semantics.engine_config import EngineConfig

_CHUNKED = "enable_chunked_prefill"
_POOLED = ("MEAN", "LAST")


def check_pooling(pooling: str) -> None:
    """Raises ValueError for what is no pooling type of these jobs."""
    if pooling not in _POOLED:
        raise ValueError(f"pooling: wanted {' or '.join(_POOLED)}, got {pooling!r}")


def pooling_kwargs(model: str, prompts: PromptConfig, config: EngineConfig, pooling: str, job: str) -> dict[str, Any]:
    """What ray.data.llm is told: vectors of length 1, over prompts with at most `prompts.num_frames` pictures.

    No prompt is computed in pieces: the pinned vLLM cannot take their mean, and has had wrong vectors of the last token
    (vllm-project/vllm #47971, #48214). Raises ConfigError, which begins with `job`, where the engine's arguments ask
    for that.
    """
    if config.engine_kwargs.get(_CHUNKED):
        raise ConfigError(
            f"{job}.engine.engine_kwargs.{_CHUNKED}: wanted false, got true: what is computed in pieces has no mean, "
            "and may get a vector that depends on the batch; leave it out"
        )
    kwargs = processor_kwargs(model, prompts, config)
    engine_kwargs = kwargs["engine_kwargs"] | {
        "limit_mm_per_prompt": {"image": prompts.num_frames, "video": 0},
        "pooler_config": {"pooling_type": pooling, "use_activation": True},
        _CHUNKED: False,
    }
    return kwargs | {"task_type": "embed", "engine_kwargs": engine_kwargs | config.engine_kwargs}
