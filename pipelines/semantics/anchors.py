"""The daily anchor batch: segments -> `anchors` and `rejections`, one row an author and day in one of the two.

The driver alone writes results, part by part, so a kill loses at most the rows in flight: the next run reads the
finished parts and asks only for the keys that are missing. Re-running a finished day does nothing.

Run: python -m pipelines anchors --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.pages import report_json
from pipelines.runtime.cluster import connected
from pipelines.runtime.config import ConfigError
from pipelines.runtime.run import Run
from pipelines.semantics import engine, prompt
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.checkpoint import STUDENT, model_fingerprint
from pipelines.semantics.engine import EngineConfig
from pipelines.semantics.staging import Key, Staging, key_blocks
from pipelines.tables import contract, rejections
from pipelines.tables.anchor_text import canonical_text
from pipelines.tables.fingerprint import digest
from pipelines.tables.storage import Storage, rows_of

log = logging.getLogger(__name__)
STAGE = "anchors"
SWAPPED = "anchors-swapped.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorsConfig:
    """The daily batch."""

    model: str = str(STUDENT.relative_to(Path(__file__).parents[2]))
    """Folder of any Qwen-VL checkpoint; the default is the small one distilled for the simulated world."""
    days: tuple[str, ...] = ()
    """Days to do; empty = every day of `segments`."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """How much of an author's day the model reads."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How vLLM runs."""
    keys_per_block: int = 128
    """Authors a Ray Data block."""
    swap_frames: int = 0
    """Authors of the newest day who are asked about a second time with another author's frames, as a control: what is
    read from pixels alone must then be wrong. Their answers land in `<run_dir>/anchors-swapped.parquet`."""


@dataclass(frozen=True, kw_only=True)
class DueDays:
    """What there is to do in one store."""

    storage: Storage
    days: list[str]
    """All days of the job, done or not."""
    made_from: dict[str, dict[str, str]]
    """What each day's anchors are made from."""
    due: list[str]
    """Days whose anchors are missing, or were made from something else."""

    @classmethod
    def of(cls, storage: Storage, config: AnchorsConfig, model: str) -> "DueDays":
        """`model` is the checkpoint's fingerprint. Raises ContractError where there are no days."""
        days = list(config.days) or storage.days("segments")
        if not days:
            raise contract.ContractError(
                f"table segments: wanted at least one day below {storage.root}, got none; run ingest or world first"
            )
        made_from = {day: lineage(storage, day, config, model) for day in days}
        due = [day for day in days if not storage.is_current("anchors", day, made_from[day])]
        return cls(storage=storage, days=days, made_from=made_from, due=due)


def run(config: AnchorsConfig, run: Run) -> dict[str, Any]:
    """Reads segments and authors, writes anchors and rejections, and reports {rows_in, anchors, rejections, ...}."""
    metrics = write_stores(config, run, [run.storage])
    report_json.merge(run.folder, "anchors", metrics)
    return metrics


def write_stores(config: AnchorsConfig, run: Run, stores: Sequence[Storage]) -> dict[str, Any]:
    """`run` over the tables of several stores, with one start of the engine; its figures are those of all together."""
    if config.swap_frames and len(stores) > 1:
        raise ConfigError(f"anchors.swap_frames: wanted 0 with {len(stores)} stores, got {config.swap_frames}")
    model = model_fingerprint(config.model)
    works = [DueDays.of(storage, config, model) for storage in stores]
    due = [work for work in works if work.due]
    log.info(
        "anchors | %d day(s), %d to do | model %s",
        sum(len(work.days) for work in works), sum(len(work.due) for work in due), config.model,
    )  # fmt: skip
    started = time.perf_counter()
    rate = {"authors_per_s": None, "engine_start_s": None}
    if due:
        with connected(run.cluster):
            rate = _generate(config, run, due)
    counts: Counter[str] = Counter()
    for work in works:
        for day in work.days:
            counts["anchors"] += rows_of(work.storage, "anchors", day)
            counts["rejections"] += rejections.of_stage(work.storage, day, STAGE).num_rows
            counts["rows_in"] += len(_authors(work.storage, day))
    if counts["rows_in"] != counts["anchors"] + counts["rejections"]:
        raise RuntimeError(f"anchors: rows in = anchors + rejections does not hold: {dict(counts)}")
    took = round(time.perf_counter() - started, 2)
    return {**counts, **rate, "days_done": sum(len(work.due) for work in due), "seconds": took}


