"""The user-sequence ranker: a user's history and candidates in, probabilities out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models import HISTORY_PAD, TASKS
from models.batch import RankingBatch, collate
from models.catalog import Catalog
from serve.schema import HealthResponse, HistoryItem, Misses, RankedCandidate, RankRequest, RankResponse
from serve.snapshot import Bank, Histories, Snapshot
from serve.watcher import NotReadyError, SnapshotWatcher

log = logging.getLogger(__name__)

Lookup = Callable[[str, npt.NDArray[np.int64]], npt.NDArray[np.float32] | None]
"""(bank version, rows [n]) -> vectors [n, 2, D], or None where they cannot be had in time."""

_NOBODY = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionWeights:
    """Exponents of the fused score: the product over tasks of (1 + probability) ** weight."""

    click: float = 1.0
    """Weight of a click."""
    follow: float = 1.0
    """Weight of a follow."""
    long_view: float = 1.0
    """Weight of a long view."""
    gift: float = 1.0
    """Weight of a gift."""

    def __post_init__(self) -> None:
        weights = self.in_order
        if not np.isfinite(weights).all() or max(abs(weights)) > 100 or not weights.any():
            raise ValueError(f"fusion weights must be within -100..100 and not all 0, got {self}")

    @property
    def in_order(self) -> npt.NDArray[np.float64]:
        """[K], in the order of TASKS."""
        return np.array([getattr(self, task) for task in TASKS], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankConfig:
    """How requests are answered."""

    weights: FusionWeights = field(default_factory=FusionWeights)
    """How the tasks are fused into one score."""


class DuplicateCandidatesError(ValueError):
    """A candidate was given twice."""


class UserSequence:
    """Ranks candidates. A plain class: serve/app.py makes it a deployment, tests and benchmarks use it as it is.

    Rows are gathered from the mapping in this process, or by `lookup` where the bank lives elsewhere. Safe to call from
    several threads: a call reads the watcher once and keeps nothing.
    """

    def __init__(
        self, watcher: SnapshotWatcher[Snapshot], config: RankConfig | None = None, lookup: Lookup | None = None
    ) -> None:
        self._watcher, self._lookup = watcher, lookup
        self._weights = (config or RankConfig()).weights.in_order

    def rank(self, request: RankRequest) -> RankResponse:
        """Candidates in descending order of the fused score, with probabilities and flags.

        Raises DuplicateCandidatesError naming the id, and NotReadyError before a first version is loaded.
        """
        _refuse_duplicates(request.candidates)
        snapshot = self._watcher.current
        now_ms = time.time_ns() // 1_000_000
        columns = request_columns(request, snapshot.histories, now_ms if request.context.ts_ms is None else None)
        batch = request_batch(columns, snapshot.bank.catalog)
        vectors, degraded = self._gather(snapshot.bank, batch)
        probabilities = score(snapshot, batch, vectors)
        known = batch.author.numpy() > 0
        return RankResponse.model_construct(
            candidates=ranked(request.candidates, probabilities, known, self._weights),
            user_known=bool(batch.user[0] > 0),
            history_used=int(batch.history_mask[0].sum()),
            misses=Misses(
                candidates=int((~known).sum()),
                history=int((batch.history_mask[0] & (batch.history[0] == 0)).sum()),
            ),
            bank_version=snapshot.bank.version,
            model_version=snapshot.bank.model_version,
            bank_age_s=snapshot.bank.age_s(now_ms),
            degraded=degraded,
        )

    def health(self) -> HealthResponse:
        """Whether requests can be ranked, and from which versions."""
        try:
            bank = self._watcher.current.bank
        except NotReadyError:
            # Health is open to all, and the message may hold paths: it stays behind the token.
            return HealthResponse(ready=False, reason="no bank is loaded yet; GET /bank says why")
        return HealthResponse(ready=True, bank_version=bank.version, model_version=bank.model_version)

    def _gather(self, bank: Bank, batch: RankingBatch) -> tuple[npt.NDArray[np.float32], bool]:
        """Vectors [C + L, 2, D] of candidates, then history; and whether they had to be replaced by cold-start ones."""
        rows = np.concatenate([batch.author.numpy(), batch.history[0].numpy()])
        if self._lookup is None:
            return bank.vectors[rows], False
        unique, positions = np.unique(rows, return_inverse=True)
        found = self._lookup(bank.version, unique)
        if found is None or found.shape != (len(unique), *bank.cold_start.shape):
            return np.broadcast_to(bank.cold_start, (len(rows), *bank.cold_start.shape)).copy(), True
        return found[positions], False


def request_columns(request: RankRequest, histories: Histories, now_ms: int | None) -> dict[str, npt.NDArray[Any]]:
    """One request as columns of example rows: C rows of candidates, and the one history of all, [1, L].

    Items that are not earlier than the request are left out, as in training; of the others the newest stay, as many as
    the model was trained with. An empty history is one padding item.
    """
    ts_ms = now_ms if now_ms is not None else request.context.ts_ms
    if request.history is None:
        authors, times, watched = histories.of_user(request.user_id)
    else:
        authors, times, watched = _given_history(request.history)
    earlier = np.flatnonzero(times < ts_ms)[-histories.length :]
    authors, ages_s = authors[earlier], ((ts_ms - times[earlier]) / 1000).astype(np.float32)
    # What the user watched is known when they leave; before that it is the time that has passed, as in training.
    watched_s = np.minimum(watched[earlier], ages_s)
    if not len(authors):
        authors, ages_s, watched_s = np.array([HISTORY_PAD]), np.zeros(1, np.float32), np.zeros(1, np.float32)
    size = len(request.candidates)
    return {
        "user_id": np.full(size, request.user_id, np.int64),
        "author_id": np.array(request.candidates, np.int64),
        "ts_ms": np.full(size, ts_ms, np.int64),
        "history_author_ids": authors.astype(np.int64)[None],
        "history_age_s": ages_s[None],
        "history_watch_s": watched_s[None],
    }


def _given_history(items: list[HistoryItem]) -> tuple[npt.NDArray[Any], ...]:
    ordered = sorted(items, key=lambda item: item.ts_ms)
    # The id that stands for padding is an author like any other unknown one when a request names it.
    ids = [_NOBODY if item.author_id == HISTORY_PAD else item.author_id for item in ordered]
    times = np.array([item.ts_ms for item in ordered], np.int64)
    return np.array(ids, np.int64), times, np.array([item.watch_time_s for item in ordered], np.float32)


def request_batch(columns: dict[str, npt.NDArray[Any]], catalog: Catalog) -> RankingBatch:
    """The batch of one request, through the same `collate` as training; the history is a view of one row, not C."""
    history = {name: column for name, column in columns.items() if name.startswith("history_")}
    once = collate({name: column[:1] for name, column in columns.items()} | history, catalog)
    size = len(columns["user_id"])
    empty = {name: np.empty((size, 0), column.dtype) for name, column in history.items()}
    batch = collate(columns | empty, catalog)
    return batch._replace(
        history=once.history.expand(size, -1),
        history_mask=once.history_mask.expand(size, -1),
        history_age_s=once.history_age_s.expand(size, -1),
        history_watch_s=once.history_watch_s.expand(size, -1),
    )


def score(snapshot: Snapshot, batch: RankingBatch, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities [C, K]; `vectors` [C + L, 2, D] are those of the candidates, then of the history."""
    size = batch.size
    with torch.inference_mode():
        cls, tar = torch.from_numpy(vectors[:size]).unbind(dim=1)
        history = torch.from_numpy(vectors[size:, snapshot.model.history_part])[None]
        probabilities: npt.NDArray[np.float32] = snapshot.model.score_candidates(batch, cls, tar, history).numpy()
    return probabilities


def fuse(probabilities: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities [C, K] -> scores [C]."""
    scores: npt.NDArray[np.float64] = ((1.0 + probabilities.astype(np.float64)) ** weights).prod(axis=1)
    return scores


def ranked(
    candidates: list[int],
    probabilities: npt.NDArray[np.float32],
    known: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
) -> list[RankedCandidate]:
    """The answer's rows, descending by score; equal scores keep the order of the request."""
    scores = fuse(probabilities, weights)
    order = np.argsort(-scores, kind="stable")
    columns = (
        np.array(candidates, np.int64)[order].tolist(),
        scores[order].tolist(),
        *probabilities[order].T.tolist(),
        known[order].tolist(),
    )
    return [RankedCandidate(*row) for row in zip(*columns, strict=True)]


def _refuse_duplicates(candidates: list[int]) -> None:
    if len(set(candidates)) == len(candidates):
        return
    seen: set[int] = set()
    for author_id in candidates:
        if author_id in seen:
            raise DuplicateCandidatesError(f"candidates holds author {author_id} twice; give each candidate once")
        seen.add(author_id)
