"""A delta of a bank: the new states of the authors that a window of training touched; its files and what fits a bank.

A few .npy arrays and `delta.json`. A bank and its deltas in their order are the next bank: `fold` makes it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.artifacts.bank import NO_ANCHOR, Array, StoredBank, source_file
from models.artifacts.manifest import ArtifactError

FORMAT = 1
"""Version of the files' layout; a delta of another one is refused."""
UNTIL = "until_ts_ms"
"""Key of `made_from` by which a full bank may say its event time, as a delta does."""

_HEAD, _ROWS, _ANCHOR_DAY = "delta.json", "rows.npy", "anchor_day.npy"
_ROW_TYPES = (np.dtype(np.int32), np.dtype(np.int64))
_MAX_TS_MS = 253_402_300_799_999
_MAX_DAY = _MAX_TS_MS // 86_400_000
_AGAIN = "publish it again, or the next full bank"

Files = Mapping[str, bytes]
"""File name -> content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BankLayout:
    """What a delta must fit."""

    run_id: str
    """Of the full bank."""
    rows: int
    """N + 1."""
    states: Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]]
    """By source: type and shape of one row."""

    @classmethod
    def of(cls, run_id: str, rows: int, cold_start: Mapping[str, Array]) -> BankLayout:
        """Of a bank whose rows 0 are `cold_start`."""
        return cls(run_id=run_id, rows=rows, states={name: (row.dtype, row.shape) for name, row in cold_start.items()})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BankDelta:
    """What changed since the delta before it, or since several where deltas were merged."""

    bank: str
    """Run id of the full bank."""
    first: int
    """Number of the first delta that is in it; `number` unless it was merged."""
    number: int
    """1, 2, 3, ... within the bank; of the last delta that is in it."""
    until_ts_ms: int
    """Event time, ms since 1970: all that happened before is in the bank and its deltas up to this one."""
    rows: Array
    """[R] int32 or int64, rows of the bank, ascending, unique; row 0 is that of authors who are not known."""
    states: Mapping[str, Array]
    """By source of the bank: [R, ...], of its type; empty where it was read without."""
    anchor_day: Array
    """[R] int32, days since 1970, NO_ANCHOR where there is none."""

    @property
    def subject(self) -> str:
        """How errors call it."""
        return f"bank {self.bank}, delta {span_name(self.first, self.number)}"

    def check(self, layout: BankLayout, *, with_states: bool = True) -> None:
        """Raises ArtifactError, with got, wanted and the remedy, for anything that does not fit the bank."""
        subject = self.subject
        _equal(subject, "the bank that it belongs to", self.bank, layout.run_id)
        if not 1 <= self.first <= self.number:
            raise ArtifactError(f"{subject}: wanted numbers from 1 on, got {self.first} to {self.number}; {_AGAIN}")
        if not 0 <= self.until_ts_ms <= _MAX_TS_MS:
            raise ArtifactError(f"{subject}: wanted an event time in ms since 1970, got {self.until_ts_ms}; {_AGAIN}")
        _check_rows(subject, self.rows, layout.rows)
        size = len(self.rows)
        _equal(subject, "anchor days", _kind(self.anchor_day), (np.dtype(np.int32), (size,)))
        if self.anchor_day.min(initial=NO_ANCHOR) < NO_ANCHOR:
            raise ArtifactError(f"{subject}: wanted anchor days >= {NO_ANCHOR}, got {self.anchor_day.min()}; {_AGAIN}")
        if self.anchor_day.max(initial=0) > _MAX_DAY:
            raise ArtifactError(f"{subject}: wanted anchor days <= {_MAX_DAY}, got {self.anchor_day.max()}; {_AGAIN}")
        if not with_states:
            return
        _equal(subject, "sources", sorted(self.states), sorted(layout.states))
        for name, (dtype, shape) in layout.states.items():
            _equal(f"{subject}, source {name}", "type and shape", _kind(self.states[name]), (dtype, (size, *shape)))
            _check_finite(f"{subject}, source {name}", self.rows, self.states[name])

    def check_follows(self, number: int, until_ts_ms: int | None) -> None:
        """Raises ArtifactError unless it is the next after delta `number` (0 = the full bank) of that event time."""
        if self.first != number + 1:
            raise ArtifactError(
                f"{self.subject}: wanted delta {number + 1} next, got {self.first}; deltas count in order: publish the "
                "missing one, or the next full bank"
            )
        if number and until_ts_ms is not None and self.until_ts_ms <= until_ts_ms:
            raise ArtifactError(
                f"{self.subject}: wanted an event time after {until_ts_ms} of the one before it, got "
                f"{self.until_ts_ms}; publish windows in their order"
            )


def span_name(first: int, number: int) -> str:
    """Name of a delta, of several where they were merged; names sort as numbers do."""
    return f"{number:08d}" if first == number else f"{first:08d}-{number:08d}"


def encode(delta: BankDelta) -> dict[str, bytes]:
    """Its files; equal deltas give equal bytes."""
    head = {
        "format": FORMAT,
        "bank": delta.bank,
        "first": delta.first,
        "number": delta.number,
        "until_ts_ms": delta.until_ts_ms,
        "rows": len(delta.rows),
        "sources": sorted(delta.states),
    }
    arrays = {_ROWS: delta.rows.astype(np.int64), _ANCHOR_DAY: delta.anchor_day}
    arrays |= {source_file(name): state for name, state in sorted(delta.states.items())}
    return {_HEAD: json.dumps(head, indent=1).encode()} | {name: _bytes(array) for name, array in arrays.items()}


def decode(files: Files, layout: BankLayout, *, with_states: bool = True) -> BankDelta:
    """The delta in files, checked. Raises ArtifactError; without states those of the sources are not asked for."""
    subject = f"delta of bank {layout.run_id}"
    head = _head(files, subject)
    names = head["sources"] if with_states else []
    delta = BankDelta(
        bank=head["bank"],
        first=head["first"],
        number=head["number"],
        until_ts_ms=head["until_ts_ms"],
        rows=_array(files, _ROWS, subject),
        states={name: _array(files, source_file(name), subject) for name in names},
        anchor_day=_array(files, _ANCHOR_DAY, subject),
    )
    delta.check(layout, with_states=with_states)
    _equal(delta.subject, "rows", len(delta.rows), head["rows"])
    return delta


def merge(deltas: Sequence[BankDelta]) -> BankDelta:
    """One delta that does what these do in their order. Raises ArtifactError unless each follows the one before it."""
    for before, after in zip(deltas, deltas[1:], strict=False):
        after.check_follows(before.number, before.until_ts_ms)
    first, last = deltas[0], deltas[-1]
    every = np.concatenate([delta.rows for delta in deltas])
    # The last of equal rows: unique gives the first position, here of the reversed order.
    rows, position = np.unique(every[::-1], return_index=True)
    chosen = len(every) - 1 - position
    return BankDelta(
        bank=first.bank,
        first=first.first,
        number=last.number,
        until_ts_ms=last.until_ts_ms,
        rows=rows,
        states={name: np.concatenate([delta.states[name] for delta in deltas])[chosen] for name in first.states},
        anchor_day=np.concatenate([delta.anchor_day for delta in deltas])[chosen],
    )


def fold(run_id: str, bank: StoredBank, deltas: Iterable[BankDelta]) -> tuple[dict[str, Array], Array]:
    """States by source [N+1, ...] and anchor days [N+1] of a bank after its deltas, as copies in memory.

    What the next full bank holds where nothing else has changed. Raises ArtifactError for a delta that does not fit the
    bank or does not follow the one before it.
    """
    layout = BankLayout.of(run_id, bank.rows, bank.cold_start)
    states = {name: np.array(state) for name, state in bank.states.items()}
    anchor_day = np.array(bank.anchor_day)
    number, until_ts_ms = 0, None
    for delta in deltas:
        delta.check(layout)
        delta.check_follows(number, until_ts_ms)
        for name, state in delta.states.items():
            states[name][delta.rows] = state
        anchor_day[delta.rows] = delta.anchor_day
        number, until_ts_ms = delta.number, delta.until_ts_ms
    return states, anchor_day


def _head(files: Files, subject: str) -> dict[str, Any]:
    if _HEAD not in files:
        raise ArtifactError(f"{subject}: wanted {_HEAD}, got {sorted(files)}; {_AGAIN}")
    try:
        head = json.loads(files[_HEAD])
        _equal(subject, f"format of {_HEAD}", head["format"], FORMAT)
        numbers = {name: int(head[name]) for name in ("first", "number", "until_ts_ms", "rows")}
        return {"bank": str(head["bank"]), "sources": [str(name) for name in head["sources"]], **numbers}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{subject}: {_HEAD} is damaged ({error!r}); {_AGAIN}") from error


def _bytes(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _array(files: Files, name: str, subject: str) -> Array:
    if name not in files:
        raise ArtifactError(f"{subject}: wanted {name}, got {sorted(files)}; {_AGAIN}")
    try:
        array: Array = np.lib.format.read_array(io.BytesIO(files[name]), allow_pickle=False)  # type: ignore[no-untyped-call]
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{subject}: {name}: wanted a .npy array, got {error}; {_AGAIN}") from error
    return array


def _kind(array: Array) -> tuple[np.dtype[Any], tuple[int, ...]]:
    return array.dtype, array.shape


def _check_rows(subject: str, rows: Array, size: int) -> None:
    if rows.dtype not in _ROW_TYPES or rows.ndim != 1:
        raise ArtifactError(f"{subject}: wanted rows [R] int32 or int64, got {rows.dtype} {rows.shape}; {_AGAIN}")
    steps = np.flatnonzero(rows[1:] <= rows[:-1])
    if len(steps):
        pair = rows[steps[0] : steps[0] + 2].tolist()
        raise ArtifactError(f"{subject}: wanted rows ascending, each once, got {pair[0]} then {pair[1]}; {_AGAIN}")
    if len(rows) and not 0 <= rows[0] <= rows[-1] < size:
        outside = rows[0] if rows[0] < 0 else rows[-1]
        raise ArtifactError(f"{subject}: wanted rows within 0..{size - 1} of its bank, got {outside}; {_AGAIN}")


def _check_finite(subject: str, rows: Array, state: Array) -> None:
    if state.dtype.kind != "f":
        return
    finite = np.isfinite(state).all(axis=tuple(range(1, state.ndim)))
    if not finite.all():
        row = rows[np.flatnonzero(~finite)[0]]
        raise ArtifactError(f"{subject}: wanted finite numbers, got NaN or infinity in row {row}; train that one again")


def _equal(subject: str, what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise ArtifactError(f"{subject}: {what}: got {got}, wanted {wanted}; {_AGAIN}")
