"""What workers exchange, between processes that gloo joins as Ray Train would join them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from models import embeddings
from models.embeddings import IdTable
from pipelines.ranking.shared_memory import Place
from pipelines.ranking.worker import Exchange, Worker, from_first, joined

WAYS = ("shared memory", "torch.distributed")
ROWS, DIM = 50, 4
SIZES = (2, 5, 0)
"""Rows that each worker has something to say of; the last one of three has none."""


class _Model(nn.Module):
    """A sparse table, a small one, a dense layer, batch normalisation, and something that nobody learns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.big, self.small, self.dense = IdTable(ROWS, DIM, 1.0), IdTable(3, DIM, 1.0), nn.Linear(DIM, DIM)
        self.norm = nn.BatchNorm1d(DIM)
        self.idle = nn.Linear(2, 2)

    def loss(self, rank: int) -> Tensor:
        """Of a worker's own part of a batch, which differs in size from the others'."""
        generator = torch.Generator().manual_seed(rank)
        rows = torch.randint(0, ROWS, (4 + rank,), generator=generator).repeat(2)  # each row twice
        read = self.norm(self.dense(self.big(rows) + self.small(rows % 3)))
        return (read * torch.randn(read.shape, generator=generator)).sum()


def _said(rank: int) -> tuple[Tensor, Tensor]:
    rows = torch.arange(SIZES[rank]) + 10 * rank + 2**40  # more than a float can hold
    return rows, torch.randn(len(rows), 2, 3, generator=torch.Generator().manual_seed(rank))


def _run(rank: int, world: int, folder: str) -> None:
    embeddings.SPARSE_FROM = ROWS  # in this process alone
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    lines: list[str] = []
    found: dict[str, Any] = {}
    with joined(Worker(rank=rank, world_size=world), lines.append) as worker:
        for way in WAYS:
            found[way] = _exchanged(worker if way == WAYS[0] else replace(worker, memory=None))
    torch.save(found | {"lines": lines}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _exchanged(worker: Worker) -> dict[str, Any]:
    model, rank = _Model(), worker.rank
    model.loss(rank).backward()
    exchange = Exchange(model, worker)
    exchange()
    said = [_said(rank), (torch.arange(2 * rank)[::2], torch.full((rank,), rank / 2))]
    mean, ((rows, vectors), (_, scalars)) = worker.group.swap([torch.full((2, 1), float(rank))], said)
    return {
        "gradients": {n: None if p.grad is None else p.grad.to_dense() for n, p in model.named_parameters()},
        "is_sparse": model.big.weight.grad is not None and model.big.weight.grad.is_sparse,
        "statistics": [model.norm.running_mean, model.norm.running_var],
        "mean": mean,
        "rows": rows,
        "vectors": vectors,
        "scalars": scalars,
        "gathered": list(exchange.gather(*_said(rank))),
        "newest": exchange.newest(torch.tensor([rank, -rank])),
        "first": from_first(float(rank + 7), worker),
    }


def _found(world: int, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(_run, args=(world, str(folder)), nprocs=world)  # type: ignore[attr-defined, no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return _found(3, tmp_path_factory)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return _found(2, tmp_path_factory)


@pytest.fixture(params=WAYS)
def found(request: pytest.FixtureRequest, three: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [of_worker[request.param] for of_worker in three]


def _models(world: int) -> list[_Model]:
    """Of all workers after their backward passes."""
    models = [_Model() for _ in range(world)]
    for rank, model in enumerate(models):
        model.loss(rank).backward()
    return models


def test_every_worker_has_the_mean_of_all_gradients(found: list[dict[str, Any]]) -> None:
    models = _models(3)
    wanted = {
        name: torch.stack([dict(model.named_parameters())[name].grad for model in models]).mean(dim=0)
        for name in found[0]["gradients"]
        if not name.startswith("idle")
    }
    for of_worker in found:
        learnt = {name: gradient for name, gradient in of_worker["gradients"].items() if gradient is not None}
        torch.testing.assert_close(learnt, wanted)
        assert of_worker["is_sparse"]
        assert set(of_worker["gradients"]) - set(learnt) == {"idle.weight", "idle.bias"}


def test_running_statistics_are_the_mean_of_all_workers(found: list[dict[str, Any]]) -> None:
    models = _models(3)
    means, variances = ([getattr(m.norm, name) for m in models] for name in ("running_mean", "running_var"))
    for of_worker in found:
        torch.testing.assert_close(of_worker["statistics"][0], torch.stack(means).mean(dim=0))
        torch.testing.assert_close(of_worker["statistics"][1], torch.stack(variances).mean(dim=0))


def test_rows_come_whole_and_in_the_order_of_ranks(found: list[dict[str, Any]]) -> None:
    rows, vectors = (torch.cat(parts) for parts in zip(*(_said(rank) for rank in range(3)), strict=True))
    for of_worker in found:
        assert torch.equal(of_worker["rows"], rows) and torch.equal(of_worker["vectors"], vectors)
        assert of_worker["scalars"].tolist() == [0.5, 1.0, 1.0] and of_worker["mean"].tolist() == [1.0, 1.0]
        assert torch.equal(of_worker["gathered"][0], rows) and torch.equal(of_worker["gathered"][1], vectors)


def test_all_workers_end_with_the_same_bits(found: list[dict[str, Any]]) -> None:
    first, *others = found
    for other in others:
        for name in ("gradients", "statistics"):
            torch.testing.assert_close(other[name], first[name], rtol=0.0, atol=0.0)


def test_two_workers_end_with_the_same_bits_by_either_way(two: list[dict[str, Any]]) -> None:
    for of_worker in two:
        by_memory, by_distributed = (of_worker[way] for way in WAYS)
        torch.testing.assert_close(by_memory, by_distributed, rtol=0.0, atol=0.0)


def test_the_newest_and_the_first_workers_value_are_everybodys(found: list[dict[str, Any]]) -> None:
    assert [of_worker["first"] for of_worker in found] == [7.0] * 3
    assert [of_worker["newest"].tolist() for of_worker in found] == [[2, 0]] * 3


def test_a_line_says_how_workers_of_one_machine_exchange(two: list[dict[str, Any]]) -> None:
    line = "2 workers on 1 machine(s), which compute on cpu, exchange by shared memory"
    assert [of_worker["lines"] for of_worker in two] == [[line]] * 2


def _elsewhere(rank: int, folder: str) -> None:
    """Two workers, of which the second is on another machine, and then computes on something else."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    here, lines = Place.of, []
    for field in ("machine", "device"):
        Place.of = lambda *args, field=field: here(*args)._replace(**({field: "other"} if rank else {}))
        with joined(Worker(rank=rank, world_size=2), lines.append) as worker:
            assert worker.memory is None
    assert lines == [
        "2 workers on 2 machine(s), which compute on cpu, exchange by torch.distributed (gloo)",
        "2 workers on 1 machine(s), which compute on cpu and other, exchange by torch.distributed (gloo)",
    ]
    dist.destroy_process_group()


def test_workers_elsewhere_exchange_by_torch_distributed(tmp_path: Any) -> None:
    mp.spawn(_elsewhere, args=(str(tmp_path),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]


def test_one_worker_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "SPARSE_FROM", ROWS)
    model = _Model()
    model.loss(0).backward()
    before = model.big.weight.grad
    lines: list[str] = []
    with joined(Worker(), lines.append) as worker:
        Exchange(model, worker)()
        assert Exchange(model, worker).gather(*(said := _said(1))) == said
    assert model.big.weight.grad is before
    assert from_first(3.5, Worker()) == 3.5
    assert not lines
