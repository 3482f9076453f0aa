"""The same work with many arguments as Ray tasks side by side."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

Key = TypeVar("Key")


def side_by_side(
    work: Callable[..., Any], arguments: Mapping[Key, tuple[Any, ...]], limit: int | None, max_calls: int = 0
) -> Iterator[tuple[Key, Any]]:
    """Runs `work` for every key as a Ray task on one CPU, at most `limit` at a time; yields (key, result) as they end.

    A worker process ends after `max_calls` of them; 0 = never.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=1, max_calls=max_calls)(work)
    waiting, running = list(arguments), dict[Any, Key]()
    while waiting or running:
        while waiting and len(running) < (limit or len(arguments)):
            key = waiting.pop(0)
            running[task.remote(*arguments[key])] = key
        done, _ = ray.wait(list(running))
        yield running.pop(done[0]), ray.get(done[0])
