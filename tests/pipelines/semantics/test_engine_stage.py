"""No engine outlives the job that started it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from pipelines.settings import Settings
from pipelines.tables.storage import StorageConfig
from pipelines.world import world
from pipelines.world.config import WorldConfig
from tests.pipelines.jobs import run_job

MARK = "STARTED_BY_TEST"
"""In the environment of a job, and so of all that it starts, whoever its parent becomes."""


def started(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # it ended, or is another user's
    return found


def within(seconds: float, true: Callable[[], object]) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def engines(mark: str) -> list[str]:
    return [process.name() for process in started(mark) if process.name().startswith("VLLM")]


@pytest.mark.ray
def test_a_killed_job_leaves_no_process_behind(tmp_path: Path):
    settings = Settings(
        run_dir=str(tmp_path / "run"),
        storage=StorageConfig(root=str(tmp_path / "store")),
        world=WorldConfig(num_days=1, num_authors=20, num_users=10, impressions_per_day=20),
    )
    run_job(world, settings)
    file = tmp_path / "anchors.yaml"
    file.write_text(yaml.safe_dump({"run_dir": settings.run_dir, "storage": {"root": settings.storage.root}}))
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "anchors", "--config", str(file)],
            env=os.environ | {MARK: str(tmp_path)}, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        assert within(240, lambda: job.poll() is not None or engines(str(tmp_path)))
        assert job.poll() is None, (tmp_path / "log").read_text()
        job.kill()
        job.wait()
        assert within(30, lambda: not started(str(tmp_path))), engines(str(tmp_path))
    finally:
        for process in started(str(tmp_path)):
            process.kill()
