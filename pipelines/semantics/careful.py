"""Work on rows in a Ray actor that one of them may kill: a bad picture, say. See attempts.py for the rule."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from pipelines.semantics.attempts import LIMIT, begin, given_up, groups

Key = TypeVar("Key", bound=Hashable)
Row = dict[str, Any]


class Careful:
    """Tells the pool's actor which rows are in hand, and behind a death takes suspects up apart from the others."""

    def __init__(self, attempts: Any) -> None:
        """`attempts` is the pool's actor. Raises RuntimeError where the job must end."""
        import ray

        self._wait, self._attempts, self._me = ray.get, attempts, ray.get_runtime_context().get_actor_id()
        self._careful = begin(attempts, self._me)

    def rows(
        self, keys: Sequence[Key], make: Callable[[Sequence[Key]], list[Row]], lost: Callable[[Key, int], Row]
    ) -> list[Row]:
        """What `make` gives for all keys; `lost(key, attempts)` for one at which the process died each time."""
        if not self._careful:
            return self._made(keys, make)
        deaths = dict(zip(keys, self._wait(self._attempts.deaths.remote(list(keys))), strict=True))
        gone = given_up(keys, lambda key: deaths[key])
        rows = [lost(key, LIMIT) for key in gone]
        for group in groups(keys, lambda key: deaths[key]):
            rows += self._made(group, make)
        self._attempts.gave_up.remote(gone)
        self._careful = bool(self._wait(self._attempts.suspects.remote()))
        return rows

    def _made(self, keys: Sequence[Key], make: Callable[[Sequence[Key]], list[Row]]) -> list[Row]:
        self._wait(self._attempts.took.remote(self._me, list(keys)))
        rows = make(keys)
        self._attempts.finished.remote(self._me, list(keys))
        return rows
