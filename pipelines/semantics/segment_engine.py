"""Ray Data and vLLM: slices of segments in, vectors out. Knows no tables to write.

Read (slices) -> gather (segments to prompts) -> vLLM's pooling task through ray.data.llm -> one flat row per segment.
What kills the engine, or a gatherer, is found by attempts.py, as for anchors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.runtime.cluster import actor_beside
from pipelines.semantics.attempts import Attempts
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.budget import Budget
from pipelines.semantics.careful import Careful
from pipelines.semantics.engine import GATHER_CPUS, LIGHT_CPUS, request
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.engine_pool import engine_errors, watched_processor
from pipelines.semantics.pooling import pooling_kwargs
from pipelines.semantics.prompt import Question
from pipelines.semantics.prompt_writer import WRITTEN, PromptWriter, refused
from pipelines.semantics.segment_slices import KEY, SLICES, SegmentKey, Slice, SliceReader
from pipelines.semantics.watch import ERROR
from pipelines.tables.storage import Storage

_PLACE = [("slice", pa.string()), ("author_id", pa.int64()), ("live_id", pa.int64()), ("segment", pa.int32())]
_PLACE += [("end_ts_ms", pa.int64())]
GATHERED = pa.schema([*_PLACE, *WRITTEN])
"""One request of a segment."""

VECTORS = pa.schema(
    [
        *_PLACE,
        ("embedding", pa.binary()),
        ("bad_frames", pa.list_(pa.string())),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
    ]
)
"""One result: a vector as bytes of float16, or a closed reason and detail of why there is none ("" where there is)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """How segments are embedded."""

    root: str
    """The `url` of the storage that holds the days."""
    model: str
    """Folder of the checkpoint, on every node."""
    prompts: PromptConfig
    """How much of a segment is read."""
    question: Question
    """What stands behind it."""
    pooling: str
    """MEAN or LAST."""
    budget: Budget
    """What a prompt may cost."""


class GatherSegments:
    """Builds the prompts of slices."""

    def __init__(self, told: Embedding, attempts: Any) -> None:
        """`attempts` is the pool's actor: a picture that kills this process is found by it."""
        self._careful, self._prompts = Careful(attempts), SegmentPrompts(told)

    def __call__(self, slices: pa.Table) -> pa.Table:
        """SLICES -> GATHERED; segments without anything to read get a reason instead of a prompt."""
        rows: list[dict[str, Any]] = []
        for wanted in (Slice(**row) for row in slices.to_pylist()):
            keys = self._prompts.open(wanted)
            rows += self._careful.rows(keys, self._prompts.of, self._prompts.lost)
        return pa.Table.from_pylist(rows, schema=GATHERED)


class SegmentPrompts:
    """The prompts of one slice at a time. Knows no Ray."""

    def __init__(self, told: Embedding) -> None:
        self._reader = SliceReader(Storage.open(told.root))
        self._writer = PromptWriter(told.model, told.prompts, told.budget, told.question)
        self._name, self._segments = "", dict[SegmentKey, dict[str, Any] | ValueError]()

    def open(self, wanted: Slice) -> list[SegmentKey]:
        """Reads a slice, and returns the keys of its segments, in order."""
        self._name, self._segments = wanted.name, self._reader.read(wanted)
        return list(self._segments)

    def of(self, keys: Sequence[SegmentKey]) -> list[dict[str, Any]]:
        """Rows of GATHERED of some segments of the slice."""
        return [self._row(key, self._written(self._segments[key])) for key in keys]

    def lost(self, key: SegmentKey, attempts: int) -> dict[str, Any]:
        """The row of a segment that nobody can read."""
        died = f"the process that reads this segment died at each of {attempts} attempts"
        return self._row(key, refused("bad_row", died, attempts))

    def _written(self, segment: dict[str, Any] | ValueError) -> dict[str, Any]:
        if isinstance(segment, ValueError):
            return refused("bad_row", str(segment))
        return self._writer.written("", [segment])

    def _row(self, key: SegmentKey, written: dict[str, Any]) -> dict[str, Any]:
        segment = self._segments[key]
        end_ts_ms = 0 if isinstance(segment, ValueError) else segment["end_ts_ms"]
        return {"slice": self._name, **dict(zip(KEY, key, strict=True)), "end_ts_ms": end_ts_ms, **written}


def _from_answer(row: dict[str, Any]) -> dict[str, Any]:
    """The engine's row, flat. Errors of a single row arrive with a column that says so, and no vector."""
    vector = np.asarray([] if row.get("embeddings") is None else row["embeddings"], np.float16)
    reason, detail = row["reason"] or "", row["detail"] or ""
    if not reason and (error := row.get(ERROR) or _fault(vector)):
        reason, detail = "engine_error", str(error)[:500]
    place = {name: row[name] for name, _ in _PLACE}
    return {
        **place,
        "embedding": b"" if reason else vector.tobytes(),
        "bad_frames": list(row["bad_frames"]),
        "reason": reason,
        "detail": detail,
        "attempts": row["attempts"] or 1,
    }


def _fault(vector: Any) -> str:
    if not vector.size:
        return "the engine gave no vector"
    return "" if np.isfinite(vector).all() else "the engine's vector holds numbers that are none in float16"


def _conform(batch: pa.Table) -> pa.Table:
    """Blocks of one schema. Rows that passed the engine by also bypassed `_from_answer`, so that is done here."""
    rows = [row if row.get("embedding") is not None else _from_answer(row) for row in batch.to_pylist()]
    return pa.Table.from_pylist([{name: row[name] for name in VECTORS.names} for row in rows], schema=VECTORS)


def vectors(told: Embedding, slices: Sequence[Slice], config: EngineConfig) -> Iterator[pa.Table]:
    """Streams VECTORS in the order they finish. Raises EngineError where the engine cannot go on."""
    import ray

    attempts, gatherings = actor_beside(Attempts), actor_beside(Attempts)
    processor = watched_processor(
        pooling_kwargs(told.model, told.prompts, config, told.pooling, told.question.job),
        attempts,
        config,
        key_columns=KEY,
        probe=None,
        preprocess=request,
        postprocess=_from_answer,
    )
    # A block for each slice, so that vectors come back, and are kept, as they are made; and made here, by no task.
    blocks = ray.data.from_arrow([pa.Table.from_pylist([asdict(each)], schema=SLICES) for each in slices])
    gathered = blocks.map_batches(
        GatherSegments,
        fn_constructor_args=(told, gatherings),
        batch_size=1,
        batch_format="pyarrow",
        concurrency=config.gather_workers,
        num_cpus=GATHER_CPUS,
        label_selector=config.gather_labels or None,
    )
    done = processor(gathered).map_batches(_conform, batch_format="pyarrow", num_cpus=LIGHT_CPUS)
    with engine_errors({"the engine": attempts, "the process that reads segments": gatherings}):
        yield from done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
