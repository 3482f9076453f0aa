"""Jobs on a running cluster: `ray start --head` with a token, and `ray job submit` of the project's folder.

.venv/bin/python -m pytest tests/test_jobs.py
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.tables.storage import Storage

ROOT = Path(__file__).parent.parent
RAY = str(Path(sys.executable).with_name("ray"))
pytestmark = pytest.mark.ray


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


class Head:
    """A cluster of one node, as an operator starts it."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        self.port, self.dashboard, self._agent = free_ports(3)
        unset = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "PYTHONPATH")
        kept = {key: value for key, value in os.environ.items() if key not in unset}
        activated = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self.environment = kept | activated | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self._log = (folder / "head.log").open("w")
        self._process = subprocess.Popen(
            [
                RAY, "start", "--head", "--block", f"--port={self.port}", "--num-cpus=8", "--disable-usage-stats",
                "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}",
                f"--dashboard-agent-listen-port={self._agent}", "--object-store-memory=300000000",
            ],
            env=self.environment, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def submit(self, *command: str, token: bool = True, submission: str = "") -> subprocess.CompletedProcess[str]:
        """`ray job submit` of the project, waiting for the job's end."""
        named = [f"--submission-id={submission}"] if submission else []
        environment = self.environment if token else self.environment | {"RAY_AUTH_TOKEN_PATH": os.devnull}
        return subprocess.run(
            [
                RAY, "job", "submit", f"--address=http://127.0.0.1:{self.dashboard}", "--working-dir=.", *named,
                "--", *command,
            ],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def drive(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The door in a process of its own, from any folder: a driver that joins the cluster by RAY_ADDRESS."""
        address = {"RAY_ADDRESS": f"127.0.0.1:{self.port}", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "pipelines", *arguments],
            cwd=folder, env=self.environment | address, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def last_line(self, submission: str) -> str:
        """`ray job logs ID | tail -1`."""
        logs = subprocess.run(
            [RAY, "job", "logs", f"--address=http://127.0.0.1:{self.dashboard}", submission],
            env=self.environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return logs.stdout.splitlines()[-1]

    def wait(self) -> None:
        """Until the head takes jobs: its dashboard receives them, its agent runs them."""
        deadline = time.monotonic() + 90
        for port in (self.dashboard, self._agent):
            while not _answers(port):
                if self._process.poll() is not None:
                    raise RuntimeError(f"the head ended by itself; see {self._log.name}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"port {port} of the head did not answer in 90 s; see {self._log.name}")
                time.sleep(0.5)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=60)
        self._log.close()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    cluster = Head(tmp_path_factory.mktemp("head"))
    try:
        cluster.wait()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A tiny world; absolute paths, as the job runs from a copy of the project."""
    path = tmp_path / "world.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "seed": 5,
                "run_dir": str(tmp_path / "run"),
                "storage": {"root": str(tmp_path / "store")},
                "world": {"num_days": 3, "num_authors": 60, "num_users": 40, "impressions_per_day": 400},
            }
        )
    )
    return path


def test_a_submitted_job_writes_tables(head: Head, config: Path, tmp_path: Path) -> None:
    done = head.submit("python", "-m", "pipelines", "world", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(Storage.open(str(tmp_path / "store")).days("impressions")) == 3


@pytest.fixture
def videos(tmp_path: Path) -> str:
    """A folder whose only video is none: `ingest` makes a rejection of it, on Ray Data."""
    (tmp_path / "videos" / "author").mkdir(parents=True)
    (tmp_path / "videos" / "author" / "broken.mp4").write_bytes(b"not a video")
    return str(tmp_path / "videos")


def rejected(tmp_path: Path) -> list[str]:
    storage = Storage.open(str(tmp_path / "store"))
    return storage.read("rejections", storage.days("rejections")[0])["reason"].to_pylist()


def test_a_submitted_job_reaches_the_cluster_it_was_submitted_to(
    head: Head, config: Path, tmp_path: Path, videos: str
) -> None:
    """In a submitted job Ray Data must use the cluster, not start one of its own."""
    done = head.submit(
        "python", "-m", "pipelines", "ingest", "--config", str(config), "--set", f"ingest.source={videos}"
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Started a local Ray instance" not in done.stdout + done.stderr
    assert rejected(tmp_path) == ["unreadable_video"]


def test_a_driver_ships_its_code(head: Head, config: Path, tmp_path: Path, videos: str) -> None:
    done = head.drive(tmp_path, "ingest", "--config", str(config), "--set", f"ingest.source={videos}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Started a local Ray instance" not in done.stdout + done.stderr
    assert rejected(tmp_path) == ["unreadable_video"]


def test_the_last_line_of_a_job_s_log_is_its_verdict(head: Head, config: Path, tmp_path: Path) -> None:
    command = ("python", "-m", "pipelines", "world", "--config", str(config))
    assert head.submit(*command, submission="good").returncode == 0
    verdict = json.loads(head.last_line("good"))
    assert (verdict["job"], verdict["exit_code"], verdict["metrics"]) == ("world", 0, f"{tmp_path}/run/world.json")
    assert head.submit(*command, "--set", "storage.root=runs/store", submission="relative").returncode == 1
    verdict = json.loads(head.last_line("relative"))
    assert (verdict["exit_code"], verdict["retry"]) == (2, False)
    assert "storage.root runs/store: wanted an absolute path" in verdict["error"]


def test_a_failing_job_fails_the_submission(head: Head, config: Path) -> None:
    done = head.submit("python", "-m", "pipelines", "world", "--config", str(config), "--set", "world.num_day=1")
    assert done.returncode != 0
    assert "num_days" in done.stdout + done.stderr


def test_without_the_token_nothing_is_taken(head: Head, config: Path) -> None:
    done = head.submit("python", "-m", "pipelines", "world", "--config", str(config), token=False)
    assert done.returncode != 0
