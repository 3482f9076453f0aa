"""The bank: what a ranker's sources know of every author, and every user's newest clicks; files, writer and reader.

A folder of .npy arrays, which processes of a node map together, and `bank.json`, which lists them.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from models.artifacts import bank_checks
from models.artifacts import screens as screen_files
from models.artifacts.manifest import ArtifactError
from models.artifacts.screens import CODES, Screen
from models.history import HISTORY_PAD, HistoryRule

FORMAT = 2
"""Version of the files' layout; a folder of another one is refused."""
NO_ANCHOR = -1
"""Anchor day of an author without one."""
COLD_START_ROW = 0
"""Row that answers for authors that are not known."""
SOURCE = "source_"
"""How the names of the sources' files begin."""

_HEAD, _ANCHOR_DAY = "bank.json", "anchor_day.npy"
_HISTORY: dict[str, type[np.generic]] = {
    "user_ids": np.int64,
    "author_ids": np.int64,
    "ts_ms": np.int64,
    "watch_s": np.float32,
}
_STATE_TYPES = tuple(np.dtype(name) for name in ("float32", "float16", "int64", "int32"))
_SOURCE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_EPOCH = date(1970, 1, 1).toordinal()
_NPY_HEADER_BYTES = 4096
_HEAD_BYTES = 1 << 20
_MAX_TS_MS = 253_402_300_799_999 - 86_400_000
"""A day before the year 10,000, which no date can name."""

Array = npt.NDArray[Any]
ReadPart = Callable[[str, int], bytes]
"""(file name, n) -> the first n bytes of that file."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Histories:
    """The last clicks of each user, newest last, padded on the left, and the rule by which they count."""

    rule: HistoryRule
    """What a history is: its length, and the delay after which a click is known."""
    user_ids: Array
    """[U] int64, ascending, unique."""
    author_ids: Array
    """[U, S] int64, HISTORY_PAD where padded; S >= L, since the newest may not be known yet when they are asked for."""
    ts_ms: Array
    """[U, S] int64, 0 where padded."""
    watch_s: Array
    """[U, S] float32, 0 where padded."""
    on_screen: Mapping[str, Array] = field(default_factory=dict)
    """By table, codes [U, S, J] int32 of what each click saw, NONE where nothing was known and where padded; no tables
    where the ranker reads none."""

    @classmethod
    def none(cls, rule: HistoryRule, num_codes: Mapping[str, int] = MappingProxyType({})) -> Histories:
        """Of a bank that is published without: requests bring their own. `num_codes` is J of each table of codes."""
        ids = np.empty((0, rule.length), np.int64)
        seen = {table: np.empty((*ids.shape, codes), CODES) for table, codes in num_codes.items()}
        watch_s = ids.astype(np.float32)
        return cls(rule=rule, user_ids=ids[:, 0], author_ids=ids, ts_ms=ids, watch_s=watch_s, on_screen=seen)

    def of_user(self, user_id: int) -> tuple[Array, Array, Array]:
        """author_ids, ts_ms, watch_s of one user without padding; empty for a user without history."""
        position = int(np.searchsorted(self.user_ids, user_id))
        if position == len(self.user_ids) or self.user_ids[position] != user_id:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        used = self.author_ids[position] != HISTORY_PAD
        return self.author_ids[position][used], self.ts_ms[position][used], self.watch_s[position][used]

    def seen_by(self, user_id: int, table: str) -> Array:
        """Codes [n, J] of what one user saw at the n clicks that `of_user` gives."""
        position, codes = int(np.searchsorted(self.user_ids, user_id)), self.on_screen[table]
        if position == len(self.user_ids) or self.user_ids[position] != user_id:
            return np.empty((0, codes.shape[2]), CODES)
        seen: Array = codes[position][self.author_ids[position] != HISTORY_PAD]
        return seen


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredBank:
    """What a bank's folder holds, checked and mapped from disk."""

    format: int
    """FORMAT of the folder."""
    newest_ts_ms: int
    """Event time, ms since 1970, up to which it knows clicks and anchors."""
    files: tuple[str, ...]
    """Names of all that was read of the folder, and of the states where they are elsewhere."""
    states: Mapping[str, Array]
    """By source: [N+1, ...], row 0 for unknown authors; [0, ...] where the states are elsewhere."""
    cold_start: Mapping[str, Array]
    """By source: a copy of row 0."""
    anchor_day: Array
    """[N+1] int32, days since 1970, NO_ANCHOR where there is none."""
    histories: Histories
    """No users where the bank was published without."""
    screens: Mapping[str, Screen] = field(default_factory=dict)
    """By table of codes that the ranker reads."""

    @property
    def rows(self) -> int:
        """N + 1."""
        return len(self.anchor_day)


