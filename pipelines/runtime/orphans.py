"""No process outlives the worker that started it, whatever that worker dies of.

vLLM's engine is a tree of processes below a Ray worker. Ray ends the worker when its node or its driver is killed, and
nobody ends the tree: it would keep its memory and its GPU for good.
"""

import os
import subprocess
import sys

_GUARD = """
import os, signal, sys, time
worker = int(sys.argv[1])
while os.getppid() == worker:
    time.sleep(1)
os.killpg(worker, signal.SIGKILL)
"""
"""Waits until its parent is gone, then ends what is left of the parent's process group."""


def die_with_me() -> None:
    """Called by a worker before it starts processes: they end a second after it does, and theirs with them.

    The worker becomes the head of a process group, which all that it starts belong to, and a small process outside the
    group watches it. A watch from within the children would need a hook in each, and the kernel's own (PDEATHSIG) goes
    by threads, which come and go in a worker.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
