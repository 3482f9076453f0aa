"""vLLM's stage of ray.data.llm, watched: see watch.py. Importing it imports torch."""

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from pipelines.semantics.watch import Watched


class WatchedEngine(Watched, vLLMEngineStageUDF):
    """The engine, whose deaths have an end."""
