"""How vLLM runs: the section `engine` of the jobs that start it."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How vLLM runs."""

    use_gpu: bool = False
    """One GPU an engine; False runs the CPU build."""
    num_engines: int = 1
    """Data-parallel engines."""
    cpus_per_engine: int = 1
    """CPUs reserved per engine, and its compute threads where it has no GPU; one is fastest for the small model that
    ships."""
    batch_size: int = 64
    """Rows per batch that travels between stages."""
    max_num_seqs: int = 64
    """Sequences that an engine decodes together."""
    max_model_len: int | None = None
    """Longest prompt and answer, tokens; null = what `prompt`, `frame_tokens` and `max_answer_tokens` can need."""
    frame_tokens: int = 256
    """Most tokens that a frame may cost; larger frames are made smaller first. 448 x 448 pixels cost 256 in Qwen2-VL
    and Qwen2.5-VL, 196 in Qwen3-VL."""
    max_answer_tokens: int = 320
    """Longest answer, tokens; a longer one is asked for once more with twice as many, where they fit, then rejected."""
    stall_timeout_s: float = 600.0
    """Seconds without any answer, while rows wait for one, after which an engine counts as dead and is started anew."""
    kv_cache_gb: int = 1
    """Memory for keys and values on CPU, GiB."""
    dtype: str = "float32"
    """Arithmetic of the engine; bfloat16 is usual on GPUs."""
    gather_workers: int = 1
    """Processes that read segments and build prompts."""
    gather_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes on which these run; none = any node."""
    engine_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to vLLM as they are, last."""

    def __post_init__(self) -> None:
        for name in ("num_engines", "cpus_per_engine", "batch_size", "max_num_seqs", "frame_tokens", "gather_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted 1 or more, got {getattr(self, name)}")
        if self.max_answer_tokens < 1 or self.stall_timeout_s <= 0 or (self.max_model_len or 1) < 1:
            raise ValueError(
                f"wanted max_answer_tokens, max_model_len and stall_timeout_s above 0, got {self.max_answer_tokens}, "
                f"{self.max_model_len} and {self.stall_timeout_s}; correct them"
            )
