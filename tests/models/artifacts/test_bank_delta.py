"""Deltas of a bank: what is written is read, what does not fit is refused, and folding is applying row by row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifacts import bank
from models.artifacts.bank import StoredBank
from models.artifacts.bank_delta import BankDelta, BankLayout, decode, encode, fold, merge
from models.artifacts.manifest import ArtifactError
from tests.models.artifacts.deltas import LAYOUT, ROWS, RUN_ID, assert_equal, delta, states, write_bank

SETS_OF_ROWS = st.lists(st.sets(st.integers(0, ROWS - 1)).map(sorted), max_size=6)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> StoredBank:
    return write_bank(tmp_path_factory.mktemp("bank"))


def test_what_was_written_is_read() -> None:
    assert_equal(decode(encode(delta()), LAYOUT), delta())


def test_equal_deltas_have_equal_files_whatever_integers_their_rows_are() -> None:
    assert encode(delta()) == encode(replace(delta(), rows=delta().rows.astype(np.int32)))
    assert encode(delta()) != encode(delta(2))


def test_a_window_in_which_nobody_was_touched_moves_the_event_time() -> None:
    empty = decode(encode(delta(rows=[], until_ts_ms=77)), LAYOUT)
    assert (len(empty.rows), empty.until_ts_ms) == (0, 77)


def test_without_states_those_files_are_not_asked_for() -> None:
    files = {name: content for name, content in encode(delta()).items() if not name.startswith(bank.SOURCE)}
    read = decode(files, LAYOUT, with_states=False)
    assert read.states == {} and read.rows.tolist() == [0, 3, 7]


def one_source(made: BankDelta, change: Callable[[Any], Any]) -> BankDelta:
    return replace(made, states=dict(made.states) | {"sarm": change(made.states["sarm"])})


def spoilt(row: int, value: float) -> Callable[[Any], Any]:
    return lambda state: np.where(np.arange(len(state))[:, None, None] == row, np.float32(value), state)


REFUSED: list[tuple[Callable[[BankDelta], BankDelta], str]] = [
    (lambda d: replace(d, bank="b0"), "the bank that it belongs to: got b0, wanted b1; publish it again"),
    (lambda d: replace(d, first=0), "wanted numbers from 1 on, got 0 to 1"),
    (lambda d: replace(d, until_ts_ms=-1), "wanted an event time in ms since 1970, got -1"),
    (lambda d: replace(d, until_ts_ms=10**16), "got 10000000000000000"),
    (lambda d: replace(d, rows=np.array([0, 3, ROWS])), "wanted rows within 0..8 of its bank, got 9; publish it again"),
    (lambda d: replace(d, rows=np.array([-1, 3, 5])), "wanted rows within 0..8 of its bank, got -1"),
    (lambda d: replace(d, rows=np.array([0, 3, 3])), "wanted rows ascending, each once, got 3 then 3"),
    (lambda d: replace(d, rows=np.array([0, 7, 3])), "wanted rows ascending, each once, got 7 then 3"),
    (lambda d: replace(d, rows=np.array([0.0, 3.0, 7.0])), "wanted rows .R. int32 or int64, got float64"),
    (lambda d: replace(d, rows=np.array([[0, 3, 7]])), r"got int64 \(1, 3\)"),
    (lambda d: replace(d, anchor_day=d.anchor_day[:2]), r"anchor days: got .*\(2,\)\), wanted .*\(3,\)\)"),
    (lambda d: replace(d, anchor_day=d.anchor_day.astype(np.int64)), "anchor days: got .*int64.*wanted .*int32"),
    (lambda d: replace(d, anchor_day=d.anchor_day - 3), "wanted anchor days >= -1, got -2"),
    (lambda d: replace(d, states={"sarm": d.states["sarm"]}), r"sources: got \['sarm'\], wanted \['sarm', 'tags'\]"),
    (lambda d: replace(d, states=dict(d.states) | {"x": d.states["tags"]}), r"got \['sarm', 'tags', 'x'\]"),
    (lambda d: one_source(d, lambda state: state[:, :1]), r"source sarm: type and shape: got .*\(3, 1, 3\)"),
    (lambda d: one_source(d, lambda state: state[:2]), r"got .*\(2, 2, 3\)\), wanted .*\(3, 2, 3\)\)"),
    (lambda d: one_source(d, lambda state: state.astype(np.float64)), "got .*float64.*wanted .*float32"),
    (lambda d: one_source(d, spoilt(1, np.nan)), "wanted finite numbers, got NaN or infinity in row 3; train that"),
    (lambda d: one_source(d, spoilt(2, np.inf)), "got NaN or infinity in row 7"),
]


@pytest.mark.parametrize(("change", "complaint"), REFUSED)
def test_what_does_not_fit_the_bank_is_refused(
    full: StoredBank, change: Callable[[BankDelta], BankDelta], complaint: str
) -> None:
    wrong = change(delta())
    with pytest.raises(ArtifactError, match=complaint):
        wrong.check(LAYOUT)
    with pytest.raises(ArtifactError, match=complaint):
        fold(RUN_ID, full, [wrong])
    # Rows are written as int64, whatever they were.
    if wrong.rows.dtype.kind == "i":
        with pytest.raises(ArtifactError, match=complaint):
            decode(encode(wrong), LAYOUT)


def test_a_delta_of_a_bank_of_other_sizes_is_refused() -> None:
    other = BankLayout(run_id=RUN_ID, rows=5, states=LAYOUT.states)
    with pytest.raises(ArtifactError, match="wanted rows within 0..4 of its bank, got 7"):
        decode(encode(delta()), other)


@pytest.mark.parametrize("name", ["delta.json", "rows.npy", "anchor_day.npy", "source_tags.npy"])
def test_a_missing_file_is_named(name: str) -> None:
    files = {other: content for other, content in encode(delta()).items() if other != name}
    with pytest.raises(ArtifactError, match=f"wanted {name}, got"):
        decode(files, LAYOUT)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array", b"PK\x03\x04"])
def test_a_file_that_is_no_array_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="rows.npy: wanted a .npy array"):
        decode(encode(delta()) | {"rows.npy": content}, LAYOUT)


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([None] * 3), allow_pickle=True)
    with pytest.raises(ArtifactError, match="rows.npy: wanted a .npy array"):
        decode(encode(delta()) | {"rows.npy": (tmp_path / "rows.npy").read_bytes()}, LAYOUT)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "format of delta.json: got 2, wanted 1"),
        ({"number": "x"}, "delta.json is damaged"),
        ({"sources": None}, "delta.json is damaged"),
        ({"sources": ["../x"]}, "small letters"),
        ({"rows": 4}, "rows: got 3, wanted 4"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(change: dict[str, Any], complaint: str) -> None:
    files = encode(delta())
    with pytest.raises(ArtifactError, match=complaint):
        decode(files | {"delta.json": json.dumps(json.loads(files["delta.json"]) | change).encode()}, LAYOUT)


def test_a_gap_and_an_event_time_that_goes_back_are_refused(full: StoredBank) -> None:
    with pytest.raises(ArtifactError, match="wanted delta 2 next, got 3; .*publish the missing one"):
        fold(RUN_ID, full, [delta(1), delta(3)])
    with pytest.raises(ArtifactError, match="wanted delta 1 next, got 2"):
        fold(RUN_ID, full, [delta(2)])
    with pytest.raises(ArtifactError, match="wanted an event time after 1000 .*got 1000"):
        fold(RUN_ID, full, [delta(1), delta(2, until_ts_ms=1000)])


def test_folding_leaves_the_bank_as_it_is(full: StoredBank) -> None:
    before = {name: np.array(state) for name, state in full.states.items()}
    fold(RUN_ID, full, [delta(1)])
    assert all(np.array_equal(state, before[name]) for name, state in full.states.items())


@given(SETS_OF_ROWS)
def test_folding_is_applying_row_by_row_merged_or_not(full: StoredBank, sets: list[list[int]]) -> None:
    deltas = [delta(number, rows) for number, rows in enumerate(sets, start=1)]
    wanted = {name: np.array(state) for name, state in full.states.items()}
    days = np.array(full.anchor_day)
    for each in deltas:
        for position, row in enumerate(each.rows.tolist()):
            days[row] = each.anchor_day[position]
            for name in wanted:
                wanted[name][row] = each.states[name][position]
    for given_deltas in (deltas, [merge(deltas)] if deltas else []):
        folded, folded_days = fold(RUN_ID, full, given_deltas)
        assert np.array_equal(folded_days, days)
        assert all(np.array_equal(folded[name], state) for name, state in wanted.items())


@given(SETS_OF_ROWS.filter(lambda sets: len(sets) > 1), st.data())
def test_merging_in_steps_is_merging_at_once(sets: list[list[int]], data: st.DataObject) -> None:
    deltas = [delta(number, rows) for number, rows in enumerate(sets, start=1)]
    cut = data.draw(st.integers(1, len(deltas) - 1))
    at_once = merge(deltas)
    assert_equal(merge([merge(deltas[:cut]), merge(deltas[cut:])]), at_once)
    at_once.check(LAYOUT)
    assert (at_once.first, at_once.number, at_once.until_ts_ms) == (1, len(deltas), deltas[-1].until_ts_ms)


def test_what_does_not_follow_is_not_merged() -> None:
    with pytest.raises(ArtifactError, match="wanted delta 2 next, got 3"):
        merge([delta(1), delta(3)])


def test_the_folded_bank_is_one_to_publish(full: StoredBank, tmp_path: Path) -> None:
    folded, days = fold(RUN_ID, full, [delta(1), delta(2, rows=[1])])
    newest = full.newest_ts_ms
    read = bank.write(tmp_path, states=folded, anchor_day=days, histories=full.histories, newest_ts_ms=newest)
    assert np.array_equal(read.states["sarm"][1], states(1, 2)["sarm"][0]) and read.anchor_day[1] == 2
    assert np.array_equal(read.cold_start["tags"], states(3, 1)["tags"][0])
