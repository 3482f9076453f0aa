"""The live part of the demo, in small: a world whose screens move, as vectors, as codes, and as lives that are found.

It lives in a store of its own below the run's folder. The retrieval model is trained twice, by authors' ids alone and
with what is on screen; the second one and its index are then published beside the demo's bank, so that one endpoint
answers for both.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.as_of import Ints
from models.code_quality import purities
from pipelines.demo.config import LiveDemoConfig
from pipelines.retrieval import index, item_vectors, recall, towers, towers_plan
from pipelines.retrieval.index import IndexConfig
from pipelines.runtime.run import Run
from pipelines.samples import examples
from pipelines.samples.examples import ExamplesConfig
from pipelines.semantics import codes, embed_segments
from pipelines.semantics.embed_segments import EmbedSegmentsConfig
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns, to_numpy
from pipelines.tables.contract import SEGMENT_MS
from pipelines.tables.storage import Storage
from pipelines.world import world

FOLDER = "live"
TOWERS = ("id", "gated")
"""What the items of the retrieval model are made of, the one that is published last."""
_SEED = 2000
_WORLD = ("authors", "lives", "segments", "impressions", "next_act_best_accuracy", "next_act_repeat_accuracy")


def own(run: Run) -> Run:
    """The run of the live part: its own seed, folder and store."""
    folder = run.folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return replace(run, seed=run.seed + _SEED, folder=folder, storage=Storage.open(str(folder / "store")))


def make(config: LiveDemoConfig, embedding: EmbedSegmentsConfig, histories: ExamplesConfig, run: Run) -> dict[str, Any]:
    """Runs the jobs, and returns what they measured; `run` is that of `own`."""
    made = world.run(config.world, run)
    embedded = embed_segments.run(embedding, run)
    codes.run(config.codes, run)
    examples.run(histories, run)
    measured = {parts: _towers(config, run, parts) for parts in TOWERS}
    return {
        "world": {name: made[name] for name in _WORLD},
        "embedded": embedded["embedded"],
        "segments_per_s": embedded["segments_per_s"],
        "purity": _purity(run.storage.with_oracle()),
        "towers": measured,
    }


def _towers(config: LiveDemoConfig, run: Run, parts: str) -> dict[str, Any]:
    """Trains and measures the retrieval model, whose vectors of segments then replace those that are there."""
    trained = towers.run(replace(config.towers, model=replace(config.towers.model, parts=parts)), run)
    item_vectors.run(config.item_vectors, run)
    found = recall.run(config.recall, run)
    kept = ("clicks", "candidates", "hit_rate")
    return {"gate": trained.get("gate"), "seconds": trained.get("seconds")} | {name: found[name] for name in kept}


def newest_segments_of(storage: Storage) -> Columns:
    """The newest day's segments with what they really show and their codes, by live and time."""
    day = storage.days("segment_codes")[-1]
    order = [("live_id", "ascending"), ("segment", "ascending")]
    coded, true = (to_numpy(storage.read(name, day).sort_by(order)) for name in ("segment_codes", "oracle_segments"))
    row_of = {key: row for row, key in enumerate(zip(*(true[name].tolist() for name, _ in order), strict=True))}
    rows = [row_of[key] for key in zip(*(coded[name].tolist() for name, _ in order), strict=True)]
    return {name: column[rows] for name, column in true.items()} | coded


def _purity(storage: Storage) -> list[dict[str, Any]]:
    """How pure the newest day's codes are, by what a segment really shows and by the levels of codes that are read."""
    shown = newest_segments_of(storage)
    found = []
    for label in ("category", "scene"):
        names, labels = np.unique(shown[label].astype(str), return_inverse=True)
        for level, of in enumerate(purities(shown["codes"], labels), start=1):
            found.append({"label": label, "labels": len(names), "levels": level, **of})
    return found


def busiest_moment(shown: Columns, later_ms: int) -> int:
    """The moment, in steps of a segment, at which most lives go on for `later_ms` more, ms since 1970."""
    lives, where = np.unique(shown["live_id"], return_inverse=True)
    first, last = np.full(len(lives), np.iinfo(np.int64).max), np.zeros(len(lives), np.int64)
    np.minimum.at(first, where, shown["end_ts_ms"])
    np.maximum.at(last, where, shown["end_ts_ms"])
    moments: Ints = np.arange(first.min(), last.max(), SEGMENT_MS)
    on_air = (first <= moments[:, None]) & (moments[:, None] + later_ms < last)
    return int(moments[on_air.sum(axis=1).argmax()])


def publish(run: Run, beside: Storage, until_ts_ms: int) -> Mapping[str, Any]:
    """Makes the index of a moment, and publishes it and its towers beside the bank of another store."""
    made = index.run(IndexConfig(until_ts_ms=until_ts_ms), run)
    for kind in (towers_plan.KIND, index.KIND):
        folder, manifest = Artifacts(run.storage).verified(kind)
        with tempfile.TemporaryDirectory() as scratch:
            for name in manifest.files:
                shutil.copy(folder / name, Path(scratch) / name)
            Artifacts(beside).publish(kind, Path(scratch), manifest.run_id, manifest.made_from)
    return made
