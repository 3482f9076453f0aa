"""Leases: of two who want one, one gets it, the other is told; who dies holds nothing."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import from_url
from pyarrow import fs as pafs

from pipelines.tables.lease import FileLeases, HeldError, NoLeases, ObjectLeases, leases_of
from pipelines.tables.storage import Storage
from tests.pipelines.tables.object_store import CREDENTIALS, s3_server
from tests.pipelines.tables.test_storage import users

DAY = "2026-01-01"
HOLDS = """
import sys, time
from pathlib import Path
from pipelines.tables.lease import FileLeases
with FileLeases(Path(sys.argv[1])).hold("users/day=1"):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds users/day=1."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def in_a_thread(leases: FileLeases | ObjectLeases, name: str) -> list[str]:
    """What another thread is told that wants a name, "" where it gets it."""
    told: list[str] = []

    def want() -> None:
        try:
            with leases.hold(name):
                told.append("")
        except HeldError as error:
            told.append(str(error))

    thread = threading.Thread(target=want)
    thread.start()
    thread.join()
    return told


def test_another_process_is_told_who_holds_it(tmp_path: Path, other: "subprocess.Popen[str]"):
    with pytest.raises(HeldError, match=rf"users/day=1: another job is writing it \(process {other.pid} on "):
        FileLeases(tmp_path).hold("users/day=1").__enter__()


def test_another_name_is_free(tmp_path: Path, other: "subprocess.Popen[str]"):
    with FileLeases(tmp_path).hold("users/day=2"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path, other: "subprocess.Popen[str]"):
    other.kill()
    other.wait()
    with FileLeases(tmp_path).hold("users/day=1"):
        pass


def test_who_waits_gets_it_when_the_holder_is_done(tmp_path: Path, other: "subprocess.Popen[str]"):
    threading.Timer(0.3, other.kill).start()
    started = time.monotonic()
    with FileLeases(tmp_path).hold("users/day=1", wait_s=60):
        assert time.monotonic() - started > 0.2


def test_the_holder_may_take_it_again_and_another_thread_may_not(tmp_path: Path):
    leases = FileLeases(tmp_path)
    with leases.hold("users/day=1"):
        with leases.hold("users/day=1"):
            pass
        assert "another job is writing it" in in_a_thread(leases, "users/day=1")[0]
    assert in_a_thread(leases, "users/day=1") == [""]


def test_of_many_who_wait_one_holds_it_at_a_time(tmp_path: Path):
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with FileLeases(tmp_path).hold("users/day=1", wait_s=60):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and not list(tmp_path.rglob("*.lock"))


def test_a_store_without_conditional_puts_is_said(caplog: pytest.LogCaptureFixture):
    assert isinstance(leases_of("hdfs://x/y", pafs.LocalFileSystem()), NoLeases)
    assert "start one at a time" in caplog.text


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server_with(patch) as url:
        yield url


def s3_server_with(patch: pytest.MonkeyPatch):
    for name, value in CREDENTIALS.items():
        patch.setenv(name, value)
    return s3_server()


def objects(url: str, **seconds: float) -> ObjectLeases:
    port = url.partition("endpoint_override=127.0.0.1:")[2].partition("&")[0]
    store = from_url(
        "s3://bucket/leases-test",
        endpoint=f"http://127.0.0.1:{port}",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    return ObjectLeases(store, **{"beat_s": 0.2, "still_s": 1.0} | seconds)


def test_on_an_object_store_one_holds_it_and_the_other_is_told(bucket: str):
    with objects(bucket).hold("a"):
        assert "another job is writing it (process" in in_a_thread(objects(bucket), "a")[0]
    assert in_a_thread(objects(bucket), "a") == [""]


def test_an_object_that_stands_still_is_taken_over_and_its_holder_told(bucket: str):
    sleeper = objects(bucket, beat_s=1000)
    with sleeper.hold("b"):
        assert in_a_thread(objects(bucket), "b") == [""]
        with pytest.raises(HeldError, match="lost to another job"):
            sleeper.confirm("b")


def test_a_lease_that_was_lost_is_not_removed_from_its_new_holder(bucket: str):
    late, new = objects(bucket, beat_s=1000), objects(bucket, still_s=0.1)
    taken, done = threading.Event(), threading.Event()

    def take_over() -> None:
        with new.hold("c"):
            taken.set()
            done.wait(60)

    thread = threading.Thread(target=take_over)
    with late.hold("c"):
        thread.start()
        assert taken.wait(60)
    assert obstore.head(late._store, "leases/c.json")  # its new holder still has it
    done.set()
    thread.join()
    with pytest.raises(FileNotFoundError):
        obstore.head(late._store, "leases/c.json")


def test_a_day_on_an_object_store_has_one_writer(bucket: str):
    storage, told = Storage.open(bucket), list[str]()

    def chunks():
        yield users(1)
        told.extend(in_a_thread(Storage.open(bucket).leases, f"users/day={DAY}"))
        yield users(2)

    storage.write("users", DAY, chunks())
    assert "another job is writing it" in told[0]
    assert Storage.open(bucket).read("users", DAY)["user_id"].to_pylist() == [1, 2]
    assert not storage.filesystem.get_file_info(pafs.FileSelector(f"{storage.root}/leases", allow_not_found=True))
