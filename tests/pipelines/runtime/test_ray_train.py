"""Training on a cluster of several nodes: what it survives, what that counts, and storage that not all nodes see."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import pytest
import torch
from safetensors.torch import load_file

from models.sarm.memory_bank import MemoryBank
from pipelines.ranking.checkpoint import bank_file
from pipelines.settings import Settings
from tests.pipelines.conftest import last_checkpoint
from tests.pipelines.machines import TRAIN_WORKER, Machines, kill, machines
from tests.pipelines.two_workers import train_on_two

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    """Two worker nodes: the training workers fit on one, and the other one is left when it is lost."""
    # A node that is gone is noticed within seconds; by default that takes up to half a minute.
    soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    with machines(2, soon) as cluster:
        yield cluster


def lines_of(job: "Popen[str]") -> Iterator[str]:
    """Up to its end, which is waited for."""
    assert job.stderr is not None
    with job:
        yield from job.stderr


def in_small_steps(settings: Settings, checkpoints: Path) -> Settings:
    train = replace(settings.train, base=False, batch_size=32, log_every=1, checkpoints=str(checkpoints))
    return replace(settings, train=train)


def test_a_folder_that_only_this_node_sees_is_refused(cluster: Machines, tiny: Settings, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    # The same path is another folder, or none, in every process that does not inherit the descriptor.
    own = in_small_steps(tiny, Path(f"/proc/self/fd/{descriptor}/checkpoints"))
    job = cluster.start("train", own, pass_fds=[descriptor])
    log = list(lines_of(job))
    os.close(descriptor)
    assert job.returncode == 2
    assert log[-1].startswith(f"error: train.checkpoints {own.train.checkpoints}: wanted storage that every node sees")
    assert "give a mount that all 3 nodes share" in log[-1]


def test_a_lost_node_is_one_failure(cluster: Machines, tiny: Settings, tmp_path: Path) -> None:
    tiny = in_small_steps(tiny, tmp_path / "checkpoints")
    banks, weights = train_on_two(tiny, tmp_path)
    job, log, killed = cluster.start("train", tiny), [], False
    for line in lines_of(job):
        log.append(line)
        if "| 2026-01-02 |" in line and not killed:
            raylet = cluster.raylet_of(cluster.processes(TRAIN_WORKER)[0])
            kill(raylet, *raylet.children(recursive=True))
            killed = True
    assert killed and job.returncode == 0, "".join(log)
    assert ["failure 1 of at most 2" in line for line in log if " | failure " in line] == [True]
    last = last_checkpoint(tmp_path / "checkpoints")
    assert last is not None
    found = load_file(last / "model.safetensors")
    assert all(torch.equal(found[name], weights[0][name]) for name in found)
    assert torch.equal(MemoryBank.load(last / bank_file("sarm"), torch.device("cpu")).vectors, banks[0])
