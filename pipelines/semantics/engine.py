"""Ray Data and vLLM: rows of (day, author) in, answers out. Knows prompts and engines, no tables to write.

Read (keys) -> gather (segments to messages) -> vLLM through ray.data.llm with one JSON schema -> one flat row per key.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from pipelines.semantics import author_day, prompt
from pipelines.semantics.author_day import PromptConfig
from pipelines.tables import contract, newest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)

KEYS = pa.schema([("day", pa.string()), ("author_id", pa.int64())])
"""One request."""

ANSWERS = pa.schema(
    [
        ("day", pa.string()),
        ("author_id", pa.int64()),
        ("answer", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("bad_frames", pa.list_(pa.string())),
        ("num_frames", pa.int32()),
        ("num_comments", pa.int32()),
    ]
)
"""One result: the model's text, or a closed reason and detail of why there is none (empty where there is)."""

_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # ten times faster than the default binding on a shared machine
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How vLLM runs."""

    use_gpu: bool = False
    """One GPU an engine; False runs the CPU build."""
    num_engines: int = 1
    """Data-parallel engines."""
    batch_size: int = 64
    """Rows per batch that travels between stages."""
    max_num_seqs: int = 64
    """Sequences that an engine decodes together."""
    max_model_len: int = 1024
    """Longest prompt and answer, tokens."""
    max_answer_tokens: int = 320
    """Longest answer, tokens; a longer one is cut and rejected."""
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


class Gather:
    """Builds the messages of a batch of keys, reading only those authors' segments."""

    def __init__(self, root: str, config: PromptConfig, engine: EngineConfig) -> None:
        """`root` is the `url` of the storage that holds the days."""
        self._storage = Storage.open(root)
        self._config = config
        self._max_tokens = engine.max_answer_tokens
        self._profiles_on: dict[str, str | None] = {}

    def __call__(self, keys: pa.Table) -> pa.Table:
        """KEYS -> KEYS plus the prompt's parts; authors without anything to read get a reason instead."""
        by_day: dict[str, list[int]] = {}
        for key in keys.to_pylist():
            by_day.setdefault(key["day"], []).append(key["author_id"])
        rows = []
        for day, authors in by_day.items():
            days = self._read(day, pa.array(authors, pa.int64()))
            rows += [{"day": day, "author_id": author} | self._parts(days[author]) for author in authors]
        return pa.Table.from_pylist(rows)

    def _read(self, day: str, authors: pa.Array) -> dict[int, author_day.AuthorDay]:
        chosen = pads.field("author_id").isin(authors)
        profiles = self._profiles(day, chosen)
        segments = self._storage.read("segments", day, where=chosen)
        return {
            author_id: author_day.gather(profiles.get(author_id, ""), rows, self._config)
            for author_id, rows in author_day.group(segments)
        }

    def _profiles(self, day: str, chosen: pads.Expression) -> dict[int, str]:
        """The newest profile, as of the day, of the authors of a batch: the rest of the table stays on storage."""
        if day not in self._profiles_on:
            self._profiles_on[day] = newest.carry(self._storage, "authors", until=day)
        if (carried := self._profiles_on[day]) is None:
            return {}
        people = self._storage.read(contract.newest_of("authors"), carried, ["author_id", "profile"], chosen)
        return dict(zip(people["author_id"].to_pylist(), people["profile"].to_pylist(), strict=True))

    def _parts(self, day: author_day.AuthorDay) -> dict[str, Any]:
        reason, detail = "", ""
        if not day.frames and day.bad_frames:
            reason, detail = "bad_image", "; ".join(day.bad_frames)[:500]
        elif not day.frames and not day.speech and not day.comments:
            reason, detail = "no_frames", "the day holds no frame, no speech and no comment"
        return {
            "profile": day.profile,
            "frames": list(day.frames),
            "speech": list(day.speech),
            "comments": list(day.comments),
            "bad_frames": list(day.bad_frames),
            "reason": reason,
            "detail": detail,
            "max_tokens": self._max_tokens,
        }


