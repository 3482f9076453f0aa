"""Messages through shared memory, between processes: their sizes, and what a worker's end does to the others."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from models.group import Group, Rows
from pipelines.ranking.worker import Worker, joined

WORLD = 3
GROWING = (0, 1, 700, 3, 40_000, 0, 40_000, 300_000)
"""Numbers of the dense part, message by message."""
PATIENCE_S = 120
Body = Callable[[int, Group], None]


def _work(rank: int, folder: str, body: Body) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    with joined(Worker(rank=rank, world_size=WORLD), lambda _: None) as worker:
        assert worker.memory is not None
        body(rank, worker.group)
    os._exit(0)  # gloo's own farewell would wait for workers that were killed


def _ended(body: Body, folder: Path) -> list[int | None]:
    """Exit codes of workers that run `body` when they are joined."""
    return _exit_codes(partial(_work, body=body), folder)


def _exit_codes(work: Callable[[int, str], None], folder: Path) -> list[int | None]:
    """Of processes; None of one that hangs."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(rank, str(folder))) for rank in range(WORLD)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE_S)
        return [worker.exitcode for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


def _dense(rank: int, turn: int) -> list[Tensor]:
    """Two tensors of several shapes."""
    numbers = torch.randn(GROWING[turn], generator=torch.Generator().manual_seed(10 * turn + rank))
    return [numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :].unsqueeze(0)]


def _ragged(rank: int, turn: int) -> list[Rows]:
    """Rows of two tables, of other sizes in each worker; 3 [R, 3] leaves a gap behind the odd ones."""
    generator = torch.Generator().manual_seed(1000 + 10 * turn + rank)
    counts = [(5 * rank + turn) % 7, 0 if turn % 2 else GROWING[turn] // (rank + 1)]
    shapes = [(3,), (2, 2)]
    return [
        (torch.arange(count) + 2**40 + rank, torch.randn(count, *shape, generator=generator))
        for count, shape in zip(counts, shapes, strict=True)
    ]


def _grow(rank: int, group: Group) -> None:
    for turn in [*range(len(GROWING)), *reversed(range(len(GROWING)))]:
        mean, ragged = group.swap(_dense(rank, turn), _ragged(rank, turn))
        every = [torch.cat([part.flatten() for part in _dense(other, turn)]) for other in range(WORLD)]
        assert torch.equal(mean, (every[0] + every[1] + every[2]) / WORLD)
        for item, (rows, values) in enumerate(ragged):
            wanted = [_ragged(other, turn)[item] for other in range(WORLD)]
            assert torch.equal(rows, torch.cat([rows for rows, _ in wanted]))
            assert torch.equal(values, torch.cat([values for _, values in wanted]))


def test_messages_of_all_sizes_arrive_whole(tmp_path: Path) -> None:
    assert _ended(_grow, tmp_path) == [0] * WORLD


def _keep(rank: int, group: Group) -> None:
    """What a step has returned stays what it was while the next ones are sent."""
    kept = [
        group.swap([torch.full((5,), float(turn))], [(torch.tensor([turn]), torch.ones(1, 2))]) for turn in range(6)
    ]
    for turn, (mean, ((rows, _),)) in enumerate(kept):
        assert mean.tolist() == [turn] * 5 and rows.tolist() == [turn] * WORLD


def test_what_a_step_returned_is_not_written_over(tmp_path: Path) -> None:
    assert _ended(_keep, tmp_path) == [0] * WORLD


def _have_no_name(rank: int, group: Group) -> None:
    for _ in range(2):
        group.swap([torch.ones(3)], [])
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if " rw-s " in line]
    memories = [line for line in mapped if "/memfd:training worker " in line]
    assert len(memories) == 2 * WORLD
    assert not [line for line in mapped if "/dev/shm" in line]


def test_memory_has_no_name_that_could_be_left_behind(tmp_path: Path) -> None:
    assert _ended(_have_no_name, tmp_path) == [0] * WORLD


def _die(rank: int, group: Group, after: int) -> None:
    for _ in range(after):
        group.swap([torch.ones(3)], [])
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(ConnectionError, match=r"worker \d is gone"):
        group.swap([torch.ones(3)], [])


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_worker_that_is_killed_ends_the_others(tmp_path: Path, after: int) -> None:
    assert _ended(partial(_die, after=after), tmp_path) == [0, -signal.SIGKILL, 0]


def _fail(rank: int, group: Group) -> None:
    group.swap([torch.ones(3)], [])
    if rank == 1:
        raise SystemExit(7)
    with pytest.raises(ConnectionError, match=r"worker \d is gone"):
        group.swap([torch.ones(3)], [])


def test_a_worker_that_fails_ends_the_others(tmp_path: Path) -> None:
    assert _ended(_fail, tmp_path) == [0, 7, 0]


def _die_while_joining(rank: int, folder: str) -> None:
    barrier = dist.barrier

    def barrier_and_die() -> None:
        barrier()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    dist.barrier = barrier_and_die
    with pytest.raises(ConnectionError):
        _work(rank, folder, _unreached)
    os._exit(0)


def _unreached(rank: int, group: Group) -> None:
    raise AssertionError("training began")


def test_a_worker_that_is_killed_while_workers_are_joined_ends_the_others(tmp_path: Path) -> None:
    assert _exit_codes(_die_while_joining, tmp_path) == [0, -signal.SIGKILL, 0]


def _disagree(rank: int, group: Group) -> None:
    numbers = [5, 5, 6][rank]
    with pytest.raises(RuntimeError, match=r"has gradients of \d numbers and rows of 0 tables, this one has \d and 0"):
        group.swap([torch.ones(numbers)], [])
        raise ConnectionError("the third worker alone differs, and has left: so the next message fails")


def test_workers_that_learn_other_parameters_are_told_apart(tmp_path: Path) -> None:
    assert _ended(_disagree, tmp_path) == [0] * WORLD
