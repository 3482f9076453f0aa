"""vLLM with one row that it does not survive, as a fault of a kernel would have it. Imported by the workers alone."""

import asyncio
from typing import Any

import psutil

from pipelines.semantics.engine_stage import WatchedEngine
from tests.bench.poison import KILLS


class KilledEngine(WatchedEngine):
    """Its core process dies as soon as it is asked for a row that says so."""

    async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: Any) -> dict[str, Any]:
        if KILLS in row["prompt"]:
            await asyncio.sleep(0.2)  # the others of its batch are in the engine by then
            for process in psutil.Process().children():
                process.kill()
        answer: dict[str, Any] = await super()._generate_with_error_handling(row, batch_uuid)
        return answer
