"""Every kind of row that an engine cannot answer, among rows that it can: real Ray Data and actors, a stub for vLLM."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.llm._internal.batch.stages.base import StatefulStageUDF

from pipelines.semantics import engine, engine_pool, preflight
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.checkpoint import STUDENT
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.engine_pool import EngineError
from pipelines.semantics.gather import Gather, Key, Prompts
from pipelines.semantics.watch import Watched
from tests.pipelines.semantics.test_gather import DAY, segment, stored

AUTHORS = 64
KILLS, HANGS, FAILS, REFUSED, HICCUP, LONG, CRASHES_GATHER = 0, 23, 15, 20, 9, 12, 31
"""The author whose row is first in the batch kills the engine."""
CONFIG = EngineConfig(batch_size=AUTHORS, max_answer_tokens=20, stall_timeout_s=4.0)


class Stub(StatefulStageUDF):
    """Answers like vLLM's stage, at once; what it does to a row is written in the row's prompt."""

    def __init__(self, data_column: str, expected_input_keys: list[str], **_: Any) -> None:
        super().__init__(data_column, expected_input_keys)
        self._times: Counter[str] = Counter()

    async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: Any) -> dict[str, Any]:
        said = row["prompt"]
        self._times[said] += 1
        await asyncio.sleep(0.01)
        if "KILLS" in said:
            print("Traceback (most recent call last):\nStubError: the row kills", file=sys.stderr, flush=True)
            os._exit(1)
        if "HANGS" in said:
            await asyncio.sleep(3600)
        error = ""
        if "FAILS" in said or ("HICCUP" in said and self._times[said] < 3):
            error = "RuntimeError: out of memory for a moment"
        if "REFUSED" in said:
            error = "ValueError: the prompt is longer than the model"
        limit = row["sampling_params"]["max_tokens"]
        assert row["sampling_params"].pop("structured_outputs"), "as vLLM's stage takes it out"
        cut = "LONG" in said and limit < 40
        return {
            "__idx_in_batch": row["__idx_in_batch"],
            "__inference_error__": error,
            "generated_text": "" if error else '{"theme": ["' if cut else f'{{"limit": {limit}}}',
            "num_generated_tokens": limit if cut else 3,
            "num_input_tokens": 100,
        }


class WatchedStub(Watched, Stub):
    """The stub, watched."""


class Dying(Stub):
    """An engine that dies of every request, after its vendor's traceback."""

    async def _generate_with_error_handling(self, row: dict[str, Any], batch_uuid: Any) -> dict[str, Any]:
        said = "(EngineCore pid=1) NotImplementedError: head_dim 16 is not built for this machine"
        print(f"(EngineCore pid=1) Traceback (most recent call last):\n{said}", file=sys.stderr, flush=True)
        os._exit(1)


class WatchedDying(Watched, Dying):
    """The same, watched."""


class Unstartable(Stub):
    """An engine that never starts."""

    def __init__(self, **_: Any) -> None:
        raise OSError("no memory for the weights")


class WatchedUnstartable(Watched, Unstartable):
    """The same, watched."""


class StartsLate(Stub):
    """An engine that is killed when it starts for the first time."""

    starts = 0

    def __init__(self, **kwargs: Any) -> None:
        StartsLate.starts += 1
        if StartsLate.starts == 1:
            raise RuntimeError("Engine core initialization failed. See root cause above.")
        super().__init__(**kwargs)


class WatchedStartsLate(Watched, StartsLate):
    """The same, watched."""


