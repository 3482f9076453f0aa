"""What a worker starts ends with the worker, even if that is killed."""

import subprocess
import sys
import time

import psutil

WORKER = """
import subprocess, sys, time
from pipelines.runtime.orphans import die_with_me
die_with_me()
child = "import subprocess, sys, time; sleeper = [sys.executable, '-c', 'import time; time.sleep(600)']; "
child += "print(subprocess.Popen(sleeper).pid, flush=True); time.sleep(600)"
started = subprocess.Popen([sys.executable, "-c", child])
print(started.pid, flush=True)
time.sleep(600)
"""


def gone(pids: list[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while alive := [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]:
        if time.monotonic() > deadline:
            print(alive)
            return False
        time.sleep(0.1)
    return True


def test_children_and_theirs_end_with_a_killed_worker():
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    below = [int(worker.stdout.readline()), int(worker.stdout.readline())]
    assert len(psutil.Process(worker.pid).children(recursive=True)) == 3, "two, and the one that watches"
    watcher = {child.pid for child in psutil.Process(worker.pid).children(recursive=True)} - set(below)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert gone([*below, *watcher], within_s=10)


def test_nothing_is_ended_while_the_worker_lives():
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    below = [int(worker.stdout.readline()), int(worker.stdout.readline())]
    try:
        assert not gone(below, within_s=3)
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    assert gone(below, within_s=10)
