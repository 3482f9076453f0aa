"""The daily anchor batch: segments -> `anchors` and `rejections`, one row an author and day in one of the two.

The driver alone writes results, part by part, so a kill loses at most the rows in flight: the next run reads the
finished parts and asks only for the keys that are missing. Re-running a finished day does nothing.

Run: python -m pipelines anchors --config pipelines/configs/demo.yaml
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.manifest import Manifest
from pipelines import contract, engine, prompt, rejections, report_json
from pipelines.author_day import PromptConfig
from pipelines.cluster import connected
from pipelines.config import ConfigError
from pipelines.engine import EngineConfig
from pipelines.staging import Key, Staging, key_blocks
from pipelines.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings

log = logging.getLogger(__name__)
STAGE = "anchors"
SWAPPED = "anchors-swapped.parquet"
STUDENT = Path(__file__).parent / "world" / "student"
"""The distilled model that ships with the simulated world."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnchorsConfig:
    """The daily batch."""

    model: str = str(STUDENT.relative_to(Path(__file__).parent.parent))
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


def run(settings: "Settings") -> dict[str, Any]:
    """Reads segments and authors, writes anchors and rejections, and reports {rows_in, anchors, rejections, ...}."""
    config = settings.anchors
    storage = Storage.open(settings.storage.root)
    model = model_fingerprint(config.model)
    days = list(config.days) or storage.days("segments")
    if not days:
        raise contract.ContractError(
            f"table segments: wanted at least one day below {storage.root}, got none; run ingest or world first"
        )
    made_from = {day: lineage(storage, day, config, model) for day in days}
    due = [day for day in days if not storage.is_current("anchors", day, made_from[day])]
    log.info("anchors | %d day(s), %d to do | model %s", len(days), len(due), config.model)
    started = time.perf_counter()
    rate = {"authors_per_s": None, "engine_start_s": None}
    if due:
        with connected(settings.cluster):
            rate = _generate(storage, settings, due, made_from)
    counts: Counter[str] = Counter()
    for day in days:
        counts["anchors"] += rows_of(storage, "anchors", day)
        counts["rejections"] += rejections.of_stage(storage, day, STAGE).num_rows
    counts["rows_in"] = sum(len(_authors(storage, day)) for day in days)
    if counts["rows_in"] != counts["anchors"] + counts["rejections"]:
        raise RuntimeError(f"anchors: rows in = anchors + rejections does not hold: {dict(counts)}")
    metrics = {**counts, **rate, "days_done": len(due), "seconds": round(time.perf_counter() - started, 2)}
    report_json.merge(settings.run_dir, "anchors", metrics)
    return metrics


def lineage(storage: Storage, day: str, config: AnchorsConfig, model: str) -> dict[str, str]:
    """What a day's anchors are made from; a change of any makes the day due again."""
    return {
        "segments": storage.fingerprint("segments", day),
        "model": model,
        "prompt": prompt.digest([prompt.PROMPT_HASH, prompt.SCHEMA_HASH, asdict(config.prompt)]),
    }


def model_fingerprint(model: str) -> str:
    """Hash of a checkpoint: its manifest's where it has one, else of its files' names and sizes."""
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"anchors.model {model}: wanted a folder with a Hugging Face checkpoint (config.json), got none; "
            "run `make distil`, or give the folder of a downloaded Qwen-VL by --set anchors.model=PATH"
        )
    if (folder / "MANIFEST.json").is_file():
        return prompt.digest(dict(Manifest.verify(folder).files))
    return prompt.digest(sorted((p.name, p.stat().st_size) for p in folder.iterdir()))


def _authors(storage: Storage, day: str) -> list[int]:
    column = storage.read("segments", day, ["author_id"])["author_id"]
    return sorted(pc.unique(column).to_pylist())


def rows_of(storage: Storage, name: str, day: str) -> int:
    """Rows of a committed day."""
    commit = storage.commit_of(name, day)
    return commit.rows if commit else 0


def _generate(
    storage: Storage, settings: "Settings", due: list[str], made_from: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Asks the engine for all missing keys of the due days, then commits each day."""
    config = settings.anchors
    staging = Staging(storage, f"anchors-{prompt.digest([made_from, config.swap_frames])}")
    wanted = [(day, author, author) for day in due for author in _authors(storage, day)]
    swapped = _swapped([key for key in wanted if key[0] == due[-1]], config.swap_frames, settings.seed)
    rate: dict[str, Any] = {"authors_per_s": None, "engine_start_s": None}
    for attempt in (1, 2):
        done = staging.keys()
        missing = [key for key in [*wanted, *swapped] if key not in done]
        if not missing:
            break
        log.info("anchors | attempt %d | %d of %d to do", attempt, len(missing), len(wanted) + len(swapped))
        rate = _stream(storage, settings, missing, staging.append)
    done = staging.keys()
    for day in due:
        lost = [author for d, author, _ in wanted if d == day and (d, author, author) not in done]
        _commit(storage, config, day, staging, lost, made_from[day])
    if swapped:
        control = staging.read(due[-1]).filter(pc.field("frames_of") != pc.field("author_id"))
        Path(settings.run_dir).mkdir(parents=True, exist_ok=True)
        pq.write_table(control, Path(settings.run_dir) / SWAPPED)
    staging.remove()
    return rate


def _swapped(keys: list[Key], count: int, seed: int) -> list[Key]:
    """`count` authors of one day, each with the frames of the next one in a seeded order."""
    chosen = [keys[i] for i in np.random.default_rng([seed, 8]).permutation(len(keys))[:count]]
    return [(day, author, chosen[(i + 1) % len(chosen)][1]) for i, (day, author, _) in enumerate(chosen)]


def _stream(
    storage: Storage, settings: "Settings", keys: list[Key], sink: Callable[[pa.Table], None]
) -> dict[str, Any]:
    """Sends keys through the engine and each finished batch to `sink`; logs rate and eta.

    The rate leaves out the engine's start: it counts from the first batch that comes back.
    """
    config = settings.anchors
    blocks = key_blocks(keys, config.keys_per_block)
    started, first_at, first_rows, rows = time.perf_counter(), 0.0, 0, 0
    for batch in engine.answers(storage.url, blocks, config.model, config.prompt, config.engine):
        sink(batch)
        now, rows = time.perf_counter(), rows + batch.num_rows
        if not first_at:
            first_at, first_rows = now, rows
        rate = (rows - first_rows) / max(now - first_at, 1e-9)
        log.info(
            "anchors | %d/%d (%.0f %%) | %.1f authors/s | eta %.0f s",
            rows, len(keys), 100 * rows / len(keys), rate, (len(keys) - rows) / max(rate, 1e-9) if rate else 0,
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
        "text": prompt.canonical_text(fields),
        "model": Path(model).name,
        "prompt_hash": prompt.PROMPT_HASH,
        "schema_hash": prompt.SCHEMA_HASH,
        "num_frames": row["num_frames"],
        "num_comments": row["num_comments"],
    }
