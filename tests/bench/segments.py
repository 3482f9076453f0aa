"""How fast segments become vectors, where the CPU time goes, and whether a vector depends on its batch.

The real engine on the shipped student. The rate leaves out the engine's start: it counts from the first batch that
comes back. CPU seconds are those of the stages' processes, start included; what is inside the engine's is told apart by
timing its parts alone, one segment at a time. For the difference, a small world is embedded twice: as usual, and with
one segment in the engine at a time.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipelines.semantics import embed_segments, preflight
from pipelines.semantics.budget import Budget
from pipelines.semantics.checkpoint import Checkpoint
from pipelines.semantics.embed_segments import question
from pipelines.semantics.engine import request
from pipelines.semantics.segment_engine import Embedding, SegmentPrompts
from pipelines.semantics.segment_slices import SliceReader, slices_of
from pipelines.semantics.segment_staging import TABLE
from pipelines.settings import Settings, read_settings
from pipelines.tables.storage import Storage, StorageConfig
from pipelines.world import world
from tests.pipelines.jobs import run_job

_STAGES = {
    "GatherSegments": "gather: read, choose frames, prompts",
    "_preprocess": "decode frames",
    "Engine": "engine",
    "VLLM": "engine",
    "_postprocess": "vectors to rows",
    "raylet": "Ray",
    "gcs_server": "Ray",
}
"""Part of a process's command line -> its stage; what is left of Ray's processes is Ray's own."""


def main(argv: list[str]) -> int:
    """Prints a table and one line of JSON; returns 1 where a segment is lost, or a vector depends on its batch."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench segments", description=__doc__)
    parser.add_argument("--config", default="pipelines/configs/demo.yaml", help="configuration whose job is measured")
    parser.add_argument("--authors", type=int, default=800, help="authors on air, six segments a live")
    parser.add_argument("--single", type=int, default=25, help="authors whose segments are embedded one by one, too")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key, repeatable")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        settings = _settings(Path(scratch) / "all", args.authors, args.set)
        run_job(world, settings)
        with _cpu_seconds() as spent:
            figures = run_job(embed_segments, settings)
        parts = _parts(settings)
        difference = _difference(Path(scratch), args.single, args.set)
    rows = figures["rows_in"]
    lost = rows - figures["embedded"] - figures["rejections"]
    print(f"{rows} segments: {figures['embedded']} embedded, {figures['rejections']} rejected, {lost} lost")
    print(f"{figures['segments_per_s']} segments/s after a start of {figures['engine_start_s']} s")
    print(f"{'CPU time of':<40} {'s':>7} {'ms/segment':>11} {'share':>6}")
    for stage, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{stage:<40} {seconds:>7.1f} {1000 * seconds / rows:>11.2f} {seconds / sum(spent.values()):>6.0%}")
    print(f"{'alone, one segment at a time':<40} {'':>7} {'ms/segment':>11}")
    for part, ms in parts.items():
        print(f"{part:<40} {'':>7} {ms:>11.2f}")
    print(f"batched against single: {difference:.1e} at most, in the numbers of vectors of length 1")
    print(json.dumps({"bench": "segments", **figures, "cpu_s": spent, "parts_ms": parts, "difference": difference}))
    return int(bool(lost) or difference > 1e-3)


def _settings(root: Path, authors: int, overrides: list[str]) -> Settings:
    settings = read_settings("pipelines/configs/demo.yaml", overrides)
    return replace(
        settings,
        run_dir=str(root / "run"),
        storage=StorageConfig(root=str(root / "store")),
        world=replace(
            settings.world, num_days=1, warmup_days=0, num_authors=authors, on_air_share=1.0, impressions=False
        ),
    )


@contextmanager
def _cpu_seconds() -> Iterator[dict[str, float]]:
    """CPU seconds of the processes of each stage, and of the driver, while a block runs."""
    by_stage: dict[str, float] = {}
    by_process: dict[int, tuple[str, float]] = {}
    done, me, before = threading.Event(), psutil.Process(), time.process_time()

    def watch() -> None:
        while not done.wait(0.2):
            for process in me.children(recursive=True):
                try:
                    words, used = " ".join(process.cmdline()), process.cpu_times()
                except psutil.Error:
                    continue  # ended meanwhile
                stage = next((name for part, name in _STAGES.items() if part in words), "Ray")
                known, _ = by_process.get(process.pid, (stage, 0.0))
                by_process[process.pid] = (stage if known == "Ray" else known, used.user + used.system)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield by_stage
    finally:
        done.set()
        thread.join()
        for stage, seconds in by_process.values():
            by_stage[stage] = round(by_stage.get(stage, 0.0) + seconds, 2)
        by_stage["driver: staging and commit"] = round(time.process_time() - before, 2)


def _parts(settings: Settings, count: int = 256) -> dict[str, float]:
    """Milliseconds a segment of what the stages do, in this process, by one thread."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(1)
    config, storage = settings.embed_segments, Storage.open(settings.storage.root)
    checkpoint = preflight.look(config.model, use_gpu=False)
    slices = list(slices_of(storage, storage.days("segments")[0]))[: -(-count // 64)]
    reader, rows = SliceReader(storage), sum(each.rows for each in slices)
    parts = {"read segments": _ms(lambda: [reader.read(each) for each in slices], rows)}
    prompts, written = SegmentPrompts(_told(settings, checkpoint)), list[dict[str, Any]]()
    keys = [(each, prompts.open(each)) for each in slices]

    def write() -> None:
        for each, of_slice in keys:
            prompts.open(each)
            written.extend(prompts.of(of_slice))

    parts["choose frames, write prompts"] = _ms(write, rows) - parts["read segments"]
    asked = list[dict[str, Any]]()
    parts["decode frames"] = _ms(lambda: asked.extend(request(row) for row in written), rows)
    processor = AutoProcessor.from_pretrained(config.model)
    model = AutoModelForImageTextToText.from_pretrained(config.model).eval()
    inputs = list[Any]()

    def preprocess() -> None:
        for row, one in zip(written, asked, strict=True):
            images = (one["multimodal_data"] or {}).get("image")
            inputs.append(processor(text=[row["prompt"]], images=images, return_tensors="pt"))

    def forward() -> None:
        with torch.inference_mode():
            for one in inputs:
                model.model(**one)

    parts["preprocess (tokens, pixels), as vLLM does"] = _ms(preprocess, rows)
    parts["the model alone, by transformers"] = _ms(forward, rows)
    return {name: round(ms, 3) for name, ms in parts.items()}


def _told(settings: Settings, checkpoint: Checkpoint) -> Embedding:
    config = settings.embed_segments
    return Embedding(
        root=settings.storage.root,
        model=config.model,
        prompts=config.prompt,
        question=question(config),
        pooling=config.pooling,
        budget=Budget.of(checkpoint, config.prompt, config.engine, question(config)),
    )


def _ms(work: Callable[[], object], rows: int) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started) / rows


def _difference(scratch: Path, authors: int, overrides: list[str]) -> float:
    """The largest difference of a number of a vector between segments asked together and one by one."""
    found = []
    for name, batch in (("together", 64), ("single", 1)):
        settings = _settings(scratch / name, authors, overrides)
        engine = replace(settings.embed_segments.engine, max_num_seqs=batch)
        settings = replace(settings, embed_segments=replace(settings.embed_segments, engine=engine))
        run_job(world, settings)
        run_job(embed_segments, settings)
        storage = Storage.open(settings.storage.root)
        table = storage.read(TABLE, storage.days(TABLE)[0])
        found.append(np.array(table["embedding"].to_pylist(), np.float32))
    return float(np.abs(found[0] - found[1]).max())
