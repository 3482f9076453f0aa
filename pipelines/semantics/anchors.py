"""The daily anchor batch: segments -> `anchors` and `rejections`, one row per author and day in one of the two.

The driver alone writes results, part by part, so a kill loses at most the rows in flight: the next run reads the
finished parts and asks only for the keys that are missing. Re-running a finished day does nothing, and where segments
came late, or were taken away, only their authors are asked for again.

Run: python -m pipelines anchors --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.config import DayText, PathText
from pipelines.pages import report_json
from pipelines.runtime.cluster import connected, is_shared
from pipelines.runtime.run import Run
from pipelines.runtime.verdict import JobError
from pipelines.semantics import carried, engine, preflight, prompt
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.checkpoint import STUDENT, model_fingerprint
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.gather import Key
from pipelines.semantics.plan import Plan
from pipelines.semantics.staging import Staging
from pipelines.tables import contract, newest, rejections
from pipelines.tables.anchor_text import canonical_text
from pipelines.tables.due import due_days
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
STAGE = "anchors"
_OF_THE_DATA = ("no_frames", "bad_image", "bad_row")
"""Reasons that say nothing of the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorsConfig:
    """The daily batch."""

    model: PathText = str(STUDENT.relative_to(Path(__file__).parents[2]))
    """Folder of any Qwen-VL checkpoint; the default is the small one distilled for the simulated world."""
    days: tuple[DayText, ...] = ()
    """Days to do; empty = every day of `segments`."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """How much of an author's day the model reads."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How vLLM runs."""
    replace: bool = False
    """Whether a day may be replaced by one that lacks most of its rows (storage.least_share)."""
    plan: bool = False
    """Print what there is to do, and what each prompt costs, and end."""


@dataclass(frozen=True, kw_only=True)
class DueDays:
    """What there is to do."""

    days: list[str]
    """All days of the job, done or not."""
    made_from: dict[str, dict[str, str]]
    """What each day's anchors are made from."""
    due: list[str]
    """Days whose anchors are missing, or were made from something else."""

    @classmethod
    def of(cls, storage: Storage, config: AnchorsConfig) -> "DueDays":
        """Raises ContractError where there are no days, ConfigError where there is no checkpoint."""
        made_from = lineage(storage, config)
        if not made_from:
            raise contract.ContractError(
                f"table segments: wanted at least one day below {storage.root}, got none; run ingest or world first"
            )
        return cls(days=list(made_from), made_from=made_from, due=due_days(storage, "anchors", made_from))


def run(config: AnchorsConfig, run: Run) -> dict[str, Any]:
    """Reads segments and authors, writes anchors and rejections, and reports {rows_in, anchors, rejections, kept, ...}.

    The figures are those of the days that this run did; `kept` is how many authors needed no engine, as nothing of them
    has changed since the day was done before. Raises ConfigError for a checkpoint that cannot write anchors, before Ray
    starts, and EngineError for an engine that cannot go on.
    """
    storage = run.storage.guarded(run.guard(STAGE, config.replace))
    work = DueDays.of(storage, config)
    log.info("anchors | %d day(s), %d to do | model %s", len(work.days), len(work.due), config.model)
    started = time.perf_counter()
    if work.due or config.plan:
        checkpoint = preflight.look(config.model, use_gpu=config.engine.use_gpu)
        config = replace(config, engine=preflight.fitted(checkpoint, config.prompt, config.engine))
    if config.plan:
        authors = {day: storage.read("segments", day, ["author_id"])["author_id"] for day in work.due}
        rows = {day: pc.count_distinct(column).as_py() for day, column in authors.items()}
        plan = Plan.of(
            checkpoint, config.prompt, config.engine, rows=rows, before=report_json.read(run.folder).get(STAGE)
        )
        print(plan)
        return {"plan": asdict(plan)}
    figures: dict[str, Any] = {"rows_in": 0, "anchors": 0, "rejections": 0, "kept": 0}
    figures |= {"authors_per_s": None, "engine_start_s": None, "model": config.model}
    if work.due:
        with ExitStack() as held:
            for day in work.due:
                held.enter_context(storage.lease("anchors", day))
            held.enter_context(connected(run.cluster))
            engine.check_room(config.engine, can_grow=is_shared(run.cluster))
            figures |= _write_days(config, storage, work)
    figures |= {"days_done": len(work.due), "seconds": round(time.perf_counter() - started, 2)}
    report_json.merge(run.folder, STAGE, figures)
    return figures


def lineage(storage: Storage, config: AnchorsConfig) -> dict[str, dict[str, str]]:
    """By day of the job, what its anchors are made from; a change of any makes the day due again."""
    segments = storage.listing("segments")
    shared = {
        "model": model_fingerprint(config.model),
        "prompt": digest([prompt.PROMPT_HASH, prompt.SCHEMA_HASH, asdict(config.prompt)]),
    }
    return {day: {"segments": segments.stamp(day)} | shared for day in config.days or segments.days}


