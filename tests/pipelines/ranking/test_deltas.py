"""Publishing deltas from a training loop: numbers, repeats, two publishers, and a bank that is no longer current."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifacts.delta_store import DELTAS, DeltaStore
from models.artifacts.manifest import ArtifactError
from pipelines.ranking import deltas as deltas_module
from pipelines.ranking.deltas import publish_delta
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.lease import HeldError
from pipelines.tables.storage import Storage
from tests.models.artifacts.deltas import RUN_ID, assert_equal, delta, stored_bank, write_bank
from tests.pipelines.tables.object_store import CREDENTIALS, s3_server

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return stored_bank(tmp_path / "store")


@pytest.fixture
def artifacts(folder: Path) -> Artifacts:
    return artifacts_below(folder)


def artifacts_below(folder: Path) -> Artifacts:
    return Artifacts(Storage.open(str(folder.parents[2])))


def publish(artifacts: Artifacts, seed: int, *, bank: str = RUN_ID, **other: Any) -> int:
    """The window `seed`, of event time 1000 * seed."""
    made = delta(seed)
    given = {"rows": made.rows, "states": made.states, "anchor_day": made.anchor_day, "until_ts_ms": made.until_ts_ms}
    return publish_delta(artifacts, bank, **{**given, **other})


def stored(artifacts: Artifacts) -> DeltaStore:
    return DeltaStore.open(artifacts, RUN_ID)


def test_each_window_gets_the_next_number(artifacts: Artifacts) -> None:
    assert [publish(artifacts, seed) for seed in (1, 2, 3)] == [1, 2, 3]
    for number, read in enumerate(stored(artifacts).since(), start=1):
        assert_equal(read, delta(number))


def test_a_window_that_is_published_again_changes_nothing(artifacts: Artifacts) -> None:
    for seed in (1, 2):
        publish(artifacts, seed)
    assert publish(artifacts, 2) == 2, "told by its event time"
    assert publish(artifacts, 1, number=1) == 1, "told by its number"
    assert stored(artifacts).newest() == 2


def test_other_content_under_a_number_is_refused(artifacts: Artifacts) -> None:
    publish(artifacts, 1)
    for again in ({}, {"number": 1}):
        with pytest.raises(ArtifactError, match="wanted the content that was published under this number, got another"):
            publish(artifacts, 1, rows=np.array([1, 2, 3]), **again)


@pytest.mark.parametrize("number", [0, 3, 99])
def test_a_number_that_is_not_the_next_is_refused(artifacts: Artifacts, number: int) -> None:
    publish(artifacts, 1)
    with pytest.raises(ArtifactError, match=f"got {number}"):
        publish(artifacts, 2, number=number)
    assert stored(artifacts).newest() == 1


def test_event_time_cannot_go_back(artifacts: Artifacts) -> None:
    publish(artifacts, 2)
    with pytest.raises(ArtifactError, match="wanted an event time after 2000"):
        publish(artifacts, 1)


def test_a_bank_that_is_no_longer_current_is_refused(artifacts: Artifacts, folder: Path) -> None:
    (folder.parent / "CURRENT").write_text("b2")
    with pytest.raises(
        ArtifactError, match="bank b1: wanted it to be CURRENT, which is b2; .*publish those of the cur"
    ):
        publish(artifacts, 1)
    assert not (folder / DELTAS).exists()


def test_without_a_bank_there_is_nothing_to_publish_to(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="wanted it to be CURRENT, which is not there"):
        publish(Artifacts(Storage.open(str(tmp_path))), 1)


def test_numpy_integers_are_integers(artifacts: Artifacts) -> None:
    assert publish(artifacts, 1, until_ts_ms=np.int64(1000), rows=delta(1).rows.astype(np.int32)) == 1
    assert_equal(stored(artifacts).read(1), delta(1))


def test_two_publishers_take_turns(artifacts: Artifacts, folder: Path) -> None:
    """Both publish the same windows: each number is there once, and whoever comes second finds it there."""
    failures: list[BaseException] = []

    def all_windows() -> None:
        own = artifacts_below(folder)
        try:
            for number in range(1, 21):
                publish(own, number, number=number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=all_windows) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert [each.number for each in stored(artifacts).since(after=16)] == [17, 18, 19, 20]


def test_a_publisher_waits_no_longer_than_it_must(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas_module, "_WAIT_S", 0.1)
    held, done = threading.Event(), threading.Event()

    def other() -> None:
        with artifacts.lease(f"bank/{RUN_ID}/deltas"):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(60)
    try:
        with pytest.raises(HeldError, match="another job is writing it"):
            publish(artifacts, 1)
    finally:
        done.set()
        thread.join(60)
    assert publish(artifacts, 1) == 1


def test_on_an_object_store_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    local = tmp_path / "bank"
    local.mkdir()
    write_bank(local)
    with s3_server() as url:
        artifacts = Artifacts(Storage.open(url))
        artifacts.publish("bank", local, RUN_ID, {})
        assert [publish(artifacts, seed) for seed in (1, 2, 2)] == [1, 2, 2]
        assert [each.number for each in stored(artifacts).since()] == [1, 2]
        assert artifacts.sweep("bank", 0.0) == []


def test_a_full_bank_that_is_being_published_does_not_hold_deltas_up(artifacts: Artifacts) -> None:
    with artifacts.lease("bank"):
        assert publish(artifacts, 1) == 1


PUBLISHER = """
import sys
from tests.pipelines.ranking.test_deltas import Path, artifacts_below, publish
artifacts = artifacts_below(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(1, 100_000):
    publish(artifacts, number, number=number)
"""


def test_a_publisher_that_is_killed_leaves_whole_deltas_and_no_lease(artifacts: Artifacts, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(2):
        command = [sys.executable, "-c", PUBLISHER, str(folder)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as publisher:
            assert publisher.stdout is not None and publisher.stdout.readline() == "ready\n"
            before, deadline = stored(artifacts).newest(), time.monotonic() + 60
            while stored(artifacts).newest() <= before and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(float(rng.uniform(0, 0.05)))
            publisher.send_signal(signal.SIGKILL)
        newest = stored(artifacts).newest()
        assert newest > before
        assert [read.number for read in stored(artifacts).since()][-1] == newest
        assert_equal(stored(artifacts).read(newest), delta(newest))
    assert publish(artifacts, newest + 1) == newest + 1
