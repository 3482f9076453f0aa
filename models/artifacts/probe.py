"""The probe of a bank: a few requests and the scores that they must get, recorded when the bank is made.

Whoever serves the bank answers them by its own code first. Other weights, another tokenizer, vectors in other rows,
other histories: none of them gives the same scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.artifacts.bank import Array, Histories, StoredBank
from models.artifacts.manifest import ArtifactError
from models.artifacts.precision import as_read
from models.batch import RankingBatch, collate
from models.catalog import Catalog
from models.composed import ComposedRanker
from models.history import HISTORY_PAD, known_at

NUM_USERS = 4
"""Users with a history that ask, beside one whom nobody knows."""
NUM_CANDIDATES = 16
"""Authors that each of them asks for, spread over all rows, beside one whom nobody knows."""
TOLERANCE = 1e-4
"""Most by which a probability may differ from the one that was recorded."""

_HEAD, _SOURCE = "probe.json", "probe_source_"
_ARRAYS = ("user_ids", "candidates", "probabilities", "rows")
_NOBODY = int(np.iinfo(np.int64).min) + 1
_AGAIN = "publish it again"

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Probe:
    """P requests, all at one moment, each with the published history of its user."""

    ts_ms: int
    """The moment, ms since 1970."""
    tasks: tuple[str, ...]
    """In the order of the probabilities."""
    user_ids: Array
    """[P] int64."""
    candidates: Array
    """[P, C] int64, author ids."""
    probabilities: Array
    """[P, C, K] float32."""
    rows: Array
    """[R] int64, rows of the bank that the requests read, ascending."""
    states: Mapping[str, Array]
    """By source: [R, ...] of those rows, as the bank stores them."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its files."""
        return (_HEAD, *map(_file, _ARRAYS), *(_source(name) for name in self.states))

    def gather(self, rows: Ints) -> dict[str, Array]:
        """States [n, ...] of some of its rows [n] as models read them. Raises ArtifactError for a row that it lacks."""
        place = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        if not np.array_equal(self.rows[place], rows):
            raise ArtifactError(f"the probe lacks rows that its requests read, of {rows.tolist()[:5]}; {_AGAIN}")
        return {name: as_read(state[place]) for name, state in self.states.items()}

    def check_rows(self, subject: str, states: Mapping[str, Array]) -> None:
        """Raises ArtifactError unless a bank's states [N+1, ...] hold what the probe was recorded with."""
        for name, state in states.items():
            same = (state[self.rows] == self.states[name]).reshape(len(self.rows), -1).all(axis=1)
            if not same.all():
                row = self.rows[np.flatnonzero(~same)[0]]
                raise ArtifactError(
                    f"{subject}, source {name}: {int((~same).sum())} of {len(same)} rows, {row} first, are not those "
                    f"that its probe was recorded with; {_AGAIN}"
                )

    def check_scores(self, subject: str, request: int, got: Array) -> None:
        """Raises ArtifactError where probabilities [C, K] of a request are not those that were recorded."""
        wanted = self.probabilities[request]
        # NaN is not within it.
        far = ~(np.abs(got - wanted) <= TOLERANCE)
        if far.any():
            candidate, task = np.argwhere(far)[0]
            raise ArtifactError(
                f"{subject}: its probe does not reproduce: {self.tasks[task]} of user {self.user_ids[request]} and "
                f"author {self.candidates[request, candidate]}: got {got[candidate, task]:.6f}, wanted "
                f"{wanted[candidate, task]:.6f} within {TOLERANCE}; bank, model or tokenizer is another one: publish a "
                "bank and its model together"
            )


def record(model: ComposedRanker, catalog: Catalog, bank: StoredBank) -> Probe:
    """Scores of a bank as it is stored, by its model in evaluation mode and by the code of training.

    Raises ArtifactError where one of them is not a number.
    """
    rng, histories = np.random.default_rng(0), bank.histories
    users = histories.user_ids if len(histories.user_ids) else catalog.user_ids
    user_ids = np.append(users[_spread(rng, len(users), NUM_USERS)], _NOBODY)
    authors = [_spread(rng, catalog.num_authors, NUM_CANDIDATES) for _ in user_ids]
    candidates = np.stack([np.append(catalog.author_ids[chosen], _NOBODY) for chosen in authors])
    batch = collate(_columns(histories, user_ids, candidates, bank.newest_ts_ms), catalog)
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


def write(folder: Path, probe: Probe) -> None:
    """Puts its files beside those of its bank."""
    head = {"ts_ms": probe.ts_ms, "tasks": list(probe.tasks), "sources": list(probe.states)}
    (folder / _HEAD).write_text(json.dumps(head, indent=1), encoding="utf-8")
    for name in _ARRAYS:
        np.save(folder / _file(name), getattr(probe, name), allow_pickle=False)
    for name, state in probe.states.items():
        np.save(folder / _source(name), state, allow_pickle=False)


def read(folder: Path) -> Probe:
    """The probe in the folder of a bank. Raises ArtifactError where there is none, or it is damaged."""
    subject = f"bank {folder.name}"
    if not (folder / _HEAD).is_file():
        raise ArtifactError(f"{subject}: wanted {_HEAD}, the scores by which a bank is checked, got none; {_AGAIN}")
    try:
        head = json.loads((folder / _HEAD).read_bytes())
        arrays = {name: np.load(folder / _file(name), allow_pickle=False) for name in _ARRAYS}
        states = {str(name): np.load(folder / _source(name), allow_pickle=False) for name in head["sources"]}
        probe = Probe(ts_ms=int(head["ts_ms"]), tasks=tuple(map(str, head["tasks"])), states=states, **arrays)
        shape = (*probe.candidates.shape, len(probe.tasks))
        if probe.probabilities.shape != shape or probe.user_ids.shape != shape[:1] or 0 in shape:
            raise ValueError(f"wanted probabilities {shape}, got {probe.probabilities.shape}")
        if any(len(state) != len(probe.rows) for state in states.values()):
            raise ValueError(
                f"wanted states of {len(probe.rows)} rows, got {[len(state) for state in states.values()]}"
            )
    except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{subject}: its probe is damaged ({error!r}); {_AGAIN}") from error
    return probe


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


def _file(name: str) -> str:
    return f"probe_{name}.npy"


def _source(name: str) -> str:
    return f"{_SOURCE}{name}.npy"
