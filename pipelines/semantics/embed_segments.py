"""What is on screen, every 30 seconds, as a frozen vector: `segments` -> `segment_embeddings` and `rejections`.

Reads speech, comments and frames of each segment, through Ray Data and vLLM's pooling task (LARM 2.1), and nothing else
of its author: a vector says what a segment shows. One row per segment in one of the two tables. The driver alone writes
results, slice by slice, so a kill loses at most what the engine has in hand. Memory: the key columns of a day, its
rejections, and a file of vectors.

Run: python -m pipelines embed_segments --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.config import DayText, PathText
from pipelines.pages import report_json
from pipelines.runtime.cluster import connected, is_shared
from pipelines.runtime.run import Run
from pipelines.runtime.verdict import JobError
from pipelines.semantics import preflight, prompt, segment_engine
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.budget import Budget
from pipelines.semantics.checkpoint import STUDENT, Checkpoint, model_fingerprint
from pipelines.semantics.embed import came_with_the_data
from pipelines.semantics.engine import check_room
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.pooling import check_pooling
from pipelines.semantics.segment_engine import Embedding
from pipelines.semantics.segment_slices import Slice, check_keys, slices_of
from pipelines.semantics.segment_staging import TABLE, SegmentStaging
from pipelines.tables import contract, rejections
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
STAGE = "embed_segments"
FRAMES_STAGE = "segment_frames"
"""Rejects single frames of segments that have a vector all the same."""
_OF_THE_DATA = ("no_frames", "bad_image", "bad_row")
"""Reasons that say nothing of the engine."""
_FILE_BYTES = 64 * 2**20
"""Vectors of a file of the table."""
_LOG_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedSegmentsConfig:
    """How segments are embedded."""

    model: PathText = str(STUDENT.relative_to(Path(__file__).parents[2]))
    """Folder of the Qwen-VL checkpoint."""
    days: tuple[DayText, ...] = ()
    """Days to do; empty = every day of `segments`."""
    pooling: str = "MEAN"
    """vLLM's pooling type: MEAN over the tokens, or LAST."""
    instruction: str = ""
    """Text behind a segment in its prompt; "" = none. With LAST it is the question that the vector answers."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """How much of a segment the model reads."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How vLLM runs; nothing is kept for an answer."""
    replace: bool = False
    """Whether a day may be replaced by one that lacks most of its rows (storage.least_share)."""

    def __post_init__(self) -> None:
        check_pooling(self.pooling)


def question(config: EmbedSegmentsConfig) -> prompt.Question:
    """What is asked of a segment."""
    return prompt.Question(job=STAGE, instruction=config.instruction, answered=False)


def run(config: EmbedSegmentsConfig, run: Run) -> dict[str, Any]:
    """Embeds the segments of every day that is not current, and reports {rows_in, embedded, rejections, ...}.

    The figures are those of the days that this run did. Raises ConfigError for a checkpoint or a prompt that cannot be
    used, before Ray starts, and EngineError for an engine that cannot go on.
    """
    storage, started = run.storage.guarded(run.guard(STAGE, config.replace)), time.perf_counter()
    made_from = lineage(storage, config)
    if not made_from:
        raise contract.ContractError(
            f"table segments: wanted at least one day below {storage.root}, got none; run ingest or world first"
        )
    due = [day for day in due_days(storage, TABLE, made_from) if not came_with_the_data(storage, TABLE, day)]
    log.info("embed_segments | %d day(s), %d to do | model %s", len(made_from), len(due), config.model)
    figures: dict[str, Any] = {"rows_in": 0, "embedded": 0, "rejections": 0, "width": None}
    figures |= {"segments_per_s": None, "engine_start_s": None, "model": config.model}
    if due:
        checkpoint = preflight.look(config.model, use_gpu=config.engine.use_gpu, key=f"{STAGE}.model")
        fitted = preflight.fitted(checkpoint, config.prompt, config.engine, question(config))
        config = replace(config, engine=fitted)
        with ExitStack() as held:
            for day in due:
                held.enter_context(storage.lease(TABLE, day))
                figures["rows_in"] += check_keys(storage, day)
            held.enter_context(connected(run.cluster))
            check_room(config.engine, can_grow=is_shared(run.cluster))
            figures |= _embed_days(config, checkpoint, storage, {day: made_from[day] for day in due})
    if figures["rows_in"] != figures["embedded"] + figures["rejections"]:
        raise RuntimeError(f"embed_segments: rows in = embedded + rejections does not hold: {figures}")
    figures |= {"days_done": len(due), "seconds": round(time.perf_counter() - started, 2)}
    report_json.merge(run.folder, STAGE, figures)
    return figures


