"""Ray Data and vLLM: rows of (day, author) in, answers out. Knows prompts and engines, no tables to write.

Read (keys) -> gather (segments to prompts) -> vLLM through ray.data.llm with one JSON schema -> one flat row per key.
Only the engine's own process imports torch; what kills it, or a gatherer, is found by attempts.py.
"""

import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.runtime.cluster import actor_beside
from pipelines.runtime.config import ConfigError
from pipelines.semantics import engine_pool, pictures, prompt
from pipelines.semantics.attempts import Attempts
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.budget import Budget
from pipelines.semantics.checkpoint import Checkpoint
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.engine_pool import engine_errors, watched_processor
from pipelines.semantics.gather import GATHERED, Gather, Gathering, Key
from pipelines.semantics.watch import ERROR

log = logging.getLogger(__name__)

KEYS = ("day", "author_id")
"""Columns of one request."""

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
        ("attempts", pa.int32()),
    ]
)
"""One result: the model's text, or a closed reason and detail of why there is none (empty where there is)."""

_ENVIRONMENT = {
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
_CONTEXT = 1024
"""Tokens of an engine whose `max_model_len` nobody has fitted to a checkpoint."""
GATHER_CPUS, LIGHT_CPUS = 0.5, 0.1
"""What a stage before or after the engines reserves: it waits for them most of the time."""


def check_room(config: EngineConfig, *, can_grow: bool) -> None:
    """A batch whose stages do not all have CPUs stands still. Raises ConfigError where the cluster cannot grow."""
    import ray

    needed = engine_pool.cpus(config) + config.gather_workers * GATHER_CPUS + LIGHT_CPUS
    if (there := ray.cluster_resources().get("CPU", 0.0)) >= needed:
        return
    wanted = f"wanted {needed:g} CPUs at once, for engines, gatherers and what goes between, got {there:g}"
    if not can_grow:
        raise ConfigError(f"cluster.num_cpus: {wanted}; set it to {math.ceil(needed)}")
    log.warning("the cluster's CPUs: %s; the batch waits until nodes join, or ask for fewer engines", wanted)


def request(row: dict[str, Any]) -> dict[str, Any]:
    """A gathered row as ray.data.llm's request, beside what is wanted of it.

    A row that has a reason already passes the engine by, as rows do that failed.
    """
    frames = row["frames"]
    try:
        pixels, reason, detail = [pictures.decoded(frame) for frame in frames], row["reason"], row["detail"]
    except Exception as error:  # what a thumbnail did not show
        pixels, reason, detail = [], "bad_image", str(error)
    return {
        ERROR: reason,
        "reason": reason,
        "detail": detail,
        "frames": None,
        "num_frames": len(frames),
        "multimodal_data": {"image": pixels} if pixels else None,
    }


def _to_request(row: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """A request for an answer: greedy, and of one schema for the whole job."""
    answer = {"max_tokens": max_tokens, "temperature": 0.0, "detokenize": True}
    return request(row) | {"sampling_params": answer | {"structured_outputs": {"json": prompt.schema()}}}


def _from_answer(row: dict[str, Any]) -> dict[str, Any]:
    """The engine's row, flat. Errors of a single row arrive with a column that says so, and no text."""
    error = row.get(ERROR) or ("" if row.get("generated_text") is not None else "the engine said nothing")
    return {
        **{name: row[name] for name in (*KEYS, "num_frames", "num_comments", "attempts")},
        "answer": "" if error else row["generated_text"],
        "reason": row["reason"] or ("engine_error" if error else ""),
        "detail": row["detail"] or str(error)[:500],
        "bad_frames": list(row["bad_frames"]),
    }


def _conform(batch: pa.Table) -> pa.Table:
    """Blocks of one schema. Rows that failed in the engine bypass its postprocessing, so that is done here for them."""
    rows = [row if row.get("answer") is not None else _from_answer(row) for row in batch.to_pylist()]
    return pa.Table.from_pylist([{name: row[name] for name in ANSWERS.names} for row in rows], schema=ANSWERS)


def answers(root: str, keys: list[Key], model: str, prompts: PromptConfig, config: EngineConfig) -> Iterator[pa.Table]:
    """Streams ANSWERS in the order they finish.

    `root` is the `url` of the storage that holds their days. Raises EngineError where the engine cannot go on.
    """
    import ray

    checkpoint = Checkpoint.read(model)
    budget = Budget.of(checkpoint, prompts, config)
    attempts, gatherings = actor_beside(Attempts), actor_beside(Attempts)
    processor = watched_processor(
        processor_kwargs(model, prompts, config),
        attempts,
        config,
        key_columns=KEYS,
        probe=_probe(checkpoint, budget),
        preprocess=lambda row: _to_request(row, config.max_answer_tokens),
        postprocess=_from_answer,
    )
    rows = [dict(zip(KEYS, key, strict=True)) for key in keys]
    # Small blocks, so that answers come back, and are kept, as they are made; and made here, by no task.
    blocks = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / config.batch_size))
    gathered = blocks.map_batches(
        Gather,
        fn_constructor_args=(Gathering(root=root, model=model, prompts=prompts, budget=budget), gatherings),
        batch_size=config.batch_size,
        batch_format="pyarrow",
        concurrency=config.gather_workers,
        num_cpus=GATHER_CPUS,
        label_selector=config.gather_labels or None,
    )
    done = processor(gathered).map_batches(_conform, batch_format="pyarrow", num_cpus=LIGHT_CPUS)
    with engine_errors({"the engine": attempts, "the process that reads segments": gatherings}):
        yield from done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