def _to_request(row: dict[str, Any]) -> dict[str, Any]:
    """A gathered row as ray.data.llm's request. Greedy, and one schema for the whole job.

    A row with nothing to read is asked about all the same: it is rare, and its reason outweighs the answer.
    """
    content = prompt.content(
        profile=row["profile"], frames=row["frames"], speech=row["speech"], comments=row["comments"]
    )
    return {name: row[name] for name in (*KEYS.names, "bad_frames", "reason", "detail")} | {
        "num_frames": len(row["frames"]),
        "num_comments": len(row["comments"]),
        "messages": [{"role": "user", "content": content}],
        "sampling_params": {
            "max_tokens": int(row["max_tokens"]),
            "temperature": 0.0,
            "detokenize": True,
            "structured_outputs": {"json": prompt.schema()},
        },
    }


def _from_answer(row: dict[str, Any]) -> dict[str, Any]:
    """The engine's row, flat. Errors of a single row arrive with `__inference_error__` set and no text."""
    error = row.get("__inference_error__") or (
        "" if row.get("generated_text") is not None else "the engine said nothing"
    )
    return {
        **{name: row[name] for name in (*KEYS.names, "num_frames", "num_comments")},
        "answer": "" if error else row["generated_text"],
        "reason": row["reason"] or ("engine_error" if error else ""),
        "detail": row["detail"] or str(error)[:500],
        "bad_frames": list(row["bad_frames"]),
    }


def _conform(batch: pa.Table) -> pa.Table:
    """Blocks of one schema. Rows that failed in the engine bypass its postprocessing, so that is done here for them."""
    rows = [row if row.get("answer") is not None else _from_answer(row) for row in batch.to_pylist()]
    return pa.Table.from_pylist([{name: row[name] for name in ANSWERS.names} for row in rows], schema=ANSWERS)


def answers(
    root: str, keys: list[pa.Table], model: str, prompts: PromptConfig, config: EngineConfig
) -> Iterator[pa.Table]:
    """Streams ANSWERS in the order they finish. Each table of `keys` (KEYS) is a block of Ray Data.

    `root` is the `url` of the storage that holds their days.
    """
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.actor_init_retry_on_errors = True
    # Small blocks, so that answers come back, and are kept, as they are made.
    gathered = (
        ray.data.from_arrow(keys)
        .repartition(target_num_rows_per_block=config.batch_size)
        .map_batches(
            Gather,
            fn_constructor_args=(root, prompts, config),
            batch_size=config.batch_size,
            batch_format="pyarrow",
            concurrency=config.gather_workers,
            num_cpus=0.5,
            label_selector=config.gather_labels or None,
        )
    )
    processor = build_processor(
        vLLMEngineProcessorConfig(**processor_kwargs(model, prompts, config)),
        preprocess=_to_request,
        postprocess=_from_answer,
    )
    done = processor(gathered).map_batches(_conform, batch_format="pyarrow", num_cpus=0.1)
    yield from done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


def processor_kwargs(model: str, prompts: PromptConfig, config: EngineConfig) -> dict[str, Any]:
    """What ray.data.llm is told; apart from the call so that a test can read it."""
    engine_kwargs: dict[str, Any] = {
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "dtype": config.dtype,
        "limit_mm_per_prompt": {"image": max(prompts.num_frames, 1), "video": 0},
        "enable_prefix_caching": False,
        "seed": 0,
    }
    environment = dict(_ENVIRONMENT)
    placement: dict[str, Any] = {"bundles": [{"GPU": 1, "CPU": 1}]}
    if not config.use_gpu:
        engine_kwargs |= {"enforce_eager": True, "distributed_executor_backend": "uni"}
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache_gb)
        environment["VLLM_CPU_OMP_THREADS_BIND"] = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        placement = {"bundles": [{"CPU": 1}]}
    return {
        "model_source": model,
        "engine_kwargs": engine_kwargs | config.engine_kwargs,
        "placement_group_config": placement,
        "concurrency": (config.num_engines, config.num_engines),
        "batch_size": config.batch_size,
        "should_continue_on_error": True,
        "chat_template_stage": {"enabled": True},
        "prepare_multimodal_stage": {"enabled": True, "chat_template_content_format": "openai"},
        "tokenize_stage": {"enabled": False},
        "detokenize_stage": {"enabled": False},
        "log_engine_metrics": False,
        "runtime_env": {"env_vars": environment},
    }
