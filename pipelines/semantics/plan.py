"""What an anchor batch is about to do and what it will take, told before anything is started."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.semantics import preflight
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.budget import Budget
from pipelines.semantics.checkpoint import Checkpoint
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.image_sizes import MARKS
from pipelines.semantics.weights import weights_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The figures of `anchors.plan`."""

    model: str
    rows: Mapping[str, int]
    """Authors to ask about, by day."""
    fixed_tokens: int
    """Chat template and instruction."""
    text_tokens: int
    """Most for profile, speech and comments, at one a character."""
    frame_tokens: int
    """Most for one frame."""
    num_frames: int
    answer_tokens: int
    max_model_len: int
    weights_gib: float
    kv_request_gib: float
    """Keys and values of the longest request."""
    kv_cache_gib: int | None
    """Kept for keys and values; None on a GPU, where vLLM takes what is left."""
    num_engines: int
    cpus_per_engine: int
    use_gpu: bool
    gather_workers: int
    batch_size: int
    frames_mib: float
    """Pixels of one batch of frames."""
    seconds: float | None
    """From the last run of this model in this run_dir; None where there was none."""

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        prompts: PromptConfig,
        config: EngineConfig,
        *,
        rows: Mapping[str, int],
        before: Mapping[str, Any] | None,
    ) -> "Plan":
        """`before` is what the last run reported."""
        budget = Budget.of(checkpoint, prompts, config)
        frame_bytes = 3 * budget.frame * budget.images.block**2
        return cls(
            model=str(checkpoint.folder),
            rows=rows,
            fixed_tokens=budget.fixed,
            text_tokens=budget.text,
            frame_tokens=budget.frame + MARKS,
            num_frames=prompts.num_frames,
            answer_tokens=budget.answer,
            max_model_len=budget.max_model_len,
            weights_gib=round(weights_bytes(checkpoint.folder, "anchors.model") / 2**30, 3),
            kv_request_gib=round(preflight.kv_gib(checkpoint, config), 3),
            kv_cache_gib=None if config.use_gpu else config.kv_cache_gb,
            num_engines=config.num_engines,
            cpus_per_engine=config.cpus_per_engine,
            use_gpu=config.use_gpu,
            gather_workers=config.gather_workers,
            batch_size=config.batch_size,
            frames_mib=round(config.batch_size * prompts.num_frames * frame_bytes / 2**20, 1),
            seconds=_seconds(str(checkpoint.folder), sum(rows.values()), before or {}),
        )

    def __str__(self) -> str:
        """Lines for a terminal."""
        engine = "1 GPU" if self.use_gpu else f"{self.cpus_per_engine} CPU(s)"
        cache = "what vLLM finds free" if self.kv_cache_gib is None else f"{self.kv_cache_gib} GiB"
        frames = self.num_frames * self.frame_tokens
        most = self.fixed_tokens + self.text_tokens + frames + self.answer_tokens
        took = "unknown: no earlier run of this model in run_dir has measured its rate"
        if self.seconds is not None:
            took = f"{self.seconds:.0f} s, at the rate and with the engine start of the last run in run_dir"
        return "\n".join(
            [
                f"plan | model    | {self.model}",
                f"plan | rows     | {sum(self.rows.values())} authors on {len(self.rows)} day(s): "
                f"{', '.join(f'{day} {count}' for day, count in self.rows.items()) or 'nothing to do'}",
                f"plan | tokens   | instruction {self.fixed_tokens} + text at most {self.text_tokens} + "
                f"{self.num_frames} frames at most {frames} + answer {self.answer_tokens} = {most}; max_model_len "
                f"{self.max_model_len}{'' if most <= self.max_model_len else ' (frames, then comments give way)'}",
                f"plan | memory   | an engine: weights {self.weights_gib} GiB, keys and values {cache}, of which the "
                f"longest request takes {self.kv_request_gib} GiB; a batch of frames: {self.frames_mib} MiB",
                f"plan | pools    | {self.num_engines} engine(s) of {engine}, {self.gather_workers} gather worker(s); "
                f"batches of {self.batch_size}",
                f"plan | time     | {took}",
            ]
        )


def _seconds(model: str, rows: int, before: Mapping[str, Any]) -> float | None:
    rate, start = before.get("authors_per_s"), before.get("engine_start_s")
    if before.get("model") != model or not rate or start is None:
        return None
    return round(start + rows / rate, 1) if rows else 0.0