def write(
    folder: Path,
    *,
    states: Mapping[str, Array],
    anchor_day: Array,
    histories: Histories,
    newest_ts_ms: int,
    screens: Mapping[str, Screen] = MappingProxyType({}),
) -> StoredBank:
    """Writes a bank into an empty folder and reads it back. Raises ArtifactError for one that is not fit to serve.

    `screens` are of the tables of codes that the ranker reads, which the histories carry too.
    """
    head = {
        "format": FORMAT,
        "newest_ts_ms": newest_ts_ms,
        "rows": len(anchor_day),
        "sources": sorted(states),
        "history": asdict(histories.rule),
        "users": len(histories.user_ids),
    }
    if screens:  # a bank without has the very files that it had before there were any
        head["screens"] = {table: screen.head for table, screen in screens.items()}
    (folder / _HEAD).write_text(json.dumps(head, indent=1), encoding="utf-8")
    np.save(folder / _ANCHOR_DAY, anchor_day, allow_pickle=False)
    for name, state in states.items():
        np.save(folder / source_file(name), np.ascontiguousarray(state), allow_pickle=False)
    if len(histories.user_ids):
        for name in _HISTORY:
            np.save(folder / _history_file(name), getattr(histories, name), allow_pickle=False)
    for table, screen in screens.items():
        screen.write(folder, table)
        if len(histories.user_ids):
            np.save(folder / _history_file(table), histories.on_screen[table], allow_pickle=False)
    return read(folder)


def read(folder: Path, elsewhere: ReadPart | None = None, *, every_row: bool = True) -> StoredBank:
    """The bank in a folder. Raises ArtifactError for anything that does not fit, with both values.

    Where the states are `elsewhere`, their files are not in the folder, and only row 0 of each is read, by `elsewhere`.
    Without `every_row` types and shapes are compared and the rest is believed: for who has looked at every row before.
    """
    subject = f"bank {folder.name}"
    head = _head(folder, subject)
    anchor_day = _mapped(folder, _ANCHOR_DAY, np.int32, ndim=1)
    _equal(subject, "anchor days", len(anchor_day), head["rows"])
    if anchor_day.min(initial=NO_ANCHOR) < NO_ANCHOR:
        raise ArtifactError(f"{subject}: wanted anchor days >= {NO_ANCHOR}, got {anchor_day.min()}; publish it again")
    states, cold_start = {}, {}
    for name in head["sources"]:
        file = source_file(name)
        if elsewhere is None:
            states[name] = _mapped(folder, file)
            _equal(f"{subject}, source {name}", "rows", len(states[name]), head["rows"])
            cold_start[name] = np.array(states[name][COLD_START_ROW])
        else:
            rows, cold_start[name] = _first_row(subject, file, elsewhere)
            _equal(f"{subject}, source {name}", "rows", rows, head["rows"])
            states[name] = np.empty((0, *cold_start[name].shape), cold_start[name].dtype)
    tables = head["screens"]
    names = [_history_file(name) for name in (*_HISTORY, *tables)] if head["users"] else []
    names += [name for table in tables for name in screen_files.files_of(table)]

    def array(name: str, dtype: type[np.generic], ndim: int) -> Array:
        return _mapped(folder, name, dtype, ndim=ndim)

    bank = StoredBank(
        format=head["format"],
        newest_ts_ms=head["newest_ts_ms"],
        files=(_HEAD, _ANCHOR_DAY, *map(source_file, head["sources"]), *names),
        states=states,
        cold_start=cold_start,
        anchor_day=anchor_day,
        histories=_histories(folder, head["history"], head["users"], tables),
        screens={table: Screen.read(subject, table, of, array) for table, of in tables.items()},
    )
    if every_row:
        _check_rows(subject, bank)
    return bank


