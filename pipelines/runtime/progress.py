"""Lines of progress, and figures, from the workers of Ray Train to the job that started them.

They are for people, and training never depends on them: a worker hands a line over and goes on, and where the actor
that carries lines dies, Ray starts it again, those that it held are lost, and the job's log says so once.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.runtime.cluster import actor_beside
from pipelines.runtime.watch import Watch, unwatched

_EVERY_S = 0.5
_PATIENCE_S = 30
"""For the last lines; on a busy machine an actor that was started again takes more than ten."""
_LOST = "some lines of progress are lost: the actor that carries them died; training went on"


class Lines:
    """The workers' end; it may travel in `train_loop_config`."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def put(self, line: str) -> None:
        """Hands a line over; neither waits until it has arrived nor fails where it does not."""
        self._send(line)

    def watch(self, step: int, figures: Mapping[str, float]) -> None:
        """Hands figures over, as `put` does a line."""
        self._send((step, dict(figures)))

    def _send(self, item: str | tuple[int, dict[str, float]]) -> None:
        # Not sent again after a failure: it would come after the lines that follow it.
        self._mailbox.put.options(max_task_retries=0).remote(item)


class _Mailbox:
    """The actor that carries lines and figures."""

    def __init__(self) -> None:
        import ray

        is_new = not ray.get_runtime_context().was_current_actor_reconstructed
        self._items: list[Any] = [] if is_new else [_LOST]

    def put(self, item: Any) -> None:
        self._items.append(item)

    def take(self) -> list[Any]:
        """What has come since the last call, in its order."""
        items, self._items = self._items, []
        return items


@contextmanager
def progress_lines(log: logging.Logger, watch: Watch = unwatched) -> Iterator[Lines]:
    """What workers put into the `Lines` lands in `log` of this process: workers' own logs stay on their nodes.

        with progress_lines(log) as lines:
            TorchTrainer(worker, train_loop_config={"lines": lines}).fit()

    Figures are told to `watch`, in a thread of this process; it must not raise. Let rank 0 alone hand something over.
    Needs a connected Ray. What comes of one worker keeps its order, and what had arrived when the block ends is logged
    before it is left.
    """
    import ray

    mailbox = actor_beside(_Mailbox)
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(mailbox, log, watch, done), name="progress", daemon=True)
    thread.start()
    try:
        yield Lines(mailbox)
    finally:
        done.set()
        thread.join(timeout=_PATIENCE_S)
        ray.kill(mailbox)  # one that has died, and has not started again, still holds the thread
        thread.join(timeout=_PATIENCE_S)


def _show(mailbox: Any, log: logging.Logger, watch: Watch, done: threading.Event) -> None:
    """Logs what has arrived, again and again, and a last time when `done`; waits while the actor starts again."""
    import ray
    from ray.exceptions import RayActorError

    has_ended = False
    while not has_ended:
        has_ended = done.wait(_EVERY_S)
        try:
            items = ray.get(mailbox.take.remote())
        except RayActorError:  # it does not start again: the block waited for it in vain, or Ray cannot
            log.info("%s", _LOST)
            return
        for item in items:
            if isinstance(item, str):
                log.info("%s", item)
            else:
                watch(*item)
