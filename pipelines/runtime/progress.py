"""Lines of progress from the workers of Ray Train to the log of the job that started them."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_lines(log: logging.Logger) -> Iterator[Any]:
    """A `ray.util.queue.Queue` whose lines land in `log` of this process: workers' own logs stay on their nodes.

    Hand the queue to the workers (it may travel in `train_loop_config`) and let rank 0 alone call `put_nowait(line)`:

        with progress_lines(log) as lines:
            TorchTrainer(worker, train_loop_config={"lines": lines}).fit()

    Needs a connected Ray. Lines keep their order, and what was put before the block ends is logged before it is left.
    """
    from ray.util.queue import Empty, Queue

    lines = Queue(actor_options={"num_cpus": 0})
    done = threading.Event()

    def show() -> None:
        while True:
            ended = done.is_set()
            try:
                log.info("%s", lines.get(timeout=0.5))
            except Empty:
                if ended:
                    return

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        done.set()
        thread.join(timeout=10)
        lines.shutdown()