def _probe(checkpoint: Checkpoint, budget: Budget) -> dict[str, Any]:
    """A request that any engine of this checkpoint can answer: the instruction, and one grey picture."""
    sink = pictures.grey_frame(budget.images.read_at(64, 64))
    content = prompt.content(profile="", frames=(sink,), speech=(), comments=())
    row = {name: None for name in GATHERED.names} | {"frames": [sink], "reason": ""}
    return _to_request(row, 8) | {"prompt": prompt.rendered(content, checkpoint.chat_template)}


def processor_kwargs(model: str, prompts: PromptConfig, config: EngineConfig) -> dict[str, Any]:
    """What ray.data.llm is told; apart from the call so that a test can read it."""
    engine_kwargs: dict[str, Any] = {
        "max_model_len": config.max_model_len or _CONTEXT,
        "max_num_seqs": config.max_num_seqs,
        "dtype": config.dtype,
        "limit_mm_per_prompt": {"image": max(prompts.num_frames, 1), "video": 0},
        "enable_prefix_caching": False,
        "seed": 0,
    }
    environment = dict(_ENVIRONMENT)
    placement: dict[str, Any] = {"bundles": [{"GPU": 1, "CPU": config.cpus_per_engine}]}
    if not config.use_gpu:
        engine_kwargs |= {"enforce_eager": True, "distributed_executor_backend": "uni"}
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(config.kv_cache_gb)
        # One process less to start, and none to talk to: vLLM wants one for OpenMP's settings, which are made here.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # Ten times faster than the default binding on a shared machine.
        environment["VLLM_CPU_OMP_THREADS_BIND"] = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        environment["OMP_NUM_THREADS"] = str(config.cpus_per_engine)  # what the shell says of it is not meant for us
        placement = {"bundles": [{"CPU": config.cpus_per_engine}]}
    return {
        "model_source": model,
        "engine_kwargs": engine_kwargs | config.engine_kwargs,
        "placement_group_config": placement,
        "concurrency": (config.num_engines, config.num_engines),
        "batch_size": config.batch_size,
        "should_continue_on_error": True,
        "chat_template_stage": {"enabled": False},  # gatherers write prompts, without a process that imports torch
        "prepare_multimodal_stage": {"enabled": False},
        "tokenize_stage": {"enabled": False},
        "detokenize_stage": {"enabled": False},
        "log_engine_metrics": False,
        "runtime_env": {"env_vars": environment},
    }
