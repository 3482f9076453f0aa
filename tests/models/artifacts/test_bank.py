"""The bank's files: what is written is read, mapped, and what does not fit is refused by both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifacts import bank
from models.artifacts.bank import NO_ANCHOR, Histories, StoredBank
from models.artifacts.manifest import ArtifactError
from models.history import HISTORY_PAD, HistoryRule

RULE = HistoryRule(length=3, days=14, delay_ms=600_000)
ROWS, WIDTH = 6, 4
DAY_MS = 86_400_000
NEWEST_MS = 10 * DAY_MS


def histories() -> Histories:
    return Histories(
        rule=RULE,
        user_ids=np.array([3, 8]),
        author_ids=np.array([[HISTORY_PAD, HISTORY_PAD, 5, 6], [1, 2, 3, 4]]),
        ts_ms=np.array([[0, 0, 10, 20], [1, 2, 3, 4]]),
        watch_s=np.array([[0, 0, 1, 2], [1, 1, 1, 1]], np.float32),
    )


def states() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "sarm": rng.normal(size=(ROWS, 2, WIDTH)).astype(np.float32),
        "tags": rng.integers(0, 9, (ROWS, 3)),
        "ids_2": rng.integers(0, 9, (ROWS, 5)).astype(np.int32),
    }


def write(folder: Path, **other: Any) -> StoredBank:
    folder.mkdir(exist_ok=True)
    days = np.array([NO_ANCHOR, 5, 6, 7, NO_ANCHOR, 9], np.int32)
    given = {"states": states(), "anchor_day": days, "histories": histories(), "newest_ts_ms": NEWEST_MS} | other
    return bank.write(folder, **given)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    read = bank.read(tmp_path)
    assert (read.format, read.rows) == (bank.FORMAT, ROWS)
    assert read.anchor_day.tolist() == [-1, 5, 6, 7, -1, 9]
    for name, state in states().items():
        assert np.array_equal(read.states[name], state) and read.states[name].dtype == state.dtype
        assert np.array_equal(read.cold_start[name], state[0])
    for name in ("user_ids", "author_ids", "ts_ms", "watch_s"):
        assert np.array_equal(getattr(read.histories, name), getattr(histories(), name))
    assert read.histories.rule == RULE


def test_states_are_mapped_and_not_copied(tmp_path: Path) -> None:
    for state in write(tmp_path).states.values():
        assert isinstance(state.base, np.memmap) and not state.flags.writeable


def test_each_source_has_its_file(tmp_path: Path) -> None:
    write(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("source_*")) == [
        "source_ids_2.npy",
        "source_sarm.npy",
        "source_tags.npy",
    ]


def test_a_bank_of_no_source_is_one(tmp_path: Path) -> None:
    assert write(tmp_path, states={}).states == {}


def test_histories_can_be_left_out(tmp_path: Path) -> None:
    read = write(tmp_path, histories=Histories.none(RULE)).histories
    assert not list(tmp_path.glob("history_*")) and len(read.user_ids) == 0 and read.rule == RULE


def test_a_users_history_comes_without_padding(tmp_path: Path) -> None:
    authors, times, watched = write(tmp_path).histories.of_user(3)
    assert (authors.tolist(), times.tolist(), watched.tolist()) == ([5, 6], [10, 20], [1.0, 2.0])


@pytest.mark.parametrize("user_id", [2, 4, 9])
def test_an_unknown_user_has_no_history(tmp_path: Path, user_id: int) -> None:
    assert [len(column) for column in write(tmp_path).histories.of_user(user_id)] == [0, 0, 0]


def test_where_the_states_are_elsewhere_only_row_0_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a")
    asked = []

    def part(name: str, num_bytes: int) -> bytes:
        asked.append(num_bytes)
        return whole[name][:num_bytes]

    whole = {path.name: path.read_bytes() for path in (tmp_path / "a").glob("source_*")}
    for path in (tmp_path / "a").glob("source_*"):
        path.unlink()
    read = bank.read(tmp_path / "a", part)
    assert {name: len(state) for name, state in read.states.items()} == {"ids_2": 0, "sarm": 0, "tags": 0}
    for name, state in states().items():
        assert np.array_equal(read.cold_start[name], state[0]) and read.cold_start[name].dtype == state.dtype
        assert read.states[name].shape[1:] == state.shape[1:]
    assert max(asked) <= 4096


def with_nan(state: np.ndarray) -> np.ndarray:
    return np.where(np.arange(ROWS)[:, None, None] == 3, np.float32(np.nan), state)


def tar_alone(state: np.ndarray) -> np.ndarray:
    return np.stack([state[:, 0], np.ones_like(state[:, 1])], axis=1)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda state: state[:-1], "source sarm: rows: got 5, wanted 6"),
        (lambda state: state.astype(np.float64), r"wanted \[N\+1, ...\] of float32.*got float64"),
        (lambda state: state[:, 0, 0], r"got float32 \(6,\)"),
        (lambda state: state[:, :, :0], r"got float32 \(6, 2, 0\)"),
        (with_nan, "row 3 holds NaN"),
        (np.zeros_like, r"vectors \[0, 1\] are the same"),
        (tar_alone, r"vectors \[1\] are the same"),
    ],
)
def test_a_state_that_is_not_fit_to_serve_is_refused(
    tmp_path: Path, spoil: Callable[[np.ndarray], np.ndarray], complaint: str
) -> None:
    with pytest.raises(ArtifactError, match=complaint):
        write(tmp_path / "b", states={"sarm": spoil(states()["sarm"])})


def test_a_feature_that_all_authors_share_is_fine(tmp_path: Path) -> None:
    embedded = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    embedded[:, 1] = 0.5
    stored = write(tmp_path, states={"embedding": embedded, "tags": np.zeros((ROWS, 2), np.int64)})
    assert np.array_equal(stored.states["embedding"], embedded)


@pytest.mark.parametrize("name", ["../sarm", "sarm+tags", "Sarm", ""])
def test_a_source_whose_name_makes_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="small letters"):
        write(tmp_path, states={name: states()["sarm"]})


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"user_ids": np.array([8, 3])}, "ascending and unique"),
        ({"user_ids": np.array([3, 3])}, "ascending and unique"),
        ({"ts_ms": np.zeros((2, 3), np.int64)}, r"shape of history_ts_ms.npy: got \(2, 3\), wanted \(2, 4\)"),
        ({"watch_s": np.zeros((2, 4))}, "float64.*float32"),
        ({"rule": replace(RULE, length=5)}, "wanted histories of 5 or more, got 4"),
    ],
)
def test_histories_that_do_not_fit_are_refused(tmp_path: Path, columns: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ArtifactError, match=complaint):
        write(tmp_path, histories=replace(histories(), **columns))


def test_anchor_days_have_one_number_for_none(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="wanted anchor days >= -1, got -7"):
        write(tmp_path, anchor_day=np.array([-1, 5, 6, 7, -7, 9], np.int32))


@pytest.mark.parametrize("name", ["bank.json", "anchor_day.npy", "source_tags.npy", "history_ts_ms.npy"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"wanted {name}, got"):
        bank.read(tmp_path)


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    write(tmp_path)
    np.save(tmp_path / "anchor_day.npy", np.array([None] * ROWS), allow_pickle=True)
    with pytest.raises(ArtifactError, match="wanted a .npy array"):
        bank.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 1}, "format of bank.json: got 1, wanted 2"),
        ({"rows": 7}, "anchor days: got 6, wanted 7"),
        ({"sources": ["sarm", "../x"]}, "small letters"),
        ({"history": {"length": 0, "days": 1, "delay_ms": 0}}, "is damaged.*length >= 1"),
        ({"history": {}}, "is damaged"),
        ({"users": 3}, "users with a history: got 2, wanted 3"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    write(tmp_path)
    head = json.loads((tmp_path / "bank.json").read_text())
    (tmp_path / "bank.json").write_text(json.dumps(head | change))
    with pytest.raises(ArtifactError, match=complaint):
        bank.read(tmp_path)


def test_days_are_numbers_and_back() -> None:
    assert bank.day_number("1970-01-02") == 1
    assert bank.anchor_date(bank.day_number("2026-01-08")) == date(2026, 1, 8)
    assert bank.anchor_date(NO_ANCHOR) is None
