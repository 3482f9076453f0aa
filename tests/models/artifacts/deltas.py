"""A bank of two sources and deltas of it, as the tests of both take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.artifacts import bank
from models.artifacts.bank import NO_ANCHOR, Array, Histories, StoredBank
from models.artifacts.bank_delta import BankDelta, BankLayout
from models.artifacts.manifest import Manifest
from models.history import HistoryRule

RUN_ID, ROWS = "b1", 9
NEWEST_MS = 10 * 86_400_000
SHAPES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "sarm": (np.dtype(np.float32), (2, 3)),
    "tags": (np.dtype(np.int64), (2,)),
}
LAYOUT = BankLayout(run_id=RUN_ID, rows=ROWS, states=SHAPES)


def states(rows: int, seed: int) -> dict[str, Array]:
    """Of both sources, at random."""
    rng = np.random.default_rng(seed)
    return {name: (9 * rng.normal(size=(rows, *shape))).astype(dtype) for name, (dtype, shape) in SHAPES.items()}


def delta(number: int = 1, rows: Any = (0, 3, 7), **other: Any) -> BankDelta:
    """Delta `number`, with states by its number."""
    given = {
        "bank": RUN_ID,
        "first": number,
        "number": number,
        "until_ts_ms": 1000 * number,
        "rows": np.asarray(rows, np.int64),
        "states": states(len(rows), number),
        "anchor_day": np.full(len(rows), number, np.int32),
    }
    return BankDelta(**{**given, **other})


def write_bank(folder: Path) -> StoredBank:
    """The full bank."""
    days = np.where(np.arange(ROWS) % 3 == 0, NO_ANCHOR, 5).astype(np.int32)
    histories = Histories.none(HistoryRule(length=3, days=14, delay_ms=0))
    return bank.write(folder, states=states(ROWS, 0), anchor_day=days, histories=histories, newest_ts_ms=NEWEST_MS)


def stored_bank(root: Path) -> Path:
    """The full bank as a published version; returns its folder."""
    folder = root / "artifacts" / "bank" / f"v={RUN_ID}"
    folder.mkdir(parents=True)
    write_bank(folder)
    Manifest.create(folder, kind="bank", run_id=RUN_ID, made_from={})
    (folder.parent / "CURRENT").write_text(RUN_ID)
    return folder


def assert_equal(got: BankDelta, wanted: BankDelta) -> None:
    """All of it, bit for bit."""
    for name in ("bank", "first", "number", "until_ts_ms"):
        assert getattr(got, name) == getattr(wanted, name)
    assert np.array_equal(got.rows, wanted.rows) and np.array_equal(got.anchor_day, wanted.anchor_day)
    assert set(got.states) == set(wanted.states)
    for name, state in wanted.states.items():
        assert got.states[name].dtype == state.dtype and np.array_equal(got.states[name], state)