def lineage(storage: Storage, config: EmbedSegmentsConfig) -> dict[str, dict[str, str]]:
    """By day of the job, what its vectors are made from; a change of any makes the day due again."""
    segments = storage.listing("segments")
    shared = {
        "model": model_fingerprint(config.model),
        "prompt": digest([prompt.SECTIONS, asdict(config.prompt), config.instruction, config.pooling]),
        "engine": digest([config.engine.max_model_len, config.engine.frame_tokens, config.engine.dtype]),
    }
    return {day: {"segments": segments.stamp(day)} | shared for day in config.days or segments.days}


def _embed_days(
    config: EmbedSegmentsConfig, checkpoint: Checkpoint, storage: Storage, made_from: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Asks the engine for all slices of some days, then commits each day."""
    slices = [each for day in made_from for each in slices_of(storage, day)]
    beside = {name: value for name, value in next(iter(made_from.values())).items() if name != "segments"}
    staging = SegmentStaging(storage, digest(beside), slices)
    told = Embedding(
        root=storage.url,
        model=config.model,
        prompts=config.prompt,
        question=question(config),
        pooling=config.pooling,
        budget=Budget.of(checkpoint, config.prompt, config.engine, question(config)),
    )
    rate: dict[str, Any] = {}
    for attempt in (1, 2):
        if missing := staging.missing():
            log.info("embed_segments | attempt %d | %d of %d slices to do", attempt, len(missing), len(slices))
            rate = _stream(told, missing, config.engine, staging)
    if missing := staging.missing():
        raise JobError(
            f"embed_segments: {len(missing)} of {len(slices)} slices came back in no attempt, first {missing[0]}; "
            "run it again: what is done is kept"
        )
    counts: Counter[str] = Counter()
    widths = set[int]()
    for day, of_day in made_from.items():
        counts.update(_commit(storage, Path(config.model).name, day, staging, of_day, widths))
    staging.remove()
    return {
        "embedded": counts["embedded"],
        "rejections": counts["rejections"],
        "width": max(widths, default=None),
    } | rate


def _stream(told: Embedding, slices: Sequence[Slice], engine: EngineConfig, staging: SegmentStaging) -> dict[str, Any]:
    """Sends slices through the engine and stages each that is whole; logs rate and eta.

    The rate leaves out the engine's start: it counts from the first batch that comes back.
    """
    total, started = sum(each.rows for each in slices), time.perf_counter()
    first_at, first_rows, rows, logged = 0.0, 0, 0, 0.0
    for batch in segment_engine.vectors(told, slices, engine):
        staging.append(batch)
        now, rows = time.perf_counter(), rows + batch.num_rows
        if not first_at:
            first_at, first_rows = now, rows
        if now - logged > _LOG_EVERY_S or rows == total:
            logged, rate = now, (rows - first_rows) / max(now - first_at, 1e-9)
            log.info(
                "embed_segments | %d/%d (%.0f %%) | %.1f segments/s | eta %.0f s",
                rows, total, 100 * rows / total, rate, (total - rows) / rate if rate else 0,
            )  # fmt: skip
    steady = time.perf_counter() - first_at
    return {
        "segments_per_s": round((rows - first_rows) / steady, 2) if rows > first_rows else None,
        "engine_start_s": round(first_at - started, 2),
    }


def _commit(
    storage: Storage, model: str, day: str, staging: SegmentStaging, made_from: dict[str, str], widths: set[int]
) -> dict[str, int]:
    """Splits a day's results into embeddings and rejections, and counts them; embeddings are committed last, as they
    mark the day done. Adds the vectors' width to `widths`."""
    embedded, bad, bad_frames = _split(staging, day)
    if not embedded and (reasons := Counter(row["reason"] for row in bad if row["reason"] not in _OF_THE_DATA)):
        staging.forget(day)
        reason, count = reasons.most_common(1)[0]
        detail = next(row["detail"] for row in bad if row["reason"] == reason)
        raise JobError(
            f"embed_segments: day {day} is left as it was, since none of {len(bad)} segments has a vector; {count} "
            f"times {reason}, the first: {detail}"
        )
    rejections.replace(storage, day, STAGE, bad)
    rejections.replace(storage, day, FRAMES_STAGE, bad_frames)
    storage.write(TABLE, day, _tables(staging, day, model, widths), made_from)
    log.info("embed_segments | day %s committed | %d embedded | %d rejections", day, embedded, len(bad))
    return {"embedded": embedded, "rejections": len(bad)}


def _split(staging: SegmentStaging, day: str) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
    """How many segments have a vector, the rejections of the others, and those of single frames."""
    embedded, bad, bad_frames = 0, list[dict[str, Any]](), list[dict[str, Any]]()
    for rows in staging.read(day):
        is_good = pc.equal(rows["reason"], "")
        embedded += pc.sum(is_good).as_py()
        is_told = pc.or_(pc.invert(is_good), pc.greater(pc.list_value_length(rows["bad_frames"]), 0))
        for row in rows.filter(is_told).drop_columns(["embedding"]).to_pylist():
            place = f"live {row['live_id']} segment {row['segment']}"
            key = f"{row['author_id']} {place}"
            if row["reason"]:
                bad.append({"key": key} | {name: row[name] for name in ("reason", "detail", "attempts")})
            for message in row["bad_frames"]:
                frame = message.partition(":")[0].removeprefix(place).strip()
                bad_frames.append({"key": f"{key} {frame}", "reason": "bad_image", "detail": message})
    return embedded, bad, bad_frames


def _tables(staging: SegmentStaging, day: str, model: str, widths: set[int]) -> Iterator[pa.Table]:
    """The vectors of a day, in files of bounded size. Raises RuntimeError where they are of two widths."""
    waiting: list[pa.Table] = []
    for rows in staging.read(day):
        if (rows := rows.filter(pc.equal(rows["reason"], ""))).num_rows:
            waiting.append(_embeddings(rows, model))
            widths.add(len(waiting[-1]["embedding"][0]))
        if sum(table.nbytes for table in waiting) >= _FILE_BYTES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _embeddings(rows: pa.Table, model: str) -> pa.Table:
    """Rows of VECTORS as rows of the table."""
    vectors = np.frombuffer(b"".join(rows["embedding"].to_pylist()), np.float16)
    width, rest = divmod(len(vectors), rows.num_rows)
    if rest:
        raise RuntimeError(
            f"embed_segments: wanted vectors of one width, got {len(vectors)} numbers of {rows.num_rows}"
        )
    offsets = pa.array(np.arange(rows.num_rows + 1, dtype=np.int32) * width)
    columns = {name: rows[name] for name in ("author_id", "live_id", "segment", "end_ts_ms")}
    columns["embedding"] = pa.ListArray.from_arrays(offsets, pa.array(vectors))
    columns["model"] = pa.array([model] * rows.num_rows, pa.string())
    return pa.table(columns, schema=contract.spec(TABLE).schema)
