from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.sarm.memory_bank import NEVER, MemoryBank


def test_rows_never_written_are_zeros_and_say_so() -> None:
    bank = MemoryBank(3, 2)
    assert not bank.read(torch.tensor([[0, 3]])).any()
    assert bank.written_step.tolist() == [NEVER] * 4


def test_what_was_written_is_read_detached_and_in_any_shape() -> None:
    bank = MemoryBank(3, 2)
    vectors = torch.arange(8.0, requires_grad=True).view(2, 2, 2)
    bank.write(torch.tensor([3, 1]), vectors, step=7)
    read = bank.read(torch.tensor([[1, 3], [3, 2]]))
    assert read.shape == (2, 2, 2, 2) and not read.requires_grad
    assert torch.equal(read[0, 0], vectors[1].detach())
    assert torch.equal(bank.read_part(torch.tensor([3]), 0), vectors[:1, 0].detach())
    assert bank.written_step.tolist() == [NEVER, 7, NEVER, 7]


def test_its_age_is_that_of_the_rows_that_were_written() -> None:
    bank = MemoryBank(9, 1)
    assert math.isnan(bank.age(5))
    bank.write(torch.tensor([3, 1, 7]), torch.zeros(3, 2, 1), step=2)
    bank.write(torch.tensor([1]), torch.zeros(1, 2, 1), step=8)
    assert bank.age(10) == pytest.approx((8 + 8 + 2) / 3)


def test_the_age_of_a_big_bank_is_that_of_rows_all_over_it() -> None:
    bank = MemoryBank(600_000, 1)
    bank.written_step[1:] = torch.arange(600_000) // 1000
    assert bank.age(600) == pytest.approx(600 - 599 / 2, rel=1e-3)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), min_size=1, max_size=20))
def test_the_last_of_duplicate_rows_stays(writes: list[tuple[int, int]]) -> None:
    bank = MemoryBank(4, 1)
    values = torch.tensor([float(value) for _, value in writes]).view(-1, 1, 1).expand(-1, 2, 1)
    bank.write(torch.tensor([row for row, _ in writes]), values, step=0)
    for row, value in dict(writes).items():
        assert bank.vectors[row].flatten().tolist() == [value, value]


@pytest.mark.parametrize(
    ("rows", "shape", "step"), [([0], (2, 2, 2), 0), ([0], (1, 2, 3), 0), ([4], (1, 2, 2), 0), ([0], (1, 2, 2), -1)]
)
def test_writes_that_do_not_fit_are_refused(rows: list[int], shape: tuple[int, ...], step: int) -> None:
    with pytest.raises(ValueError, match="rows|step"):
        MemoryBank(3, 2).write(torch.tensor(rows), torch.zeros(shape), step)


def test_a_snapshot_does_not_follow_later_writes() -> None:
    bank = MemoryBank(1, 2)
    snapshot = bank.to_numpy()
    bank.write(torch.tensor([1]), torch.ones(1, 2, 2), step=0)
    assert snapshot.shape == (2, 2, 2) and not snapshot.any()


def test_save_and_load_give_the_same_bank(tmp_path: Path) -> None:
    bank = MemoryBank(2, 3)
    bank.write(torch.tensor([2]), torch.randn(1, 2, 3), step=5)
    bank.save(tmp_path / "bank.safetensors")
    loaded = MemoryBank.load(tmp_path / "bank.safetensors")
    assert torch.equal(loaded.vectors, bank.vectors) and torch.equal(loaded.written_step, bank.written_step)
