"""Where the figures of a training go: what is read back of them, and what happens where they cannot go there."""

import logging
import resource
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pipelines.runtime.config import ConfigError
from pipelines.runtime.watch import NotWatchedError, WatchConfig, require, watched
from tests.pipelines.curves import curves

RUN, PLAIN = "sarm-2026-01-02-x", WatchConfig()


def attempt(folder: Path, first: int, last: int, value: float, config: WatchConfig = PLAIN) -> None:
    """One driver, in which one attempt goes on after step `first - 1` and dies, or ends, after `last`."""
    with watched(config, folder, RUN, "sarm", {"batch_size": 256}) as watch:
        watch(first - 1, {})
        for step in range(first, last + 1):
            watch(step, {"loss/click": value + step, "pace/examples_per_s": 1000.0})


def test_figures_are_read_back_by_name_and_step(tmp_path: Path) -> None:
    attempt(tmp_path, 1, 3, 0.5)
    found = curves(tmp_path / "tensorboard" / RUN)
    assert found == {
        "loss/click": [(1, 1.5), (2, 2.5), (3, 3.5)],
        "pace/examples_per_s": [(1, 1000.0), (2, 1000.0), (3, 1000.0)],
    }


def test_a_run_that_is_started_again_goes_on_in_its_curves_without_doubling_a_step(tmp_path: Path) -> None:
    """The first attempt got to step 6, its last checkpoint was of step 3."""
    attempt(tmp_path, 1, 6, 0.0)
    attempt(tmp_path, 4, 8, 100.0)
    found = curves(tmp_path / "tensorboard" / RUN)["loss/click"]
    assert found == [(1, 1.0), (2, 2.0), (3, 3.0), *((step, 100.0 + step) for step in range(4, 9))]


def test_an_attempt_of_the_same_driver_doubles_no_step(tmp_path: Path) -> None:
    with watched(PLAIN, tmp_path, RUN, "sarm", {}) as watch:
        for first, last in ((1, 5), (1, 3), (3, 4)):
            watch(first - 1, {})
            for step in range(first, last + 1):
                watch(step, {"loss/click": float(10 * first + step)})
    assert curves(tmp_path / "tensorboard" / RUN)["loss/click"] == [(1, 11.0), (2, 12.0), (3, 33.0), (4, 34.0)]


def test_runs_have_curves_of_their_own(tmp_path: Path) -> None:
    for run in ("sarm-1", "base-1"):
        with watched(PLAIN, tmp_path, run, run[:4], {}) as watch:
            watch(1, {"loss/click": 1.0})
    assert sorted(folder.name for folder in (tmp_path / "tensorboard").iterdir()) == ["base-1", "sarm-1"]


def test_no_files_are_written_where_none_are_wanted(tmp_path: Path) -> None:
    attempt(tmp_path, 1, 2, 0.0, WatchConfig(tensorboard=False))
    assert not list(tmp_path.iterdir())


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond 500 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_once_and_disturbs_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with watched(PLAIN, tmp_path, RUN, "sarm", {}) as watch:
        with full_disk():
            for step in range(1, 100):
                watch(step, {"loss/click": 1.0})
        watch(100, {"loss/click": 1.0})
    (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "TensorBoard in" in said.getMessage() and "training goes on without" in said.getMessage()


def test_mlflow_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    require(PLAIN)
    with pytest.raises(ConfigError, match="train.watch.mlflow http://there: .*got none; install the extra mlflow"):
        require(WatchConfig(mlflow="http://there"))


def test_mlflow_that_does_not_answer_ends_the_job_before_it_trains(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    config = WatchConfig(mlflow="http://127.0.0.1:1")
    with pytest.raises(NotWatchedError, match="train.watch.mlflow http://127.0.0.1:1: wanted MLflow to answer"):
        attempt(tmp_path, 1, 2, 0.0, config)


@pytest.mark.filterwarnings("default")  # SQLAlchemy about MLflow
def test_mlflow_has_one_run_and_each_step_once(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = WatchConfig(mlflow=uri)
    attempt(tmp_path, 1, 6, 0.0, config)
    with pytest.raises(RuntimeError), ExitStack() as stack:
        stack.enter_context(watched(config, tmp_path, RUN, "sarm", {"batch_size": 256}))(3, {})
        raise RuntimeError("the second attempt dies")
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("live-anchors").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == (RUN, "FAILED")
    attempt(tmp_path, 4, 8, 0.0, config)
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.data.params) == ("FINISHED", {"batch_size": "256"})
    history = client.get_metric_history(run.info.run_id, "loss/click")
    assert [(metric.step, metric.value) for metric in history] == [(step, float(step)) for step in range(1, 9)]


@pytest.mark.ray
def test_gauges_are_exported_by_ray(ray_cluster: None, tmp_path: Path) -> None:
    import ray

    (node,) = ray.nodes()
    exported = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    ranker = "watched-here"  # as no training of this process is called: Ray exports a gauge until its process ends
    with watched(WatchConfig(tensorboard=False), tmp_path, RUN, ranker, {}) as watch:
        watch(50, {"loss/click": 0.625, "bank/sarm_age_steps": 12.0})
        found: dict[str, float] = {}
        deadline = time.monotonic() + 90
        while len(found) < 3 and time.monotonic() < deadline:
            text = urllib.request.urlopen(exported, timeout=30).read().decode()
            lines = [line for line in text.splitlines() if line.startswith("ray_ranker_") and ranker in line]
            found = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}
            time.sleep(0.5)
    assert found == {"ray_ranker_step": 50.0, "ray_ranker_loss_click": 0.625, "ray_ranker_bank_sarm_age_steps": 12.0}
