"""Freed memory, in a process of its own: what is set there stays."""

import subprocess
import sys

COUNTED = """
import resource, sys
from pipelines.runtime.freed_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
bytearray(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    blocks = [bytearray(8 << 20) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    """Pages that the kernel cleared."""
    done = subprocess.run([sys.executable, "-c", COUNTED, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_is_freed_is_used_again() -> None:
    given_back, kept = _faults("given back"), _faults("kept")
    assert kept < given_back / 3
