"""A pool of vLLM engines as the stage of a ray.data.llm processor, in which no row and no death is tried without end.

This process imports neither torch nor vLLM, ten seconds of one core: only the workers do, which begin at once.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any

from pipelines.runtime.config import ConfigError
from pipelines.runtime.verdict import JobError
from pipelines.semantics.engine_config import EngineConfig

log = logging.getLogger(__name__)
ENGINE = "pipelines.semantics.engine_stage:WatchedEngine"
"""What answers in a worker; it knows vLLM."""
_PREPROCESS_CPUS, _POSTPROCESS_CPUS = 0.25, 0.1
"""What the stages on both sides reserve: they wait for the engines most of the time."""


class EngineError(JobError):
    """The engine cannot go on; the message ends with its own last error and the place of its log."""

    retry = True


def cpus(config: EngineConfig) -> float:
    """CPUs that a pool and the stages on both sides of it need at once."""
    return config.num_engines * config.cpus_per_engine + _PREPROCESS_CPUS + _POSTPROCESS_CPUS


class Engine:
    """The stage's worker."""

    def __init__(self, data_column: str, expected_input_keys: list[str], *, engine: str, **kwargs: Any) -> None:
        self._engine = resolve_name(engine)(data_column=data_column, expected_input_keys=expected_input_keys, **kwargs)

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A batch, as the processor's stages pass it on."""
        async for answered in self._engine(batch):
            yield answered


def watched_processor(
    kwargs: dict[str, Any],
    attempts: Any,
    config: EngineConfig,
    *,
    key_columns: Sequence[str],
    probe: dict[str, Any] | None,
    **processing: Any,
) -> Any:
    """A processor of ray.data.llm, `kwargs` being those of its vLLMEngineProcessorConfig.

    Datasets keep the settings of the moment they are made in, so those that it is for are made after it.
    """
    import ray
    from ray.data.llm import vLLMEngineProcessorConfig
    from ray.llm._internal.batch.processor.base import Processor
    from ray.llm._internal.batch.stages.base import StatefulStage

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.actor_init_retry_on_errors, context.actor_init_max_retries = True, 2
    told = vLLMEngineProcessorConfig(**kwargs)
    stage = StatefulStage.model_construct(  # its own check would ask for a subclass, which imports vLLM
        fn=Engine,
        fn_constructor_kwargs={
            "engine": ENGINE,
            "batch_size": told.batch_size,
            "max_concurrent_batches": told.max_concurrent_batches,
            "model": told.model_source,
            "engine_kwargs": told.engine_kwargs,
            "task_type": told.task_type,
            "should_continue_on_error": told.should_continue_on_error,
            "log_engine_metrics": told.log_engine_metrics,
            "attempts": attempts,
            "key_columns": list(key_columns),
            "probe": probe,
            "stall_timeout_s": config.stall_timeout_s,
            "max_model_len": told.engine_kwargs["max_model_len"],
        },
        map_batches_kwargs={
            "zero_copy_batch": True,
            "compute": ray.data.ActorPoolStrategy(size=config.num_engines),
            "max_concurrency": told.max_concurrent_batches,
            "runtime_env": told.runtime_env,
            "num_cpus": config.cpus_per_engine,
            "num_gpus": _gpus(config, told.engine_kwargs),
        },
    )
    return Processor(
        told,
        [stage],
        preprocess_map_kwargs={"num_cpus": _PREPROCESS_CPUS},
        postprocess_map_kwargs={"num_cpus": _POSTPROCESS_CPUS},
        **processing,
    )


def _gpus(config: EngineConfig, engine_kwargs: Mapping[str, Any]) -> int:
    """Of one engine. Raises ConfigError for one that would not fit on a node."""
    if engine_kwargs.get("distributed_executor_backend") == "ray":
        raise ConfigError(
            "engine.engine_kwargs.distributed_executor_backend: wanted uni or mp, got ray: an engine runs on one node; "
            "ask for more engines instead (engine.num_engines)"
        )
    parts = engine_kwargs.get("tensor_parallel_size", 1) * engine_kwargs.get("pipeline_parallel_size", 1)
    return int(parts) if config.use_gpu else 0


@contextmanager
def engine_errors(attempts: Mapping[str, Any]) -> Iterator[None]:
    """Says what workers died of, where they did, in place of what Ray makes of it. By name, each pool's `Attempts`."""
    import ray

    try:
        yield
    except Exception:
        for name, each in attempts.items():
            if verdict := ray.get(each.verdict.remote()):
                why, *words, cause, place = verdict.splitlines()
                log.error("the last words of %s:\n%s", name, "\n".join([*words, cause]))
                raise EngineError(f"{name} cannot go on: {why} {cause}; {place}") from None  # Ray's account is no cause
        raise