class CrashingGather(Gather):
    """A gatherer that one author's frames kill, as a broken decoder would."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._prompts = CrashingPrompts(*args[:1])


class CrashingPrompts(Prompts):
    """What dies in it."""

    def of(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        if any(author == CRASHES_GATHER for _, author in keys):
            os._exit(1)
        return super().of(keys)


def asked(root: str, authors: int, config: EngineConfig) -> list[dict[str, Any]]:
    checkpoint = preflight.look(str(STUDENT), use_gpu=False)
    config = preflight.fitted(checkpoint, PromptConfig(), config)
    keys = [(DAY, author) for author in range(authors)]
    return [
        row for batch in engine.answers(root, keys, str(STUDENT), PromptConfig(), config) for row in batch.to_pylist()
    ]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Iterator[dict[int, dict[str, Any]]]:
    words = {
        KILLS: "KILLS", HANGS: "HANGS", FAILS: "FAILS", REFUSED: "REFUSED", HICCUP: "HICCUP", LONG: "LONG",
    }  # fmt: skip
    rows = [segment(author, speech=words.get(author, f"author {author}")) for author in range(AUTHORS)]
    storage = stored(tmp_path_factory.mktemp("watch"), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_pool, "ENGINE", f"{__name__}:{WatchedStub.__name__}")
        patch.setattr(engine, "Gather", CrashingGather)
        found = asked(storage.url, AUTHORS, CONFIG)
    assert sorted(row["author_id"] for row in found) == list(range(AUTHORS))
    yield {row["author_id"]: row for row in found}


@pytest.mark.ray
@pytest.mark.parametrize(
    ("author", "reason", "attempts", "said"),
    [
        (KILLS, "engine_error", 3, "died at each of 3 attempts"),
        (HANGS, "engine_error", 3, "died at each of 3 attempts"),
        (FAILS, "engine_error", 3, "RuntimeError: out of memory for a moment"),
        (REFUSED, "engine_error", 1, "ValueError: the prompt is longer"),
        (CRASHES_GATHER, "bad_row", 3, "died at each of 3 attempts"),
    ],
)
def test_a_row_that_cannot_be_answered_is_given_up_after_its_attempts(
    answered: dict[int, dict[str, Any]], author: int, reason: str, attempts: int, said: str
) -> None:
    row = answered[author]
    assert (row["reason"], row["attempts"], row["answer"]) == (reason, attempts, "") and said in row["detail"]


@pytest.mark.ray
def test_every_other_row_of_the_batch_has_its_answer(answered: dict[int, dict[str, Any]]) -> None:
    lost = {KILLS, HANGS, FAILS, REFUSED, CRASHES_GATHER}
    assert {author for author, row in answered.items() if row["reason"]} == lost
    assert {row["answer"] for author, row in answered.items() if author not in lost | {LONG}} == {'{"limit": 20}'}


@pytest.mark.ray
def test_a_fault_of_a_moment_is_asked_again(answered: dict[int, dict[str, Any]]) -> None:
    assert answered[HICCUP]["answer"] and answered[HICCUP]["attempts"] == 3


@pytest.mark.ray
def test_a_cut_answer_is_asked_for_once_more_with_a_larger_limit(answered: dict[int, dict[str, Any]]) -> None:
    assert (answered[LONG]["answer"], answered[LONG]["attempts"]) == ('{"limit": 40}', 2)


@pytest.mark.ray
def test_an_engine_that_dies_of_everything_ends_the_job_with_its_own_words(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "ENGINE", f"{__name__}:{WatchedDying.__name__}")
    storage = stored(tmp_path, [segment(author) for author in range(4)])
    with pytest.raises(EngineError, match="plainest request") as caught:
        asked(storage.url, 4, CONFIG)
    (line,) = str(caught.value).splitlines()
    assert " NotImplementedError: head_dim 16 is not built for this machine; its log: " in line


@pytest.mark.ray
def test_an_engine_that_cannot_start_is_tried_twice(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "ENGINE", f"{__name__}:{WatchedUnstartable.__name__}")
    storage = stored(tmp_path, [segment(0)])
    with pytest.raises(EngineError, match="it did not start, 2 times") as caught:
        asked(storage.url, 1, CONFIG)
    assert "no memory for the weights" in str(caught.value)


@pytest.mark.ray
def test_an_engine_that_is_killed_while_it_starts_is_started_again(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "actor_init_retry_on_errors", False)  # what it is in a process of its own
    monkeypatch.setattr(engine_pool, "ENGINE", f"{__name__}:{WatchedStartsLate.__name__}")
    storage = stored(tmp_path, [segment(author) for author in range(4)])
    assert [row["reason"] for row in asked(storage.url, 4, CONFIG)] == [""] * 4
