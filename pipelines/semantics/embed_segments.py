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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from models.config import DayText, PathText
from pipelines.pages import report_json
from pipelines.runtime.cluster import connected, is_shared
from pipelines.runtime.run import Run
from pipelines.runtime.verdict import JobError
from pipelines.semantics import preflight, prompt, segment_carry, segment_engine
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.budget import Budget
from pipelines.semantics.checkpoint import STUDENT, Checkpoint, model_fingerprint
from pipelines.semantics.embed import came_with_the_data
from pipelines.semantics.engine import check_room
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.pooling import check_pooling
from pipelines.semantics.segment_commit import STAGE, commit
from pipelines.semantics.segment_engine import Embedding
from pipelines.semantics.segment_slices import Slice, check_keys, slices_of
from pipelines.semantics.segment_staging import TABLE, SegmentStaging
from pipelines.tables import contract
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
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
    """Embeds the segments of every day that is not current, and reports {rows_in, embedded, rejections, kept, ...}.

    The figures are those of the days that this run did; `kept` is how many vectors needed no engine, as the files of
    their segments are as they were. Raises ConfigError for a checkpoint or a prompt that cannot be used, before Ray
    starts, and EngineError for an engine that cannot go on.
    """
    storage, started = run.storage.guarded(run.guard(STAGE, config.replace)), time.perf_counter()
    made_from = lineage(storage, config)
    if not made_from:
        raise contract.ContractError(
            f"table segments: wanted at least one day below {storage.root}, got none; run ingest or world first"
        )
    due = [day for day in due_days(storage, TABLE, made_from) if not came_with_the_data(storage, TABLE, day)]
    log.info("embed_segments | %d day(s), %d to do | model %s", len(made_from), len(due), config.model)
    figures: dict[str, Any] = {"rows_in": 0, "embedded": 0, "rejections": 0, "kept": 0}
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
    beside = segment_carry.beside_segments(next(iter(made_from.values())))
    staging = SegmentStaging(storage, digest(beside), slices)
    counts = Counter(kept=sum(segment_carry.carry(storage, day, made_from[day], staging) for day in made_from))
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
    for day, of_day in made_from.items():
        counts += commit(storage, Path(config.model).name, day, staging, of_day)
    staging.remove()
    return {name: counts[name] for name in ("embedded", "rejections", "kept")} | rate


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
