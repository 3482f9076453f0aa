from __future__ import annotations

import torch

from models.embeddings import IdTable, log2_bucket


def test_row_zero_starts_at_zero_and_learns() -> None:
    table = IdTable(4, 3, 0.1)
    read = table(torch.tensor([[0, 2]]))
    assert read.shape == (1, 2, 3)
    assert not read[0, 0].any() and read[0, 1].any()
    read.sum().backward()
    assert table.weight.grad is not None and table.weight.grad[0].tolist() == [1.0, 1.0, 1.0]


def test_buckets_are_exact_at_powers_of_two() -> None:
    values = torch.tensor([-5.0, 0.0, 0.99, 1.0, 2.99, 3.0, 7.0, 2.0**20 - 1, 1e30])
    assert log2_bucket(values, 24).tolist() == [0, 0, 0, 1, 1, 2, 3, 20, 23]
