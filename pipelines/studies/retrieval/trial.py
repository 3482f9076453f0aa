"""One trial of a study of retrieval: towers of one row and seed, trained and measured in one process, without Ray."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from models.artifacts.towers import Towers
from pipelines.ranking import evaluate
from pipelines.ranking.worker import Worker
from pipelines.retrieval import on_screen, recall
from pipelines.retrieval.clicks import counts_by_author
from pipelines.retrieval.item_vectors import fused
from pipelines.retrieval.recall import Segments
from pipelines.retrieval.tower_loop import fit
from pipelines.retrieval.towers import figures_of
from pipelines.retrieval.towers_plan import make_plan
from pipelines.runtime.freed_memory import keep_freed_memory
from pipelines.semantics import segment_vectors
from pipelines.semantics.segment_vectors import Space
from pipelines.studies.config import TowersRow
from pipelines.studies.retrieval.neighbours import neighbours
from pipelines.tables.storage import Storage

if TYPE_CHECKING:
    from pipelines.settings import Settings

_KEY, _LABELS = ("author_id", "live_id", "segment"), ("theme", "category")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fused:
    """Segments as towers see them."""

    rows: pa.Table
    """[S] author_id, live_id, segment, end_ts_ms."""
    vectors: npt.NDArray[np.float32]
    """[S, D]."""
    gates: npt.NDArray[np.float32]
    """[S], weight of the content."""

    @classmethod
    def of(cls, storage: Storage, towers: Towers, days: Sequence[str]) -> "Fused":
        """Those of days, rounded as the job item_vectors writes them."""
        space = Space(model=towers.embeddings, width=towers.model.facts.embedding_dim)
        parts = [part for day in days for part in segment_vectors.parts(storage, day, space)]
        made = [fused(part, storage.url, space, towers) for part in parts]
        return cls(
            rows=pa.concat_tables([rows for rows, *_ in made]),
            vectors=np.concatenate([vectors.astype(np.float32) for _, vectors, _, _ in made]),
            gates=np.concatenate([gates for _, _, gates, _ in made]),
        )

    @property
    def segments(self) -> Segments:
        """As candidates of a search."""
        author, live, end = (self.rows[name].to_numpy() for name in ("author_id", "live_id", "end_ts_ms"))
        return Segments(author_id=author, live_id=live, end_ts_ms=end, vectors=self.vectors)


def run_trial(settings: "Settings", row: TowersRow, kept: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains one row on one thread, leaves its towers in the folder `kept`, and measures it on the day to score.

    Runs inside a Ray task. Returns the trial's record, and no arrays.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    run = settings.open()
    storage, config = run.storage, replace(settings.recall, towers=row.towers.kind)
    plan, made_from = make_plan(row.towers, run)
    day = evaluate.day_of(config.day, storage)
    evaluate.refuse_trained_day(day, list(plan.days), plan.name)
    with tempfile.TemporaryDirectory() as work:
        folders: list[Path] = []

        def report(_: Any, folder: Path | None) -> None:
            folders.extend([] if folder is None else [folder])

        progress = fit(
            plan, storage, made_from, work=Path(work), worker=Worker(), report=report, log_line=lambda _: None
        )
        towers = Towers.load(folders[-1])
    keep(towers, kept)
    known = [of for of in on_screen.window(day, config.known_days) if storage.holds(segment_vectors.TABLE, of)]
    seen = Fused.of(storage, towers, known)
    record: dict[str, Any] = {"day": day, **figures_of(plan, progress)}
    record["metrics"] = recall.measured(storage, towers, seen.segments, day, list(plan.days), config)
    record["gates"] = _gates(storage, towers, seen, list(plan.days), settings.evaluate.exposure_bounds)
    truth = Storage.open(storage.url, oracle=True)
    if truth.days("oracle_segments"):
        record["neighbours"] = _neighbours(truth, seen, known[:-1])
    return record, {}


def keep(towers: Towers, folder: Path) -> None:
    """Leaves towers in a folder, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "towers"
        made.mkdir()
        towers.save(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _gates(
    storage: Storage, towers: Towers, seen: Fused, trained: Sequence[str], bounds: Sequence[int]
) -> list[dict[str, Any]]:
    """Mean weight of the content in segments, by the training impressions of their author."""
    shown = counts_by_author(storage, trained, towers.catalog, clicked=False).numpy()
    of = shown[towers.catalog.author_rows(seen.rows["author_id"].to_numpy())]
    groups = np.searchsorted(np.array(bounds), of, side="right")
    ends: list[int | None] = [*bounds, None]
    return [
        {"from": 0 if group == 0 else bounds[group - 1], "to": ends[group], "segments": int((groups == group).sum())}
        | {"gate": float(seen.gates[groups == group].mean(dtype=np.float64))}
        for group in np.unique(groups).tolist()
    ]


def _neighbours(truth: Storage, seen: Fused, before: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of authors as they were last known before the day that is scored."""
    named = truth.read_days("oracle_segments", before, [*_KEY, *_LABELS])
    places = pa.array(np.arange(seen.rows.num_rows))
    joined = seen.rows.append_column("place", places).join(named, list(_KEY), join_type="inner")
    joined = joined.sort_by([(name, "ascending") for name in ("author_id", "end_ts_ms", "place")])
    author = joined["author_id"].to_numpy()
    last = joined.take(np.flatnonzero(np.append(author[1:] != author[:-1], True)))
    labels = {name: last[name].to_numpy() for name in _LABELS}
    return neighbours(seen.vectors[last["place"].to_numpy()], labels)
