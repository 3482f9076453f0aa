"""Makes the probe of a bank: draws its requests, and scores them by the code of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models import HISTORY
from models.artifacts.bank import Array, Histories, StoredBank
from models.artifacts.manifest import ArtifactError
from models.artifacts.precision import as_read
from models.artifacts.probe import Probe
from models.artifacts.screens import CODES, NONE, codes_at
from models.batch import RankingBatch, collate
from models.catalog import Catalog
from models.composed import ComposedRanker
from models.history import HISTORY_PAD, known_at

NUM_USERS = 4
"""Users with a history that ask, beside one whom nobody knows."""
NUM_CANDIDATES = 16
"""Authors that each of them asks for, spread over all rows, beside one whom nobody knows."""

_NOBODY = int(np.iinfo(np.int64).min) + 1

Ints = npt.NDArray[np.int64]


def record(model: ComposedRanker, catalog: Catalog, bank: StoredBank) -> Probe:
    """Scores of a bank as it is stored, by its model in evaluation mode and by the code of training.

    Raises ArtifactError where one of them is not a number.
    """
    rng, histories = np.random.default_rng(0), bank.histories
    users = histories.user_ids if len(histories.user_ids) else catalog.user_ids
    user_ids = np.append(users[_spread(rng, len(users), NUM_USERS)], _NOBODY)
    authors = [_spread(rng, catalog.num_authors, NUM_CANDIDATES) for _ in user_ids]
    candidates = np.stack([np.append(catalog.author_ids[chosen], _NOBODY) for chosen in authors])
    columns = _columns(histories, user_ids, candidates, bank.newest_ts_ms)
    batch = collate(columns | _codes(bank, user_ids, candidates), catalog)
    rows = np.unique(np.concatenate([batch.author.numpy(), batch.history.numpy().ravel(), [0]]))
    states = {name: np.array(state[rows]) for name, state in bank.states.items()}
    probabilities = _scores(model, batch, rows, states)
    if not np.isfinite(probabilities).all():
        raise ArtifactError("the ranker's scores of the bank hold NaN or infinity; train again")
    return Probe(
        ts_ms=bank.newest_ts_ms,
        tasks=tuple(model.config.tasks),
        user_ids=user_ids,
        candidates=candidates,
        probabilities=probabilities.reshape(*candidates.shape, -1),
        rows=rows,
        states=states,
    )


def _columns(histories: Histories, user_ids: Ints, candidates: Ints, ts_ms: int) -> dict[str, npt.NDArray[Any]]:
    """One row of examples for each candidate of each user."""
    rule, count = histories.rule, candidates.shape[1]
    authors = np.full((len(user_ids), rule.length), HISTORY_PAD, np.int64)
    ages_s, watched_s = (np.zeros(authors.shape, np.float32) for _ in range(2))
    for row, user_id in enumerate(user_ids.tolist()):
        of_user, times, watched = histories.of_user(user_id)
        known, age, watch = known_at(ts_ms, times, watched, rule.length, rule.delay_ms)
        if len(known):
            authors[row, -len(known) :] = of_user[known]
            ages_s[row, -len(known) :], watched_s[row, -len(known) :] = age, watch
    columns: dict[str, npt.NDArray[Any]] = {
        "user_id": user_ids,
        "ts_ms": np.full(len(user_ids), ts_ms, np.int64),
        "history_author_ids": authors,
        "history_age_s": ages_s,
        "history_watch_s": watched_s,
    }
    return {name: column.repeat(count, axis=0) for name, column in columns.items()} | {"author_id": candidates.ravel()}


def _codes(bank: StoredBank, user_ids: Ints, candidates: Ints) -> dict[str, npt.NDArray[Any]]:
    """Columns of codes of the same rows, by table that the ranker reads."""
    rule, columns = bank.histories.rule, {}
    for table, screen in bank.screens.items():
        seen = np.full((len(user_ids), rule.length, len(screen.clusters)), NONE, CODES)
        for row, user_id in enumerate(user_ids.tolist()):
            _, times, watched = bank.histories.of_user(user_id)
            known, _, _ = known_at(bank.newest_ts_ms, times, watched, rule.length, rule.delay_ms)
            if len(known):
                seen[row, -len(known) :] = bank.histories.seen_by(user_id, table)[known]
        columns[table] = codes_at([screen], candidates.ravel(), bank.newest_ts_ms)
        columns[f"{HISTORY}{table}"] = seen.reshape(len(user_ids), -1).repeat(candidates.shape[1], axis=0)
    return columns


def _scores(
    model: ComposedRanker, batch: RankingBatch, rows: Ints, states: Mapping[str, Array]
) -> npt.NDArray[np.float32]:
    """Probabilities [B, K]; `states` [R, ...] are those of rows [R]."""
    tables = {name: torch.from_numpy(as_read(state)) for name, state in states.items()}
    author, history = (torch.from_numpy(np.searchsorted(rows, of.numpy())) for of in (batch.author, batch.history))
    read = {name: source.of_history(tables[name]) for name, source in model.items()}
    probabilities: npt.NDArray[np.float32] = model.score(
        batch,
        {name: table[author] for name, table in tables.items()},
        {name: None if part is None else part[history] for name, part in read.items()},
    ).numpy()
    return probabilities


def _spread(rng: np.random.Generator, size: int, count: int) -> Ints:
    """Positions below `size`, ascending, one at random from each of `count` equal stretches; all of them if fewer."""
    bounds = np.arange(min(size, count) + 1) * size // max(1, min(size, count))
    return rng.integers(bounds[:-1], bounds[1:])
