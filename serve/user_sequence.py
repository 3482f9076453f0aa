"""The user-sequence ranker: a user's history and candidates in, probabilities out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from models import HISTORY, ON_SCREEN
from models.artifacts.bank import Array
from models.artifacts.screens import CODES, NONE
from models.batch import OnScreen, RankingBatch, collate
from models.catalog import Catalog
from models.history import HISTORY_PAD, HistoryRule, known_at
from models.scoring import RequestRows
from serve.args import fusion_weights
from serve.observe import Mark, unmarked
from serve.on_screen import Beside, Seen, alone, newest_ms, seen
from serve.online import Clicks, Filled, Online
from serve.schema import HealthResponse, Misses, RankRequest, RankResponse, answer_of
from serve.snapshot import Bank, Gathered, Moment, Snapshot
from serve.watcher import NotReadyError, SnapshotWatcher

log = logging.getLogger(__name__)

States = Mapping[str, Array]
"""By source of the ranker: [n, ...], what it knows of n authors."""
Lookup = Callable[[str, int, npt.NDArray[np.int64]], Gathered | None]
"""(bank version, delta, rows [n]) -> states of those rows and the moment that they are all of, which may be another
delta's of that version; None where they cannot be had in time."""

_OF_HISTORY = ("history_mask", "history_age_s", "history_watch_s")
_WARM_CANDIDATES, _WARM_TIMES = 100, 20
_NOBODY = int(np.iinfo(np.int64).min)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class RankConfig:
    """How requests are answered."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """How the tasks are fused into one score: see `fusion_weights`."""


class DuplicateCandidatesError(ValueError):
    """A candidate was given twice."""


class DamagedError(RuntimeError):
    """What was whole when it was loaded no longer is: someone writes to files that are in use."""


class UserSequence:
    """Ranks candidates. A plain class: serve/app.py makes it a deployment, tests and benchmarks use it as it is.

    Rows are gathered from the mapping in this process, or by `lookup` where the bank lives elsewhere. Safe to call from
    several threads: a call reads the watcher once and keeps nothing.
    """

    def __init__(
        self,
        watcher: SnapshotWatcher[Snapshot],
        config: RankConfig | None = None,
        lookup: Lookup | None = None,
        online: Online | None = None,
        beside: Beside = alone,
    ) -> None:
        """Without `online` a request that brings no history has the published one; `beside` says what came on screen
        since the bank was made."""
        self._watcher, self._lookup, self._online = watcher, lookup, online or Online()
        self._beside = beside
        self._weights = (config or RankConfig()).weights

    def rank(self, request: RankRequest) -> RankResponse:
        """Candidates in descending order of the fused score, with probabilities and flags.

        Raises DuplicateCandidatesError naming the id, NotReadyError before a first version is loaded, ValueError for
        weights that do not fit its tasks, DamagedError where a score is not a number, and as `Online.fill`.
        """
        return self.rank_many([request])[0]

    def rank_many(self, requests: Sequence[RankRequest], mark: Mark = unmarked) -> list[RankResponse]:
        """An answer to each request, all from one version; `mark` is told where a stage ends. Raises as `rank`."""
        snapshot, now_ms = self._watcher.current, time.time_ns() // 1_000_000
        filled = self._online.fill(requests, snapshot.histories, now_ms)
        mark("history")
        for index, each in enumerate(filled):
            _refuse_duplicates(each.candidates, f"requests[{index}]." if len(requests) > 1 else "")
        asked = [self._asked(snapshot, each, now_ms) for each in filled]
        mark("gather")
        scores = snapshot.scorer.score([each.rows for each in asked])
        if not all(score.isfinite().all() for score in scores):
            raise DamagedError(
                f"scores of bank {snapshot.version} are not numbers: its files, or those of model "
                f"{snapshot.bank.model_version}, were written to while in use; publish again under a new run id"
            )
        mark("forward")
        weights = fusion_weights(self._weights, snapshot.tasks)
        answers = [
            answered(snapshot, each, score.numpy(), weights, now_ms) for each, score in zip(asked, scores, strict=True)
        ]
        mark("answer")
        return answers

    def history_of(self, request: RankRequest) -> list[int]:
        """Different authors of the history with which the request would be ranked, newest first."""
        snapshot, now_ms = self._watcher.current, time.time_ns() // 1_000_000
        (filled,) = self._online.fill([request], snapshot.histories, now_ms)
        ids = request_columns(filled, snapshot.histories.rule, now_ms)["history_author_ids"][0, ::-1].tolist()
        return [author_id for author_id in dict.fromkeys(ids) if author_id != HISTORY_PAD]

    def _asked(self, snapshot: Snapshot, filled: Filled, now_ms: int) -> Asked:
        told, screen_age_s = {}, None
        if snapshot.screens:
            ts_ms, screens = filled.request.ts_ms(now_ms), self._beside(snapshot.screens)
            told = seen(screens, snapshot.histories, filled, ts_ms)
            if (known_ms := newest_ms(screens)) is not None:
                screen_age_s = max(0.0, (ts_ms - known_ms) / 1000.0)
        columns = request_columns(filled, snapshot.histories.rule, now_ms, told)
        batch, which = request_batch(columns, snapshot.bank.catalog)
        read = batch.history[0] if reads_history(snapshot) else batch.history[0, :0]
        states, moment, degraded = self._gather(snapshot.bank, np.concatenate([batch.author.numpy(), read.numpy()]))
        rows, degraded = request_rows(snapshot, batch, states), degraded or filled.degraded
        return Asked(filled, rows, which, moment, screen_age_s, degraded)

    def warm_up(self) -> None:
        """Ranks a few times for nobody, where a version is loaded: the first requests of a process take longest."""
        for loaded in self._watcher.loaded[:1]:
            candidates = loaded.bank.catalog.author_ids[:_WARM_CANDIDATES].tolist()
            for _ in range(_WARM_TIMES if candidates else 0):
                self.rank(RankRequest(user_id=_NOBODY, candidates=candidates))

    def health(self) -> HealthResponse:
        """Whether requests can be ranked, and from which versions."""
        try:
            bank = self._watcher.current.bank
        except NotReadyError:
            # Health is open to all, and the message may hold paths: it stays behind the token.
            return HealthResponse(ready=False, reason="no bank is loaded yet; GET /bank says why")
        return HealthResponse(
            ready=True,
            bank_version=bank.version,
            bank_delta=bank.moment.delta,
            bank_until=bank.moment.until,
            bank_until_age_s=bank.moment.age_s(time.time_ns() // 1_000_000),
            model_version=bank.model_version,
            stale=self._watcher.is_stale,
        )

    def _gather(self, bank: Bank, rows: npt.NDArray[np.int64]) -> tuple[States, Moment, bool]:
        """States [n, ...] of rows [n]; the moment that they are of; and whether they had to be replaced by cold-start
        ones."""
        if self._lookup is None:
            return bank.gather(rows), bank.moment, False
        unique, positions = np.unique(rows, return_inverse=True)
        found = self._lookup(bank.version, bank.moment.delta, unique)
        wanted = {name: (len(unique), *row.shape) for name, row in bank.cold_start.items()}
        if found is None or {name: state.shape for name, state in found.states.items()} != wanted:
            cold = {name: np.repeat(row[None], len(rows), axis=0) for name, row in bank.cold_start.items()}
            return cold, bank.moment, True
        return {name: state[positions] for name, state in found.states.items()}, found.moment, False


class Asked(NamedTuple):
    """A request, ready to be scored."""

    filled: Filled
    rows: RequestRows
    """Of its different candidates."""
    which: npt.NDArray[np.int64]
    """[C], which of the rows each candidate is."""
    moment: Moment
    """What its states are of."""
    screen_age_s: float | None
    """How old the newest screen that is known is; None where the ranker reads none."""
    degraded: bool
    """Whether they had to be replaced by cold-start ones, or the store did not answer."""


def request_columns(
    filled: Filled, rule: HistoryRule, now_ms: int, told: Mapping[str, Seen] = _NOTHING
) -> dict[str, npt.NDArray[Any]]:
    """One request as columns of example rows: C rows of candidates, and the one history of all, [1, L].

    By the rule of training: items that are not known yet at the request are left out, wherever they are from, and
    of the others the newest stay, as many as the model was trained with. An empty history is one padding item.
    `told` are the codes of what was on screen, by table.
    """
    request, ts_ms = filled.request, filled.request.ts_ms(now_ms)
    candidates = np.array(request.candidates, np.int64)
    size = len(candidates)
    return {
        "user_id": np.full(size, request.user_id, np.int64),
        "author_id": candidates,
        "ts_ms": np.full(size, ts_ms, np.int64),
        **{table: codes.target for table, codes in told.items()},
        **history_columns(filled.clicks, rule, ts_ms, {table: codes.clicks for table, codes in told.items()}),
    }


def history_columns(
    clicks: Clicks, rule: HistoryRule, ts_ms: int, codes: Mapping[str, Array] = _NOTHING
) -> dict[str, npt.NDArray[Any]]:
    """What of a user's clicks is known at a moment, as columns [1, L] of example rows; by table, `codes` [n, J] are
    those of the clicks, which become columns [1, L J]."""
    authors, times, watched, _ = clicks
    positions, ages_s, watched_s = known_at(ts_ms, times, watched, rule.length, rule.delay_ms)
    authors = authors[positions]
    known = {f"{HISTORY}{table}": of[positions] for table, of in codes.items()}
    if not len(authors):
        authors, ages_s, watched_s = np.array([HISTORY_PAD]), np.zeros(1, np.float32), np.zeros(1, np.float32)
        known = {name: np.full((1, of.shape[1]), NONE, CODES) for name, of in known.items()}
    return {
        "history_author_ids": authors.astype(np.int64)[None],
        "history_age_s": ages_s[None],
        "history_watch_s": watched_s[None],
        **{name: of.reshape(1, -1) for name, of in known.items()},
    }


def request_batch(columns: dict[str, npt.NDArray[Any]], catalog: Catalog) -> tuple[RankingBatch, npt.NDArray[np.int64]]:
    """The batch of one request through the same `collate` as training, and which of its rows [C] each candidate is.

    Candidates that are not known, and of whose screens the same is, are one row, so that their scores are the same to
    the last bit, wherever they stand. The history is a view of one row, not of all.
    """
    rows = catalog.author_rows(columns["author_id"])
    codes = [columns[table] for table in ON_SCREEN if table in columns]
    keys, axis = (np.column_stack([rows, *codes]), 0) if codes else (rows, None)
    _, first, which = np.unique(keys, return_index=True, return_inverse=True, axis=axis)
    history = {name: column for name, column in columns.items() if name.startswith(HISTORY)}
    once = collate({name: column[:1] for name, column in columns.items()} | history, catalog)
    empty = {name: np.empty((len(first), 0), column.dtype) for name, column in history.items()}
    batch = collate({name: column[first] for name, column in columns.items() if name not in history} | empty, catalog)
    spread = {name: getattr(once, name).expand(len(first), -1) for name in ("history", *_OF_HISTORY)}
    batch = batch._replace(**spread)
    if batch.on_screen is not None and once.on_screen is not None:
        of_history = {table: of.history for table, of in once.on_screen.items()}
        both = {table: OnScreen(of.target, of_history[table]) for table, of in batch.on_screen.items()}
        batch = batch._replace(on_screen=both)
    return batch, which


def reads_history(snapshot: Snapshot) -> bool:
    """Whether any source of the ranker reads states of the authors in a history."""
    none = {name: torch.from_numpy(row[None][:0].copy()) for name, row in snapshot.bank.cold_start.items()}
    return any(source.of_history(none[name]) is not None for name, source in snapshot.model.items())


def request_rows(snapshot: Snapshot, batch: RankingBatch, states: States) -> RequestRows:
    """What the scorer reads, of `states` [B + L, ...] of authors and history, or [B, ...] where no history is read."""
    rows = {name: torch.from_numpy(state) for name, state in states.items()}
    read = {name: source.of_history(rows[name][batch.size :]) for name, source in snapshot.model.items()}
    histories = {name: None if part is None else part[None] for name, part in read.items()}
    return RequestRows(batch, {name: state[: batch.size] for name, state in rows.items()}, histories)


def answered(
    snapshot: Snapshot,
    asked: Asked,
    probabilities: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    now_ms: int,
) -> RankResponse:
    """The answer to a request, from the probabilities [B, K] of its rows."""
    answer, candidate = answer_of(snapshot.tasks)
    batch, moment, which = asked.rows.batch, asked.moment, asked.which
    is_known = batch.author.numpy()[which] > 0
    return answer.model_construct(
        candidates=ranked(asked.filled.candidates, probabilities[which], is_known, weights, candidate),
        user_known=bool(batch.user[0] > 0),
        history_used=int(batch.history_mask[0].sum()),
        history_source=asked.filled.source,
        store_age_s=asked.filled.store_age_s,
        lives=asked.filled.lives,
        misses=Misses(
            candidates=int((~is_known).sum()),
            history=int((batch.history_mask[0] & (batch.history[0] == 0)).sum()),
        ),
        bank_version=snapshot.bank.version,
        bank_delta=moment.delta,
        bank_until_age_s=moment.age_s(now_ms),
        screen_age_s=asked.screen_age_s,
        model_version=snapshot.bank.model_version,
        bank_age_s=snapshot.bank.age_s(now_ms),
        degraded=asked.degraded,
    )


def fuse(probabilities: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities [C, K] -> scores [C]."""
    scores: npt.NDArray[np.float64] = ((1.0 + probabilities.astype(np.float64)) ** weights).prod(axis=1)
    return scores


def ranked(
    candidates: list[int],
    probabilities: npt.NDArray[np.float32],
    is_known: npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64],
    candidate: type[Any],
) -> list[Any]:
    """Rows of the answer, of the class `candidate`, descending by score; equal ones keep the order of the request."""
    scores = fuse(probabilities, weights)
    order = np.argsort(-scores, kind="stable")
    columns = (
        np.array(candidates, np.int64)[order].tolist(),
        scores[order].tolist(),
        *probabilities[order].T.tolist(),
        is_known[order].tolist(),
    )
    return [candidate(*row) for row in zip(*columns, strict=True)]


def _refuse_duplicates(candidates: list[int], prefix: str) -> None:
    if len(set(candidates)) == len(candidates):
        return
    seen: set[int] = set()
    for author_id in candidates:
        if author_id in seen:
            raise DuplicateCandidatesError(
                f"{prefix}candidates holds author {author_id} twice; give each candidate once"
            )
        seen.add(author_id)