def _write_days(config: AnchorsConfig, storage: Storage, work: DueDays) -> dict[str, Any]:
    """Asks the engine for all authors of the due days, then commits each day."""
    wanted = {day: carried.inputs_of(storage, day) for day in work.due}
    staging = Staging(storage, f"anchors-{digest(carried.beside_segments(work.made_from[work.due[0]]))}", wanted)
    kept = 0
    for day, inputs in wanted.items():
        staging.append(answers := carried.answers(storage, day, work.made_from[day], inputs))
        kept += answers.num_rows
    rate = _ask(config, storage, [(day, author) for day, authors in wanted.items() for author in authors], staging)
    done = staging.keys()
    counts: Counter[str] = Counter(kept=kept)
    for day, authors in wanted.items():
        lost = [author for author in authors if (day, author) not in done]
        carried.write(storage, day, work.made_from[day], {a: authors[a] for a in authors if (day, a) in done})
        counts.update(_commit(storage, config, day, staging, lost, work.made_from[day]))
        counts["rows_in"] += len(authors)
    if counts["rows_in"] != counts["anchors"] + counts["rejections"]:
        raise RuntimeError(f"anchors: rows in = anchors + rejections does not hold: {dict(counts)}")
    staging.remove()
    return {**counts, **rate}


def _ask(config: AnchorsConfig, storage: Storage, wanted: list[Key], staging: Staging) -> dict[str, Any]:
    """Has every wanted key answered that is not staged yet; what got no answer is asked for once more."""
    rate: dict[str, Any] = {}
    for attempt in (1, 2):
        done = staging.keys()
        missing = [key for key in wanted if key not in done]
        if not missing:
            break
        log.info("anchors | attempt %d | %d of %d to do", attempt, len(missing), len(wanted))
        rate = _stream(config, storage, missing, staging)
    return rate


def _stream(config: AnchorsConfig, storage: Storage, keys: list[Key], staging: Staging) -> dict[str, Any]:
    """Sends keys through the engine and stages each finished batch; logs rate and eta.

    The rate leaves out the engine's start: it counts from the first batch that comes back.
    """
    total, started = len(keys), time.perf_counter()
    first_at, first_rows, rows = 0.0, 0, 0
    for batch in engine.answers(storage.url, keys, config.model, config.prompt, config.engine):
        staging.append(batch)
        now, rows = time.perf_counter(), rows + batch.num_rows
        if not first_at:
            first_at, first_rows = now, rows
        rate = (rows - first_rows) / max(now - first_at, 1e-9)
        log.info(
            "anchors | %d/%d (%.0f %%) | %.1f authors/s | eta %.0f s",
            rows, total, 100 * rows / total, rate, (total - rows) / max(rate, 1e-9) if rate else 0,
        )  # fmt: skip
    steady = time.perf_counter() - first_at
    return {
        "authors_per_s": round((rows - first_rows) / steady, 2) if rows > first_rows else None,
        "engine_start_s": round(first_at - started, 2),
    }


def _commit(
    storage: Storage, config: AnchorsConfig, day: str, staging: Staging, lost: list[int], made_from: dict[str, str]
) -> dict[str, int]:
    """Splits a day's answers into anchors and rejections, and counts them; anchors are committed last, as they mark the
    day done."""
    answers = staging.read(day)
    good, bad = split(answers, config.model)
    if message := nothing_came(day, good, bad):
        staging.forget(day)
        raise JobError(message)
    bad += [
        {"key": str(a), "reason": "engine_error", "detail": "no answer came back in two attempts", "attempts": 2}
        for a in lost
    ]
    frames = [
        {"key": f"{row['author_id']} {message.split(':')[0]}", "reason": "bad_image", "detail": message}
        for row in answers.to_pylist()
        for message in row["bad_frames"]
    ]
    rejections.replace(storage, day, STAGE, bad)
    rejections.replace(storage, day, "keyframes", frames)
    schema = contract.spec("anchors").schema
    storage.write("anchors", day, [pa.Table.from_pylist(good, schema=schema)], made_from)
    newest.carry(storage, "anchors", until=day)
    log.info("anchors | day %s committed | %d anchors | %d rejections", day, len(good), len(bad))
    return {"anchors": len(good), "rejections": len(bad)}


def split(answers: pa.Table, model: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Answers -> rows of `anchors`, and rows for `rejections` with the reason why an answer is none."""
    good, bad = [], []
    for row in answers.to_pylist():
        reason, detail = row["reason"], row["detail"]
        if not reason:
            try:
                good.append(_anchor(row, prompt.parse(row["answer"]), model))
                continue
            except ValueError as error:
                cut = not row["answer"].rstrip().endswith("}")
                reason, detail = "truncated_answer" if cut else "invalid_json", f"{error}: {row['answer'][:300]}"
        bad.append({"key": str(row["author_id"]), "reason": reason, "detail": detail, "attempts": row["attempts"] or 1})
    return good, bad


def nothing_came(day: str, good: list[dict[str, Any]], bad: list[dict[str, Any]]) -> str:
    """Why a day is not committed of which the engine made nothing: no earlier anchors are to be replaced by none.

    "" where there are anchors, and where the day's own data leaves nothing to write one from.
    """
    reasons = Counter(row["reason"] for row in bad if row["reason"] not in _OF_THE_DATA)
    if good or not reasons:
        return ""
    reason, count = reasons.most_common(1)[0]
    detail = next(row["detail"] for row in bad if row["reason"] == reason)
    return (
        f"anchors: day {day} is left as it was, since none of {len(bad)} authors has an anchor; {count} times "
        f"{reason}, the first: {detail}"
    )


def _anchor(row: dict[str, Any], fields: dict[str, list[str]], model: str) -> dict[str, Any]:
    return {
        "author_id": row["author_id"],
        **fields,
        "text": canonical_text(fields),
        "model": Path(model).name,
        "prompt_hash": prompt.PROMPT_HASH,
        "schema_hash": prompt.SCHEMA_HASH,
        "num_frames": row["num_frames"],
        "num_comments": row["num_comments"],
    }
