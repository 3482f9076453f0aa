"""The engine's stage of ray.data.llm, in workers whose engine dies with them. Imported where an engine is built."""

from typing import Any

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from pipelines.runtime.orphans import die_with_me

_STAGE = "vLLMEngineStage"


class GuardedEngine(vLLMEngineStageUDF):
    """vLLM's engine in a Ray worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        die_with_me()
        super().__init__(*args, **kwargs)


def guarded(processor: Any) -> Any:
    """A processor of `build_processor` whose engines leave no process behind when their worker is killed."""
    stage = processor.get_stage_by_name(_STAGE)
    processor.stages[_STAGE] = stage.model_copy(update={"fn": GuardedEngine})  # an assignment would derive it all again
    return processor