def lineage(storage: Storage, day: str, config: AnchorsConfig, model: str) -> dict[str, str]:
    """What a day's anchors are made from; a change of any makes the day due again."""
    return {
        "segments": storage.fingerprint("segments", day),
        "model": model,
        "prompt": digest([prompt.PROMPT_HASH, prompt.SCHEMA_HASH, asdict(config.prompt)]),
    }


def _authors(storage: Storage, day: str) -> list[int]:
    column = storage.read("segments", day, ["author_id"])["author_id"]
    return sorted(pc.unique(column).to_pylist())


def _generate(config: AnchorsConfig, run: Run, works: Sequence[DueDays]) -> dict[str, Any]:
    """Asks the engine for all missing keys of the due days, then commits each day."""
    asked = [(work, _wanted(work), _control(work, config.swap_frames, run.seed)) for work in works]
    staged = {
        work.storage.url: Staging(work.storage, f"anchors-{digest([work.made_from, config.swap_frames])}")
        for work in works
    }
    rate: dict[str, Any] = {"authors_per_s": None, "engine_start_s": None}
    for attempt in (1, 2):
        blocks = []
        for work, wanted, control in asked:
            done = staged[work.storage.url].keys()
            missing = [key for key in [*wanted, *control] if key not in done]
            blocks += key_blocks(work.storage.url, missing, config.keys_per_block)
        if not blocks:
            break
        total = sum(len(wanted) + len(control) for _, wanted, control in asked)
        log.info("anchors | attempt %d | %d of %d to do", attempt, sum(b.num_rows for b in blocks), total)
        rate = _stream(config, blocks, staged)
    for work, wanted, control in asked:
        _commit_days(config, run, work, staged[work.storage.url], wanted, bool(control))
    return rate


def _commit_days(
    config: AnchorsConfig, run: Run, work: DueDays, staging: Staging, wanted: list[Key], has_control: bool
) -> None:
    """Commits the due days of one store, writes the control's answers, and removes what was staged."""
    done = staging.keys()
    for day in work.due:
        lost = [author for d, author, _ in wanted if d == day and (d, author, author) not in done]
        _commit(work.storage, config, day, staging, lost, work.made_from[day])
    if has_control:
        control = staging.read(work.due[-1]).filter(pc.field("frames_of") != pc.field("author_id"))
        run.folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(control, run.folder / SWAPPED)
    staging.remove()


def _wanted(work: DueDays) -> list[Key]:
    """Every author of the due days, with their own frames."""
    return [(day, author, author) for day in work.due for author in _authors(work.storage, day)]


def _control(work: DueDays, count: int, seed: int) -> list[Key]:
    """`count` authors of the newest due day, each with the frames of the next one in a seeded order."""
    authors = _authors(work.storage, work.due[-1]) if count else []
    chosen = [authors[i] for i in np.random.default_rng([seed, 8]).permutation(len(authors))[:count]]
    return [(work.due[-1], author, chosen[(i + 1) % len(chosen)]) for i, author in enumerate(chosen)]


def _stream(config: AnchorsConfig, blocks: list[pa.Table], staged: Mapping[str, Staging]) -> dict[str, Any]:
    """Sends keys through the engine and each finished batch to its store's staging; logs rate and eta.

    The rate leaves out the engine's start: it counts from the first batch that comes back.
    """
    total = sum(block.num_rows for block in blocks)
    started, first_at, first_rows, rows = time.perf_counter(), 0.0, 0, 0
    for batch in engine.answers(blocks, config.model, config.prompt, config.engine):
        for root in pc.unique(batch["root"]).to_pylist():
            staged[root].append(batch.filter(pc.equal(batch["root"], root)))
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
) -> None:
    """Splits a day's answers into anchors and rejections; anchors are committed last, as they mark the day done."""
    answers = staging.read(day)
    answers = answers.filter(pc.equal(answers["frames_of"], answers["author_id"]))
    good, bad = split(answers, config.model)
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
    log.info("anchors | day %s committed | %d anchors | %d rejections", day, len(good), len(bad))


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
        bad.append({"key": str(row["author_id"]), "reason": reason, "detail": detail})
    return good, bad


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
