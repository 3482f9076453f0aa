"""Row by row against `torch.optim.Adam` over the whole table."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from models import embeddings
from models.embeddings import IdTable
from models.row_adam import RowAdam

ROWS, DIM, STEPS = 40, 3, 60
RATES = {"lr": 0.01, "weight_decay": 0.0003}


@pytest.fixture(autouse=True)
def _sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "SPARSE_FROM", ROWS)


def _table() -> IdTable:
    torch.manual_seed(1)
    return IdTable(ROWS, DIM, 0.5)


def _reads(steps: int = STEPS) -> list[Tensor]:
    """Rows of each step: low ones often, high ones seldom, some twice in a step."""
    generator = torch.Generator().manual_seed(0)
    return [(ROWS * torch.rand(6, generator=generator) ** 4).long() for _ in range(steps)]


def _loss(table: IdTable, rows: Tensor, number: int) -> Tensor:
    return (table(rows) * torch.cos(torch.arange(float(DIM)) + number)).sum() / 50


def _learn(table: IdTable, optimizer: torch.optim.Optimizer, reads: Sequence[Tensor], first: int = 0) -> None:
    for number, rows in enumerate(reads, first):
        optimizer.zero_grad()
        _loss(table, rows, number).backward()
        optimizer.step()


def _dense(reads: Sequence[Tensor], **rates: float) -> Tensor:
    """What Adam makes of the whole table."""
    table = _table()
    weight = torch.nn.Parameter(table.weight.detach().clone())
    optimizer = torch.optim.Adam([weight], **rates)
    for number, rows in enumerate(reads):
        optimizer.zero_grad()
        loss = (weight[rows] * torch.cos(torch.arange(float(DIM)) + number)).sum() / 50
        loss.backward()
        optimizer.step()
    return weight.detach()


def test_rows_that_every_step_reads_are_learnt_as_by_adam() -> None:
    table, every = _table(), [torch.arange(ROWS)] * STEPS
    _learn(table, RowAdam([table], **RATES), every)
    torch.testing.assert_close(table.weight.detach(), _dense(every, **RATES), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("weight_decay", "most"), [(0.0, 0.05), (0.0003, 0.2)])
def test_rows_that_steps_have_missed_catch_up_with_adam(weight_decay: float, most: float) -> None:
    """The means of what is seen: nothing is learnt here but noise, the worst case, and Adam amplifies the L2 term."""
    table, rates = _table(), {"lr": 0.01, "weight_decay": weight_decay}
    before = table.weight.detach().clone()
    optimizer = RowAdam([table], **rates)
    _learn(table, optimizer, _reads())
    stale = table.weight.detach().clone()
    optimizer.settle()
    wanted = _dense(_reads(), **rates)
    seen = torch.cat(_reads()).unique()
    error = (table.weight.detach() - wanted)[seen].abs().mean()
    assert error < most * (wanted - before)[seen].abs().mean()
    assert error < 0.7 * (stale - wanted)[seen].abs().mean(), "hardly better than rows that have not caught up"


def test_rows_that_no_step_reads_go_to_zero_as_fast_as_adam_takes_them_there() -> None:
    table, reads = _table(), [torch.tensor([1, 2])] * 20
    optimizer = RowAdam([table], **RATES)
    _learn(table, optimizer, reads)
    optimizer.settle()
    moved, wanted = (float(found[5:].abs().sum()) for found in (table.weight.detach(), _dense(reads, **RATES)))
    assert wanted < 0.9 * float(_table().weight.detach()[5:].abs().sum())
    assert moved == pytest.approx(wanted, rel=0.15)


def test_a_row_is_up_to_date_when_it_is_read() -> None:
    """Without reading ahead of the step, a seldom row would be scored as it was when it was seen last."""
    table = _table()
    optimizer = RowAdam([table], **RATES)
    _learn(table, optimizer, [torch.tensor([3, 4])] * 2 + [torch.tensor([4])] * 30)
    stale = table.weight.detach()[3].clone()
    read = table(torch.tensor([3, 4])).detach()[0]
    assert not torch.equal(read, stale)
    optimizer.settle()
    assert torch.equal(table.weight.detach()[3], read)


def test_a_row_that_is_only_scored_is_as_a_settled_one_and_stays_where_it_is() -> None:
    table, twin = _table(), _table()
    optimizer, of_twin = RowAdam([table], **RATES), RowAdam([twin], **RATES)
    for each, its in ((table, optimizer), (twin, of_twin)):
        _learn(each, its, _reads())
    of_twin.settle()
    every, before = torch.arange(ROWS).view(2, -1), table.weight.detach().clone()
    with torch.no_grad():
        scored = table(every)
        assert torch.equal(scored, twin(every))
    assert not torch.equal(scored.view(ROWS, DIM), before) and torch.equal(table.weight, before)
    assert torch.equal(twin.weight.view(2, -1, DIM), scored)


def test_settling_twice_changes_nothing() -> None:
    table = _table()
    optimizer = RowAdam([table], **RATES)
    _learn(table, optimizer, _reads(5))
    optimizer.settle()
    once = table.weight.detach().clone()
    optimizer.settle()
    assert torch.equal(once, table.weight.detach()) and torch.isfinite(once).all()


def test_a_row_that_is_away_for_ages_is_finite_and_smaller() -> None:
    table = _table()
    before = table.weight.detach()[7].clone()
    optimizer = RowAdam([table], **RATES)
    _learn(table, optimizer, [torch.tensor([7, 8])])
    optimizer.state[table.weight]["now"] = [10_000_000.0, 100_000.0]
    optimizer.settle()
    after = table.weight.detach()[7]
    assert torch.isfinite(table.weight).all() and (after.abs() < before.abs()).all()


def test_going_on_from_what_was_saved_gives_the_same_bits() -> None:
    reads = _reads()
    table = _table()
    optimizer = RowAdam([table], **RATES)
    _learn(table, optimizer, reads[:30])
    kept, saved = copy.deepcopy(table.weight.detach()), copy.deepcopy(optimizer.state_dict())
    _learn(table, optimizer, reads[30:], first=30)
    again = _table()
    with torch.no_grad():
        again.weight.copy_(kept)
    resumed = RowAdam([again], **RATES)
    resumed.load_state_dict(saved)
    assert resumed.state[again.weight]["come_to"].dtype == torch.float64
    _learn(again, resumed, reads[30:], first=30)
    assert torch.equal(table.weight, again.weight)


def test_a_gradient_that_comes_some_steps_after_the_read_finds_its_rows() -> None:
    """As that of an encoder, which a window of steps shares: its rows are read at the start and learnt at the end."""
    table = _table()
    optimizer = RowAdam([table], **RATES)
    _learn(table, optimizer, _reads(10))
    early = table(torch.tensor([5, 6])).square().sum()
    _learn(table, optimizer, [torch.tensor([1])] * 3, first=10)
    optimizer.zero_grad()
    _loss(table, torch.tensor([1]), 13).backward()
    early.backward()
    optimizer.step()
    state = optimizer.state[table.weight]
    assert state["now"][0] == 14 and state["come_to"][[1, 5, 6], 0].tolist() == [14, 14, 14]


def test_a_table_counts_its_own_steps() -> None:
    first, second = _table(), _table()
    optimizer = RowAdam([first, second], **RATES)
    for number, rows in enumerate(itertools.islice(_reads(), 4)):
        optimizer.zero_grad()
        loss = _loss(first, rows, number)
        (loss + _loss(second, rows, number) if number == 3 else loss).backward()
        optimizer.step()
    assert [optimizer.state[table.weight]["now"][0] for table in (first, second)] == [4, 1]
