"""The probe of a bank: a few requests and the scores that they must get, recorded when the bank is made
(probe_record.py).

Whoever serves the bank answers them by its own code first. Other weights, another tokenizer, vectors in other rows,
other histories: none of them gives the same scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.artifacts.bank import Array
from models.artifacts.manifest import ArtifactError
from models.artifacts.precision import as_read

TOLERANCE = 1e-4
"""Most by which a probability may differ from the one that was recorded."""

_HEAD, _SOURCE = "probe.json", "probe_source_"
_ARRAYS = ("user_ids", "candidates", "probabilities", "rows")
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


def _file(name: str) -> str:
    return f"probe_{name}.npy"


def _source(name: str) -> str:
    return f"{_SOURCE}{name}.npy"
