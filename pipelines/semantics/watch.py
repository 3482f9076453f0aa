"""A stage of ray.data.llm whose deaths have an end: see attempts.py. Knows neither vLLM nor what rows mean."""

import asyncio
import os
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pipelines.semantics.attempts import LIMIT, PROBE, Place, begin, given_up, groups

ERROR = "__inference_error__"
"""The column by which ray.data.llm tells that a row failed: such rows pass by all later stages."""
_INDEX = "__idx_in_batch"
_OF_THE_REQUEST = ("ValueError", "VLLMValidationError", "VLLMClientError", "TypeError", "KeyError", "ValidationError")
"""Errors that the same request would bring again."""

Request = dict[str, Any]


class Watched:
    """Goes before a stage that has `_generate_with_error_handling`, the engine's own way to answer one row.

    Rows of a batch are asked together, as the stage would; behind a death, suspects apart from the others. A row that
    fails is asked again where that may help, and once more with a larger limit where its answer was cut.
    """

    def __init__(
        self,
        *args: Any,
        attempts: Any,
        key_columns: Sequence[str],
        probe: Request | None,
        stall_timeout_s: float,
        max_model_len: int,
        **kwargs: Any,
    ) -> None:
        """`attempts` is the pool's actor, `probe` a request that any engine can answer."""
        import ray

        self._attempts, self._columns, self._probe = attempts, tuple(key_columns), probe
        self._me, self._max_model_len = ray.get_runtime_context().get_actor_id(), max_model_len
        self._in_hand, self._last_answer_at = 0, time.monotonic()
        self._apart = asyncio.Lock()
        self._careful = begin(attempts, self._me)
        try:
            super().__init__(*args, **kwargs)
        except Exception as error:
            *words, log = Place.here().last_words().splitlines()
            if "root cause above" not in str(error):  # vLLM's own words where its core process has logged the cause
                words += f"{type(error).__name__}: {error}".splitlines()
            ray.get(attempts.failed_to_start.remote("\n".join([*words, log])))
            raise
        threading.Thread(target=self._watch, args=(stall_timeout_s,), name="stall-watch", daemon=True).start()

    async def udf(self, batch: list[Request]) -> AsyncIterator[Request]:
        """Answers of a batch, as they come."""
        if not self._careful:
            async for answer in self._asked(batch):
                yield answer
            return
        async with self._apart:
            await self._probe_once()
            async for answer in self._asked_apart(batch):
                yield answer
            self._careful = bool(await self._attempts.suspects.remote())

    async def _asked_apart(self, batch: list[Request]) -> AsyncIterator[Request]:
        keys = [self._key(row) for row in batch]
        deaths = dict(zip(keys, await self._attempts.deaths.remote(keys), strict=True))
        lost = given_up(batch, lambda row: deaths[self._key(row)])
        for row in lost:
            yield _failed(row, f"the engine died at each of {LIMIT} attempts, the last with this row alone", LIMIT)
        for group in groups(batch, lambda row: deaths[self._key(row)]):
            async for answer in self._asked(group):
                yield answer
        await self._attempts.gave_up.remote([self._key(row) for row in lost])

    async def _asked(self, rows: list[Request]) -> AsyncIterator[Request]:
        """Answers of rows that are asked together."""
        await self._attempts.took.remote(self._me, [self._key(row) for row in rows])
        self._last_answer_at, self._in_hand = time.monotonic(), self._in_hand + len(rows)
        for answer in asyncio.as_completed([asyncio.create_task(self._answer(row)) for row in rows]):
            yield await answer

    async def _answer(self, row: Request) -> Request:
        """One row, asked as often as may help."""
        attempt, answer = 1, await self._ask(row)
        while attempt < LIMIT and answer[ERROR] and not answer[ERROR].startswith(_OF_THE_REQUEST):
            attempt, answer = attempt + 1, await self._ask(row)
        if not answer[ERROR] and (larger := self._larger(row, answer)):
            again = await self._ask({**row, "sampling_params": row["sampling_params"] | {"max_tokens": larger}})
            answer, attempt = (answer if again[ERROR] else again), attempt + 1
        self._in_hand, self._last_answer_at = self._in_hand - 1, time.monotonic()
        self._attempts.finished.remote(self._me, [self._key(row)])
        return {**answer, "attempts": attempt, "prompt": "", "multimodal_data": None}

    async def _ask(self, row: Request) -> Request:
        """One attempt. The engine takes requests apart, so that it gets a copy."""
        copy = {**row, "sampling_params": dict(row["sampling_params"])} if "sampling_params" in row else dict(row)
        answer: Request = await self._generate_with_error_handling(copy, uuid.uuid4())  # type: ignore[attr-defined]
        return answer

    def _larger(self, row: Request, answer: Request) -> int:
        """The limit for one more try of an answer that was cut; 0 where it was not, or where there is no room."""
        most = row.get("sampling_params", {}).get("max_tokens")
        if most is None or answer["num_generated_tokens"] < most or answer["generated_text"].rstrip().endswith("}"):
            return 0
        room = min(2 * most, self._max_model_len - answer["num_input_tokens"])
        return room if room > most else 0

    async def _probe_once(self) -> None:
        """Where nothing was ever answered: is it the engine, or the rows?"""
        if self._probe is None or await self._attempts.finished_any.remote():
            return
        probe, self._probe = self._probe, None
        await self._attempts.took.remote(self._me, [PROBE])
        self._in_hand, self._last_answer_at = 1, time.monotonic()
        await self._ask({**probe, _INDEX: 0})
        self._in_hand = 0
        await self._attempts.finished.remote(self._me, [PROBE])

    def _key(self, row: Request) -> tuple[Any, ...]:
        return tuple(row[column] for column in self._columns)

    def _watch(self, timeout_s: float) -> None:
        """Ends the process where rows wait and no answer comes: what hangs in an engine cannot be called off."""
        while True:
            time.sleep(min(1.0, timeout_s / 4))
            waited = time.monotonic() - self._last_answer_at
            if self._in_hand and waited > timeout_s:
                words = f"EngineStalled: no answer came for {waited:.0f} s (engine.stall_timeout_s)"
                print(f"{words}, with {self._in_hand} rows waiting", file=sys.stderr, flush=True)
                os._exit(1)


def _failed(row: Request, error: str, attempts: int) -> Request:
    """The answer of a row that is given up, in the form of the engine's own failures."""
    return {_INDEX: row[_INDEX], ERROR: error, "attempts": attempts, "prompt": "", "multimodal_data": None}
