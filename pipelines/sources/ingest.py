"""`ingest`: a folder of videos, with chat and transcripts where there are some, becomes one day of segments.

    source/<author>/<live>.mp4                  one folder per author, one video per live, see folder.py
    source/<author>/<live>.chat.json            optional, one of the names of beside/names.py, in any shape of
    source/<author>/<live>.transcript.jsonl     beside/chat.py, danmaku.py, transcript.py and captions.py

Every file that it finds has a row in `ingest_report`: what was found in it, used and left out, and why.

Run: python -m pipelines ingest --config pipelines/configs/videos.yaml --set ingest.source=DIR
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.config import PathText
from pipelines.pages import report_json
from pipelines.runtime.cluster import connected
from pipelines.runtime.config import ConfigError, to_dict
from pipelines.runtime.run import Run
from pipelines.sources import folder, ingest_report
from pipelines.sources.folder import Clip, Found
from pipelines.sources.rows import author_row, stable_id
from pipelines.sources.sampling import Sampling
from pipelines.tables import contract, newest, rejections
from pipelines.tables.contract import ContractError
from pipelines.tables.guard import Guard
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
STAGE = "ingest"
BYTES_PER_FILE = 64 * 2**20
MAX_BLOCKS = 1000


@dataclass(frozen=True, kw_only=True)
class IngestConfig(Sampling):
    """What to ingest, as which day."""

    source: PathText = "videos"
    """Folder of author folders; every node of the cluster must see it under this path."""
    day: date = date(2026, 1, 1)
    """The day that the videos belong to. Lives start at its midnight, UTC: a video file tells no time."""
    concurrency: int = 4
    """Videos decoded at a time, each on one CPU."""
    replace: bool = False
    """Whether a day may be replaced by one that lacks most of its rows (storage.least_share)."""

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        if self.concurrency < 1:
            raise ValueError(f"concurrency: wanted at least 1, got {self.concurrency}")


def run(config: IngestConfig, run: Run) -> dict[str, Any]:
    """Reads videos, chat and transcripts; writes `segments`, `authors`, `ingest_report` and its rows of `rejections`
    of one day.

    Does nothing where the day was made from the same files with the same settings. Raises ConfigError for a source
    folder that is missing or holds no video.
    """
    day = config.day.isoformat()
    found = folder.find(_folder(config.source))
    if not found.clips and not found.refused:
        raise ConfigError(_no_video(config.source, found))
    storage = run.storage
    made_from = {"config": _settings_hash(config), "source": _source_hash(found)}
    if all(storage.is_current(table, day, made_from) for table in ("segments", ingest_report.TABLE, "authors")):
        log.info("ingest | day %s is up to date | nothing to do", day)
        return {**_counts(storage, day), "skipped": True}
    started = time.perf_counter()
    guard = run.guard(STAGE, config.replace)
    _check_authors(guard, storage, day, found.clips)
    _say_other_days(found.clips, config.day)
    progress = _Progress(len(found.clips), found)
    with storage.lease("segments", day):
        with connected(run.cluster):
            tables = progress.segments(_decoded(found.clips, config))
            storage.guarded(guard).write("segments", day, _files(tables, BYTES_PER_FILE), made_from)
        rejections.replace(storage, day, STAGE, progress.refused)
        ingest_report.write(storage, day, progress.files, made_from)
        storage.write("authors", day, _authors(storage, day, progress.authors), made_from)  # last: the day is done
    newest.carry(storage, "authors", until=day)
    ingest_report.say(storage, day)
    counts = {**_counts(storage, day), "seconds": round(time.perf_counter() - started, 3)}
    report_json.merge(run.folder, STAGE, counts)
    return {**counts, "skipped": False}


def _folder(source: str) -> str:
    path = Path(source).resolve()
    if not path.is_dir():
        raise ConfigError(
            f"ingest.source {source}: wanted a folder, got none there; name it with --set ingest.source=DIR"
        )
    return str(path)


def _no_video(source: str, found: Found) -> str:
    left = f" (left out: {ingest_report.first_reasons(found.left_out)})" if found.left_out else ""
    return (
        f"ingest.source {source}: wanted author folders that hold videos, got none{left}; put each author's videos "
        f"into a sub-folder named after the author (endings: {', '.join(sorted(folder.EXTENSIONS))})"
    )


def _check_authors(guard: Guard, storage: Storage, day: str, clips: Sequence[Clip]) -> None:
    """Logs which day is written, and refuses a source without most of its authors before anything is decoded."""
    log.info("ingest | writes day %s (ingest.day)", day)
    if not storage.holds("segments", day):
        return
    try:
        before = set(storage.read("segments", day, ["author_id"])["author_id"].to_pylist())
    except ContractError as error:  # what cannot be read can still be replaced
        log.warning("ingest | what day %s held cannot be read: %s", day, error)
        return
    now = {clip.ids[0] for clip in clips}
    where = f"table segments, day {day} (ingest.day)"
    guard.check(where, unit="authors", old=len(before), kept=len(before & now), new=len(now))


def _say_other_days(clips: Sequence[Clip], day: date) -> None:
    """Warns of folders that are named after other days: the day is ingest.day alone."""
    others = [clip.file for clip in clips if _days_in(clip.file) - {day}]
    if others:
        log.warning(
            "ingest | %d video(s) lie in folders named after other days, the first %s | all are written as day %s, and "
            "the first folder names the author",
            len(others),
            others[0],
            day.isoformat(),
        )


def _days_in(file: str) -> set[date]:
    """The days that folders of a path are named after."""
    days = set()
    for part in PurePosixPath(file).parts[:-1]:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", part):
            with suppress(ValueError):  # a name that looks like a day, such as 2026-99-99
                days.add(date.fromisoformat(part))
    return days


def _settings_hash(config: IngestConfig) -> str:
    """Hash of the settings that change the rows: not where the files lie, nor how many are read at a time."""
    kept = {name: value for name, value in to_dict(config).items() if name not in ("source", "concurrency", "replace")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _source_hash(found: Found) -> str:
    """Hash of the files' names, sizes and times."""
    digest = hashlib.sha256(repr((found.refused, found.left_out)).encode())
    for clip in found.clips:
        for file in (clip.file, *clip.beside):
            state = Path(clip.path(file)).stat()
            digest.update(repr((clip.key, file, state.st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()


def _decoded(videos: Sequence[Clip], config: IngestConfig) -> Iterator[pa.Table]:
    """Tables of schema clips.DECODED in the order of `videos`, decoded by Ray Data."""
    import ray.data

    from pipelines.sources import clips

    if not videos:
        return
    # Of one type in every block, also where no file lies beside a video.
    table = pa.Table.from_pylist([asdict(clip) for clip in videos], schema=clips.CLIPS)
    step = -(-len(videos) // MAX_BLOCKS)
    items = ray.data.from_arrow([table.slice(at, step) for at in range(0, len(videos), step)])
    items.context.execution_options.preserve_order = True
    items.context.enable_progress_bars = False
    sampling = Sampling(**{name: getattr(config, name) for name in Sampling.__dataclass_fields__})
    decoded = items.map_batches(
        clips.decode,
        fn_kwargs={"sampling": sampling, "day": config.day},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.TaskPoolStrategy(size=min(config.concurrency, len(videos))),
    )
    yield from decoded.iter_batches(batch_size=None, batch_format="pyarrow")


class _Progress:
    """Splits what the workers send into segments and rejections, and logs a line per video."""

    def __init__(self, total: int, found: Found) -> None:
        self.refused = list(found.refused)
        self.files = list(found.left_out)
        self.authors: set[str] = set()
        self._total = total
        self._done = 0
        self._segments = 0
        self._started = 0.0

    def segments(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Rows of `segments`, as they come."""
        names = contract.spec("segments").schema.names
        self._started = time.perf_counter()
        for table in tables:
            for row in table.select(["done", "rejected", "files"]).to_pylist():
                if row["done"] is None:
                    self._segments += 1
                else:
                    self.files.extend(row["files"])
                    video = row["files"][0]
                    self._finish(row["done"], row["rejected"], "" if video["left_out"] else video["why"])
            rows = table.filter(pc.is_null(table["done"])).select(names)
            if rows.num_rows:
                yield rows

    def _finish(self, key: str, refused: Sequence[dict[str, str]], notes: str) -> None:
        self._done += 1
        if self._segments:
            self.authors.add(key.partition("/")[0])
        self.refused.extend(refused)
        rate = self._done / max(time.perf_counter() - self._started, 1e-9)
        log.info(
            "ingest %d/%d (%.0f %%) | %s | %d segment(s) | %.2f videos/s | eta %.0f s%s%s",
            self._done,
            self._total,
            100 * self._done / self._total,
            key,
            self._segments,
            rate,
            (self._total - self._done) / rate,
            f" | {notes}" if notes else "",
            "".join(f" | rejected: {row['reason']}: {row['detail']}" for row in refused),
        )
        self._segments = 0


def _files(tables: Iterable[pa.Table], limit_bytes: int) -> Iterator[pa.Table]:
    """Joins small tables until they fill a file, so that memory and the number of files are both bounded."""
    waiting: list[pa.Table] = []
    for table in tables:
        if waiting and sum(t.nbytes for t in waiting) + table.nbytes > limit_bytes:
            yield pa.concat_tables(waiting)
            waiting = []
        waiting.append(table)
    if waiting:
        yield pa.concat_tables(waiting)


def _authors(storage: Storage, day: str, names: Iterable[str]) -> list[pa.Table]:
    """Rows of `authors`: what earlier days knew of an author, else the folder's name as the profile."""
    names = list(names)
    ours = pc.field("author_id").isin(pa.array(map(stable_id, names), pa.int64()))
    columns = contract.spec("authors").schema.names
    earlier = newest.read(storage, "authors", before=day, columns=columns, where=ours)
    by_author = {row["author_id"]: row for row in earlier.to_pylist()}
    rows = []
    for name in names:
        profile = " ".join(name.replace("-", " ").replace("_", " ").split())
        new = author_row(stable_id(name), profile, None, [], day)
        rows.append(by_author.get(new["author_id"], new))
    if not rows:
        return []
    return [pa.Table.from_pylist(rows, schema=contract.spec("authors").schema).sort_by("author_id")]


def _counts(storage: Storage, day: str) -> dict[str, Any]:
    """What the day holds, read from its tables."""
    lives = storage.read("segments", day, ["author_id", "live_id"])
    return {
        "clips": len(pc.unique(lives["live_id"])),
        "segments": lives.num_rows,
        "rejections": rejections.of_stage(storage, day, STAGE).num_rows,
        "authors": len(pc.unique(lives["author_id"])),
        "files": ingest_report.sums(storage, day),
    }
