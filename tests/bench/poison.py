"""Poisoned rows in an anchor batch: 1 % of the authors have rows of a kind that once broke a batch or a worker.

Every author must end with an anchor or a rejection, and every other author with an anchor, in bounded memory. The real
engine on the shipped student; one row kills it each time.
"""

import argparse
import io
import json
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.semantics import anchors, engine_pool
from pipelines.settings import Settings, read_settings
from pipelines.tables import contract
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from tests.pipelines.jobs import run_job

Row = dict[str, Any]
LARGE = 13_000
"""Side of the largest frames, pixels: 507 MB each once decoded."""
KILLS = "kernel of death"
"""Said by the author whose row no engine survives (killed_engine.py)."""
_STAGE = re.compile(r"ray::\w+\((\w+)\)|ray::MapWorker\(MapBatches\((\w+)\)\)|(VLLM::\w+)")


def _picture(size: tuple[int, int], mode: str = "RGB", form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form)
    return buffer.getvalue()


def _frames(row: Row, jpeg: bytes) -> None:
    row["frames"] = [{"offset_ms": 1000 * number, "jpeg": jpeg} for number in range(4)]


def _kinds() -> dict[str, Callable[[Row], None]]:
    """What is done to the segments of an author, by name."""
    large, cut = _picture((LARGE, LARGE)), _picture((64, 64))[:200]
    comment = {"user_id": 1, "offset_ms": 0, "text": "hi", "engagement": 1.0}
    return {
        "a null frame": lambda row: row.update(frames=[None, *row["frames"]]),
        "frames without bytes": lambda row: row.update(frames=[{"offset_ms": 0, "jpeg": None}]),
        "frames that break off": lambda row: _frames(row, cut),
        "frames that are no picture": lambda row: _frames(row, b"no picture"),
        "frames of one pixel": lambda row: _frames(row, _picture((1, 1))),
        "frames of 13,000 x 13,000": lambda row: _frames(row, large),
        "frames as PNG": lambda row: _frames(row, _picture((64, 64), form="PNG")),
        "frames in CMYK": lambda row: _frames(row, _picture((64, 64), mode="CMYK")),
        "frames 1 x 4,000": lambda row: _frames(row, _picture((1, 4000))),
        "a null comment": lambda row: row.update(comments=[None, comment]),
        "a comment without text": lambda row: row.update(comments=[comment | {"text": None}]),
        "an engagement that is NaN": lambda row: row.update(comments=[comment | {"engagement": float("nan")}] * 3),
        "a comment of a megabyte": lambda row: row.update(comments=[comment | {"text": "word " * 200_000}] * 3),
        "control tokens": lambda row: row.update(speech="<|im_end|><|image_pad|><|vision_start|>" * 50),
        "speech of a megabyte": lambda row: row.update(speech="\u4f60\u597d " * 250_000),
        "a row that kills the engine": lambda row: row.update(speech=KILLS),
        "zero bytes": lambda row: row.update(speech="a\0b" * 100),
    }


def _poison(storage: Storage, share: float) -> dict[int, str]:
    """Writes the day's segments again, as a user would who brings them; by author, what was done to it."""
    (day,) = storage.days("segments")
    rows = storage.read("segments", day).to_pylist()
    authors, kinds = sorted({row["author_id"] for row in rows}), _kinds()
    count = max(len(kinds), int(share * len(authors)))
    names = list(kinds)
    by_author = {author: names[at % len(names)] for at, author in enumerate(authors[:: len(authors) // count][:count])}
    for row in rows:
        if row["author_id"] in by_author:
            kinds[by_author[row["author_id"]]](row)
    folder = Path(storage.folder("segments", day))
    for file in folder.iterdir():
        file.unlink()
    schema = pa.schema([field.with_nullable(True) for field in contract.spec("segments").schema])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "brought.parquet", row_group_size=64)
    return by_author


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 1 where an author is missing or a good one has no anchor."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench poison", description=__doc__)
    parser.add_argument("--authors", type=int, default=2000, help="authors on air")
    parser.add_argument("--share", type=float, default=0.01, help="share of them that is poisoned")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        settings = _settings(Path(scratch), args.authors, args.set)
        run_job(world, settings)
        storage = Storage.open(settings.storage.root)
        by_author = _poison(storage, args.share)
        engine_pool.ENGINE = "tests.bench.killed_engine:KilledEngine"
        with _peaks() as peaks:
            figures = run_job(anchors, settings)
        (day,) = storage.days("anchors")
        anchored = set(storage.read("anchors", day)["author_id"].to_pylist())
        rejected = {row["key"]: row for row in storage.read("rejections", day).to_pylist() if row["stage"] == "anchors"}
        all_authors = set(storage.read("segments", day, ["author_id"])["author_id"].to_pylist())
    rows = []
    for author, kind in by_author.items():
        row = rejected.get(str(author))
        rows.append({"kind": kind, "end": "anchor" if author in anchored else row and row["reason"]})
        print(f"{kind:<28} {rows[-1]['end']!s:<16} {(row['detail'] if row else '')[:90]}")
    lost = sorted(all_authors - anchored - {int(key) for key in rejected})
    harmed = sorted(all_authors - anchored - set(by_author))
    ends = f"{len(lost)} lost, {len(harmed)} good ones without an anchor"
    print(f"{len(all_authors)} authors, {len(by_author)} poisoned | {ends}")
    print(f"most memory, MiB: {', '.join(f'{stage} {mib}' for stage, mib in sorted(peaks.items()))}")
    print(
        json.dumps({"bench": "poison", **figures, "rows": rows, "lost": len(lost), "harmed": len(harmed), "mib": peaks})
    )
    return int(bool(lost or harmed))


@contextmanager
def _peaks() -> Iterator[dict[str, int]]:
    """The largest resident memory of a process of each stage while a block runs, MiB."""
    found: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                try:
                    if stage := _STAGE.search(" ".join(process.cmdline())):
                        name = next(filter(None, stage.groups()))
                        found[name] = max(found.get(name, 0), process.memory_info().rss // 2**20)
                except psutil.Error:
                    continue  # ended meanwhile

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def _settings(scratch: Path, authors: int, overrides: list[str]) -> Settings:
    settings = read_settings("pipelines/configs/demo.yaml", overrides)
    return replace(
        settings,
        run_dir=str(scratch / "run"),
        storage=StorageConfig(root=str(scratch / "store")),
        world=replace(
            settings.world, num_days=1, warmup_days=0, num_authors=authors, on_air_share=1.0, impressions=False
        ),
    )
