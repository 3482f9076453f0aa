"""Lines of progress from the workers of Ray Train to the log of the job that started them.

They are for people, and training never depends on them: a worker hands a line over and goes on, and where the actor
that carries lines dies, Ray starts it again, those that it held are lost, and the job's log says so once.
"""

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVERY_S = 0.5


class Lines:
    """The workers' end; it may travel in `train_loop_config`."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def put(self, line: str) -> None:
        """Hands a line over; neither waits until it has arrived nor fails where it does not."""
        self._mailbox.put.remote(line)


class _Mailbox:
    """The actor that carries lines."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._born = uuid.uuid4().hex

    def put(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> tuple[str, list[str]]:
        """What tells this actor from the one that Ray starts in its place, and the lines since the last call."""
        lines, self._lines = self._lines, []
        return self._born, lines


@contextmanager
def progress_lines(log: logging.Logger) -> Iterator[Lines]:
    """What workers put into the `Lines` lands in `log` of this process: workers' own logs stay on their nodes.

        with progress_lines(log) as lines:
            TorchTrainer(worker, train_loop_config={"lines": lines}).fit()

    Let rank 0 alone call `put`. Needs a connected Ray. Lines of one worker keep their order, and what had arrived when
    the block ends is logged before it is left.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside this process: another node that is lost takes no lines with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(_Mailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
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
    """Logs what arrives until `done`, and says it once where another actor has taken the place of one that died."""
    import ray
    from ray.exceptions import RayActorError

    known, has_ended = "", False
    while not has_ended:
        has_ended = done.wait(_EVERY_S)
        try:
            born, lines = ray.get(mailbox.take.remote())
        except RayActorError:  # it is being started again
            continue
        if known not in ("", born):
            log.warning("some lines of progress are lost: the actor that carries them died; training goes on")
        known = born
        for line in lines:
            log.info("%s", line)