def _check_rows(subject: str, bank: StoredBank) -> None:
    bank_checks.check_anchor_days(subject, bank.anchor_day, bank.newest_ts_ms)
    for name, state in bank.states.items():
        if len(state):
            bank_checks.check_state(f"{subject}, source {name}", state)
    said = bank.histories
    columns = (said.user_ids, said.author_ids, said.ts_ms, said.watch_s)
    bank_checks.check_histories(subject, *columns, bank.newest_ts_ms)
    for table, screen in bank.screens.items():
        screen_files.check(f"{subject}, {table}", screen, bank.newest_ts_ms)
        screen_files.check_clicks(f"{subject}, {table}", screen, said.on_screen[table], said.author_ids != HISTORY_PAD)


def outline(run_id: str, read_part: ReadPart) -> tuple[int, dict[str, Array]]:
    """N + 1, and row 0 by source, of a bank that stays where it is. Reads a few KiB. Raises ArtifactError."""
    subject = f"bank {run_id}"
    head = _parsed_head(read_part(_HEAD, _HEAD_BYTES), subject)
    cold_start = {}
    for name in head["sources"]:
        rows, cold_start[name] = _first_row(subject, source_file(name), read_part)
        _equal(f"{subject}, source {name}", "rows", rows, head["rows"])
    return head["rows"], cold_start


def source_file(name: str) -> str:
    """File name of a source's state. Raises ArtifactError for a name that makes none."""
    if not _SOURCE_NAME.fullmatch(name):
        raise ArtifactError(f"source {name!r}: wanted a name of small letters, digits and _; rename it")
    return f"{SOURCE}{name}.npy"


def anchor_date(number: int) -> date | None:
    """The day of so many days since 1970; None of NO_ANCHOR."""
    return None if number == NO_ANCHOR else date.fromordinal(_EPOCH + int(number))


def day_number(day: str) -> int:
    """Days since 1970 of an ISO date."""
    return date.fromisoformat(day).toordinal() - _EPOCH


def _history_file(name: str) -> str:
    return f"history_{name}.npy"


def _head(folder: Path, subject: str) -> dict[str, Any]:
    if not (folder / _HEAD).is_file():
        raise ArtifactError(f"{subject}: wanted {_HEAD}, got {sorted(p.name for p in folder.iterdir())}")
    return _parsed_head((folder / _HEAD).read_bytes(), subject)


def _parsed_head(content: bytes, subject: str) -> dict[str, Any]:
    try:
        head = json.loads(content)
        _equal(subject, f"format of {_HEAD}", head["format"], FORMAT)
        if not 0 <= int(head["newest_ts_ms"]) <= _MAX_TS_MS:
            raise ValueError(f"wanted newest_ts_ms within 0..{_MAX_TS_MS}, got {head['newest_ts_ms']}")
        return {
            "format": FORMAT,
            "newest_ts_ms": int(head["newest_ts_ms"]),
            "rows": int(head["rows"]),
            "sources": [str(name) for name in head["sources"]],
            "history": HistoryRule(**head["history"]),
            "users": int(head["users"]),
            "screens": screen_files.parsed_heads(head.get("screens", {})),
        }
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{subject}: {_HEAD} is damaged ({error!r}); publish it again") from error


