"""One function over many items, in order: as Ray tasks, or one after another in this process."""

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_END: Any = object()
_AHEAD = 2
"""Tasks that are started per CPU: one runs, one is ready to."""


def each(work: Callable[..., Result], items: Iterable[Item], *told: Any, tasks: bool) -> Iterator[Result]:
    """work(item, *told) of every item, in the order of the items. Raises what `work` raised.

    `tasks` needs a connected Ray, holds a few results at a time, and starts a task again whose worker dies, so `work`
    must not mind running twice.
    """
    if not tasks:
        yield from (work(item, *told) for item in items)
        return
    import ray

    task, shared = ray.remote(num_cpus=1)(_outcome), [ray.put(one) for one in (work, *told)]
    most = max(1, int(_AHEAD * ray.cluster_resources().get("CPU", 1)))
    started: deque[Any] = deque()
    rest = iter(items)
    try:
        while True:
            while len(started) < most and (item := next(rest, _END)) is not _END:
                started.append(task.remote(item, *shared))
            if not started:
                return
            result, error = ray.get(started.popleft())
            if error is not None:
                raise error
            yield result
    finally:
        for reference in started:
            ray.cancel(reference)


def _outcome(item: Item, work: Callable[..., Result], *told: Any) -> tuple[Result | None, Exception | None]:
    """What comes of one item. Ray would log the errors of tasks that nobody waits for any more."""
    try:
        return work(item, *told), None
    except Exception as error:
        error.add_note(traceback.format_exc())
        return None, error
