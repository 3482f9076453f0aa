"""How a job reaches Ray, and what is left when it has failed."""

import subprocess
import sys
from pathlib import Path

import pytest
import ray

from pipelines.runtime import cluster
from pipelines.runtime.cluster import ClusterConfig, connected
from pipelines.runtime.config import ConfigError

FAILING = """
import logging
from pipelines.runtime.cluster import ClusterConfig, connected

logging.basicConfig()

class Slow:
    def __call__(self, batch):
        import sys, time
        time.sleep(0.2)
        print("ERROR a worker speaks", file=sys.stderr)
        return batch

def rows():
    import ray
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield from ray.data.range(200).repartition(100).map_batches(Slow, concurrency=1, num_cpus=0.1).iter_batches()

def job():
    with connected(ClusterConfig(object_store_gb=0.1)):
        for _ in rows():
            raise RuntimeError("the job fails in the middle of a stream")

try:
    job()
except RuntimeError as error:
    print("caught:", error)
import gc, ray
gc.collect()  # what the failure left of the stream ends here, after its Ray
try:
    ray.get(ray.put(1))
except Exception as error:
    print("no Ray:", type(error).__name__)
print("is there a Ray?", ray.is_initialized())
"""


@pytest.mark.ray
def test_a_failed_job_starts_no_second_ray_and_tells_what_workers_wrote():
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, timeout=300)
    assert "caught: the job fails in the middle of a stream" in done.stdout, done.stderr
    assert "is there a Ray? False" in done.stdout and "no Ray:" in done.stdout
    assert done.stderr.count("Started a local Ray instance") == 1
    assert "  | ERROR a worker speaks" in done.stderr


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_a_temporary_folder_too_long_for_sockets_is_refused_before_ray_starts(
    no_ray: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "x" * 60)
    with pytest.raises(ConfigError, match="RAY_TMPDIR /tmp/x*: wanted .*at most 3[0-9] bytes, .*got 65; export"):
        with connected(ClusterConfig()):
            pass


def test_a_temporary_folder_that_is_none_is_refused_before_ray_starts(no_ray: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_TMPDIR", "/etc/passwd")
    with pytest.raises(ConfigError, match="RAY_TMPDIR /etc/passwd: wanted a folder that this user can write"):
        with connected(ClusterConfig()):
            pass


def test_a_checkout_is_shipped_and_an_installation_is_not(tmp_path: Path):
    shipped = cluster.shipped_code(cluster.ROOT)
    assert shipped is not None and shipped["working_dir"] == str(cluster.ROOT)
    assert {"/runs", "/docs", "/tests"} <= set(shipped["excludes"])
    assert cluster.shipped_code(tmp_path) is None
