from __future__ import annotations

import torch
from torch import nn

from models.embeddings import IdTable, log2_bucket, param_groups


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


def test_groups_part_the_parameters_into_tables_and_the_rest() -> None:
    model = nn.ModuleDict({"dense": nn.Linear(2, 3), "table": IdTable(5, 2, 0.1)})
    ids, dense = param_groups(model, lr_ids=0.5, lr_dense=0.25, l2_ids=0.1)
    assert (ids["name"], ids["lr"], [p.shape for p in ids["params"]]) == ("ids", 0.5, [torch.Size([5, 2])])
    assert (dense["name"], dense["lr"], len(dense["params"])) == ("dense", 0.25, 2)


def test_l2_pulls_rows_that_are_not_seen_to_zero_and_leaves_dense_weights() -> None:
    model = nn.ModuleDict({"dense": nn.Linear(2, 3), "table": IdTable(5, 2, 0.1)})
    table, weight = model["table"].weight.detach().clone(), model["dense"].weight.detach().clone()
    optimizer = torch.optim.SGD(param_groups(model, lr_ids=0.5, lr_dense=0.25, l2_ids=0.1))
    (model["table"](torch.tensor([1])).sum() + 0.0 * model["dense"].weight.sum()).backward()
    optimizer.step()
    torch.testing.assert_close(model["table"].weight.detach()[2:], table[2:] * (1 - 0.5 * 0.1))
    torch.testing.assert_close(model["dense"].weight.detach(), weight)
