"""The engine's stage of ray.data.llm, in workers whose engine dies with them, and whose deaths have an end.

Imported where an engine is built: importing it imports torch.
"""

from typing import Any

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from pipelines.runtime.orphans import die_with_me
from pipelines.semantics.watch import Watched


class GuardedEngine(vLLMEngineStageUDF):
    """vLLM's engine in a Ray worker: it leaves no process behind when its worker is killed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        die_with_me()
        super().__init__(*args, **kwargs)


class WatchedEngine(Watched, GuardedEngine):
    """The same, watched: no row and no death is tried without end (watch.py)."""
