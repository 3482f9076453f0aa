"""What came on screen since the bank was made: the artifacts "screen.<table>", which are followed beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from models.artifacts.live_screen import KINDS, load
from models.artifacts.screens import Screen
from models.artifacts.store import ArtifactStore
from serve.args import WatchConfig
from serve.watcher import SnapshotWatcher

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LiveScreen:
    """One version of one table."""

    version: str
    """Its run id."""
    screen: Screen

    def after(self, store: ArtifactStore) -> Iterator[LiveScreen]:
        """A screen has no deltas: it is published anew."""
        return iter(())


class LiveScreens:
    """Follows every table of codes. Whoever ranks asks `beside` once for a request.

    A version is verified in this process: 100,000 segments of three codes are 3.6 MB. One that does not fit is left
    alone, logged and counted, and what was known before stays in use.
    """

    def __init__(self, store: ArtifactStore, config: WatchConfig) -> None:
        self._watchers = {
            table: SnapshotWatcher(store, partial(_load, store, kind), config, kind=kind, keep=1)
            for kind, table in KINDS.items()
        }
        self._told: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Loads what is published now, then follows it."""
        for watcher in self._watchers.values():
            watcher.start()

    def poll(self) -> bool:
        """See SnapshotWatcher.poll."""
        return any([watcher.poll() for watcher in self._watchers.values()])

    def stop(self) -> None:
        """Ends the threads. What is loaded stays usable."""
        for watcher in self._watchers.values():
            watcher.stop()

    @property
    def failures(self) -> int:
        """Loads and looks that failed since the start."""
        return sum(watcher.failures for watcher in self._watchers.values())

    def beside(self, screens: Mapping[str, Screen]) -> dict[str, list[Screen]]:
        """By table of a bank: what it holds itself, and what was published since, where that is of its codebook.

        Codes of another one are left alone, which is logged once: they mean nothing to the bank's ranker.
        """
        found = {}
        for table, of_bank in screens.items():
            found[table] = [of_bank]
            for live in self._watchers[table].loaded[:1]:
                if live.screen.is_of(of_bank):
                    found[table].append(live.screen)
                elif (told := (live.version, of_bank.codebook)) not in self._told:
                    self._told.add(told)
                    log.warning(
                        "screen.%s %s is of codebook %s, the ranker in use reads %s, and goes on with what its bank "
                        "holds; train it again with these codes",
                        *(table, live.version, live.screen.codebook, of_bank.codebook),
                    )
        return found


def _load(store: ArtifactStore, kind: str, version: str) -> LiveScreen:
    folder, _ = store.verified(kind, version)
    return LiveScreen(version=version, screen=load(folder))
