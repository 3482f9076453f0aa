"""Lines of progress from the workers of Ray Train to the log of the job that started them.

They are for people, and training never depends on them: a worker hands a line over and goes on, and where the actor
that carries lines dies, Ray starts it again, those that it held are lost, and the job's log says so once.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.runtime.cluster import actor_beside

_EVERY_S = 0.5
_LOST = "some lines of progress are lost: the actor that carries them died and was started again; training went on"


class Lines:
    """The workers' end; it may travel in `train_loop_config`."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def put(self, line: str) -> None:
        """Hands a line over; neither waits until it has arrived nor fails where it does not."""
        # Not sent again after a failure: it would come after the lines that follow it.
        self._mailbox.put.options(max_task_retries=0).remote(line)


class _Mailbox:
    """The actor that carries lines."""

    def __init__(self) -> None:
        import ray

        is_new = not ray.get_runtime_context().was_current_actor_reconstructed
        self._lines = [] if is_new else [_LOST]

    def put(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        """Lines since the last call, in their order."""
        lines, self._lines = self._lines, []
        return lines


@contextmanager
def progress_lines(log: logging.Logger) -> Iterator[Lines]:
    """What workers put into the `Lines` lands in `log` of this process: workers' own logs stay on their nodes.

        with progress_lines(log) as lines:
            TorchTrainer(worker, train_loop_config={"lines": lines}).fit()

    Let rank 0 alone call `put`. Needs a connected Ray. Lines of one worker keep their order, and what had arrived when
    the block ends is logged before it is left.
    """
    import ray

    mailbox = actor_beside(_Mailbox)
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(mailbox, log, done), name="progress", daemon=True)
    thread.start()
    try:
        yield Lines(mailbox)
    finally:
        done.set()
        thread.join(timeout=10)
        ray.kill(mailbox)


def _show(mailbox: Any, log: logging.Logger, done: threading.Event) -> None:
    """Logs what has arrived, again and again, and a last time when `done`; waits while the actor starts again."""
    import ray
    from ray.exceptions import RayActorError

    has_ended = False
    while not has_ended:
        has_ended = done.wait(_EVERY_S)
        try:
            lines = ray.get(mailbox.take.remote())
        except RayActorError:  # the block has ended, and killed it
            return
        for line in lines:
            log.info("%s", line)