def _histories(folder: Path, rule: HistoryRule, num_users: int, tables: Mapping[str, Any]) -> Histories:
    """`tables` are those of codes, with what the head says of each."""
    if not num_users:
        return Histories.none(rule, {table: len(of["clusters"]) for table, of in tables.items()})
    subject = f"bank {folder.name}"
    users = _mapped(folder, _history_file("user_ids"), np.int64, ndim=1)
    _equal(subject, "users with a history", len(users), num_users)
    columns = {n: _mapped(folder, _history_file(n), t, ndim=2) for n, t in _HISTORY.items() if n != "user_ids"}
    wanted = (num_users, columns["author_ids"].shape[1])
    for name, column in columns.items():
        _equal(subject, f"shape of {_history_file(name)}", column.shape, wanted)
    if wanted[1] < rule.length:
        raise ArtifactError(f"{subject}: wanted histories of {rule.length} or more, got {wanted[1]}; publish it again")
    on_screen = {}
    for table, of in tables.items():
        on_screen[table] = _mapped(folder, _history_file(table), CODES, ndim=3)
        shape = (*wanted, len(of["clusters"]))
        _equal(subject, f"shape of {_history_file(table)}", on_screen[table].shape, shape)
    return Histories(rule=rule, user_ids=users, **columns, on_screen=on_screen)


def _mapped(folder: Path, name: str, dtype: type[np.generic] | None = None, *, ndim: int | None = None) -> Array:
    """An array of the folder, of the type and dimensions given, or of any that a state may have."""
    path = folder / name
    if not path.is_file():
        raise ArtifactError(f"{folder.name}: wanted {name}, got {sorted(p.name for p in folder.iterdir())}")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(f"{folder.name}/{name}: wanted a .npy array, got {error}; publish it again") from error
    if dtype is None:
        _check_type(f"{folder.name}/{name}", array.dtype, array.shape)
        _equal(f"{folder.name}/{name}", "rows one after another", bool(array.flags.c_contiguous), True)
    else:
        _equal(f"{folder.name}/{name}", "dtype and dimensions", (array.dtype, array.ndim), (np.dtype(dtype), ndim))
    # A plain view of the same pages: indexing the memmap class itself is several times slower.
    mapped: Array = array.view(np.ndarray)
    return mapped


def _check_type(subject: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if dtype not in _STATE_TYPES or len(shape) < 2 or 0 in shape:
        raise ArtifactError(
            f"{subject}: wanted [N+1, ...] of {', '.join(map(str, _STATE_TYPES))}, got {dtype} {shape}; "
            "publish it again"
        )


def _first_row(subject: str, file: str, read_part: ReadPart) -> tuple[int, Array]:
    """Rows, and row 0, of a state that stays where it is."""
    stream = io.BytesIO(read_part(file, _NPY_HEADER_BYTES))
    try:
        _equal(f"{subject}, {file}", ".npy format", np.lib.format.read_magic(stream), (1, 0))  # type: ignore[no-untyped-call]
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise ArtifactError(f"{subject}: {file} is no .npy array ({error}); publish it again") from error
    _check_type(f"{subject}, {file}", dtype, shape)
    _equal(f"{subject}, {file}", "rows one after another", not fortran, True)
    start, num_bytes = stream.tell(), int(np.prod(shape[1:])) * dtype.itemsize
    raw = read_part(file, start + num_bytes)[start:]
    _equal(f"{subject}, {file}", "bytes of row 0", len(raw), num_bytes)
    row = np.frombuffer(raw, dtype).reshape(shape[1:])
    if dtype.kind == "f" and not np.isfinite(row).all():
        raise ArtifactError(f"{subject}, {file}: row 0 holds NaN or infinity; publish it again")
    return shape[0], row


def _equal(subject: str, what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise ArtifactError(f"{subject}: {what}: got {got}, wanted {wanted}; publish it again")
