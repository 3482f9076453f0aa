"""HitRate@K of a day that the towers have not learnt: how often a click's live is among the K nearest to its user.

On air: among the lives on air at that moment, each as its newest segment that had ended. Overall: among all authors,
each as the newest segment of theirs that had ended, on air or not. Cold: the same for clicks on authors with few
training impressions. A live of which no segment has ended yet is found by nobody, and counts as missed.
Reads examples and item_vectors by the published towers. Memory: the day's clicks and vectors.
Run: python -m pipelines recall --config my.yaml
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch

from models.artifacts.towers import Towers
from models.as_of import newest_segments
from models.config import DayText
from models.hit_rate import NO_END, Candidates, Found, hit_rates, search
from pipelines.ranking import evaluate
from pipelines.retrieval import on_screen
from pipelines.retrieval.clicks import COLUMNS, counts_by_author, viewers_of
from pipelines.retrieval.codes_seen import CodesSeen
from pipelines.retrieval.item_vectors import TABLE, ItemVectorsConfig
from pipelines.retrieval.towers_plan import KIND
from pipelines.runtime.run import Run
from pipelines.samples.batches import take
from pipelines.semantics import segment_vectors
from pipelines.semantics.segment_vectors import Space
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns, to_numpy
from pipelines.tables.contract import ContractError
from pipelines.tables.storage import Storage

log = logging.getLogger(__name__)
Ints = npt.NDArray[np.int64]
_TOGETHER = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class RecallConfig:
    """What is measured."""

    towers: str = KIND
    """Which published towers, as `item_vectors.towers`."""
    day: DayText | None = None
    """Day of examples to score, YYYY-MM-DD; null = the newest."""
    ks: tuple[int, ...] = (10, 50)
    """The K. 1,000 of millions of authors, as in the paper, are K = 50 of some thousands."""
    cold_below: int = 60
    """Authors with fewer training impressions are cold."""
    known_days: int = 7
    """Days up to the one that is scored in which an author was on air to be a candidate."""

    def __post_init__(self) -> None:
        ItemVectorsConfig(towers=self.towers)
        if min(*self.ks, self.known_days, self.cold_below) < 1 or not self.ks:
            raise ValueError(f"wanted ks, cold_below and known_days >= 1, got {self}; correct them")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segments:
    """Segments as vectors of lives, of some days, in any order."""

    author_id: Ints
    live_id: Ints
    end_ts_ms: Ints
    """From then on it is known."""
    vectors: npt.NDArray[np.float32]
    """[S, D]."""

    def of_authors(self) -> Candidates:
        """Each stands for its author until the next one of that author has ended."""
        return Candidates(self.vectors, self.end_ts_ms, self._next(self.author_id))

    def on_air(self) -> Candidates:
        """Each stands for its live until the next one of that live has ended, and no longer than the live goes on."""
        _, live = np.unique(self.live_id, return_inverse=True)
        ends = np.full(live.max(initial=-1) + 1, -NO_END)
        np.maximum.at(ends, live, self.end_ts_ms)
        return Candidates(self.vectors, self.end_ts_ms, np.minimum(self._next(self.live_id), ends[live]))

    def _next(self, of: Ints) -> Ints:
        """[S], when the next segment of the same author, or live, is known; of two at once the later row counts."""
        order = np.lexsort((np.arange(len(of)), self.end_ts_ms, of))
        until = np.full(len(of), NO_END)
        is_same = of[order[1:]] == of[order[:-1]]
        until[order[:-1][is_same]] = self.end_ts_ms[order[1:][is_same]]
        return until


def run(config: RecallConfig, run: Run) -> dict[str, Any]:
    """Measures the published towers on a day."""
    storage, started = run.storage, time.perf_counter()
    folder, manifest = Artifacts(storage).verified(config.towers)
    day = evaluate.day_of(config.day, storage)
    trained = sorted(key.removeprefix("examples/") for key in manifest.made_from if key.startswith("examples/"))
    evaluate.refuse_trained_day(day, trained, config.towers)
    towers = Towers.load(folder)
    space = Space(model=manifest.run_id, width=towers.model.config.dim, table=TABLE)
    figures = measured(storage, towers, published(storage, space, day, config.known_days), day, trained, config)
    log.info("recall | %s | %s | %.1f s", day, figures["hit_rate"], time.perf_counter() - started)
    return {"towers": manifest.run_id, **figures}


def published(storage: Storage, space: Space, day: str, known_days: int) -> Segments:
    """The segments of item_vectors that may be candidates on a day. Raises ContractError where there are none."""
    days = [of for of in on_screen.window(day, known_days) if storage.holds(TABLE, of)]
    parts = [part for of in days for part in segment_vectors.parts(storage, of, space)]
    found = [segment_vectors.read(storage, part, space) for part in parts]
    if not sum(len(of.values) for of in found):
        raise ContractError(
            f"table {TABLE}, {known_days} day(s) up to {day}: wanted vectors of the towers {space.model}, got none; "
            "run the job item_vectors"
        )
    author, live, end = (
        np.concatenate([of.rows[name].to_numpy() for of in found]) for name in ("author_id", "live_id", "end_ts_ms")
    )
    return Segments(author_id=author, live_id=live, end_ts_ms=end, vectors=np.concatenate([of.values for of in found]))


def measured(
    storage: Storage, towers: Towers, segments: Segments, day: str, trained: Sequence[str], config: RecallConfig
) -> dict[str, Any]:
    """HitRates of a day's clicks, whose users see `segments`; `trained` are the days that the towers have learnt."""
    codes = None if towers.codebook is None else _codes(storage, config.towers, towers.codebook, day)
    names = [*COLUMNS, *([] if codes is None else [codes.column])]
    clicks = to_numpy(storage.read("examples", day, names, pc.field("click") == 1))
    users = _users(towers, clicks, codes)
    live, author, at = clicks["live_id"], clicks["author_id"], clicks["ts_ms"]
    own = newest_segments(segments.live_id, segments.end_ts_ms, live, at)[:, 0]
    of_author = newest_segments(segments.author_id, segments.end_ts_ms, author, at)[:, 0]
    found = {
        "on_air": search(users, at, own, segments.on_air()),
        "overall": search(users, at, of_author, segments.of_authors()),
    }
    shown = counts_by_author(storage, trained, towers.catalog, clicked=False).numpy()
    is_cold = shown[towers.catalog.author_rows(author)] < config.cold_below
    return {
        "day": day,
        "clicks": len(at),
        "cold_clicks": int(is_cold.sum()),
        "no_segment_yet": float((own < 0).mean()) if len(own) else 0.0,
        "candidates": {name: float(of.candidates.mean()) if len(at) else 0.0 for name, of in found.items()},
        "hit_rate": _rates(found, is_cold, config.ks),
    }


def _codes(storage: Storage, kind: str, codebook: str, day: str) -> CodesSeen:
    """Those that the towers have learnt. Raises ContractError where the examples have others by now."""
    codes = CodesSeen.of(storage, kind.partition("+")[2], [day])
    if codes.codebook != codebook:
        raise ContractError(
            f"{kind}: wanted examples with codes of the codebook {codebook}, got {codes.codebook}; run the job towers "
            "again"
        )
    return codes


def _rates(
    found: dict[str, Found], is_cold: npt.NDArray[np.bool_], ks: Sequence[int]
) -> dict[str, dict[str, float | None]]:
    """By what is searched, of all clicks and of those on cold authors: by K; None without a click."""
    rates: dict[str, dict[str, float | None]] = {}
    for name, of in found.items():
        for title, ranks in ((name, of.ranks), (f"cold_{name}", of.ranks[is_cold])):
            rates[title] = {str(k): rate if len(ranks) else None for k, rate in hit_rates(ranks, ks).items()}
    return rates


@torch.no_grad()
def _users(towers: Towers, clicks: Columns, codes: CodesSeen | None) -> npt.NDArray[np.float32]:
    """[M, D], each as of its click."""
    parts = [np.zeros((0, towers.model.config.dim), np.float32)]
    for start in range(0, len(clicks["ts_ms"]), _TOGETHER):
        some = take(clicks, slice(start, start + _TOGETHER))
        parts.append(towers.model.viewers(viewers_of(some, towers.catalog, codes)).numpy())
    return np.concatenate(parts)
