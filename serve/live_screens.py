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
_FITTING = 4
"""Screens that stay for rankers of different codebooks: CURRENT and arms beside it."""


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
    """Follows the tables of codes that somebody reads. Whoever ranks asks `beside` once for a request.

    A version is verified in this process: 100,000 segments of three codes are 3.6 MB, which are there twice while a
    version is swapped in. One that cannot be read is left alone, logged and counted, and the one before stays in use.
    """

    def __init__(self, store: ArtifactStore, config: WatchConfig) -> None:
        self._read: set[str] = set()
        """Tables that were asked for: of others nothing is loaded."""
        self._fitting: dict[tuple[str, tuple[str, tuple[int, ...], int]], Screen] = {}
        """By table and what codes mean there: the newest screen that a ranker in use could read."""
        self._told: set[tuple[str, str, str]] = set()

        def followed(kind: str, table: str) -> SnapshotWatcher[LiveScreen]:
            def which() -> str | None:
                return store.current(kind) if table in self._read else None

            return SnapshotWatcher(store, partial(_load, store, kind), config, kind=kind, keep=1, which=which)

        self._watchers = {table: followed(kind, table) for kind, table in KINDS.items()}

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
        """By table of a bank: what it holds itself, and the newest screen since whose codes mean the same.

        Codes of another codebook mean nothing to the bank's ranker; that there are such is logged once.
        """
        return {table: [of_bank, *self._since(table, of_bank)] for table, of_bank in screens.items()}

    def _since(self, table: str, of_bank: Screen) -> list[Screen]:
        key, watcher = (table, of_bank.meaning), self._watchers[table]
        if table not in self._read:
            self._read.add(table)
            watcher.wake()
        for live in watcher.loaded[:1]:
            if live.screen.meaning == of_bank.meaning:
                if self._fitting.get(key) is not live.screen:
                    self._fitting = dict([*self._fitting.items(), (key, live.screen)][-_FITTING:])
            else:
                self._tell(table, live.screen, of_bank)
        found = self._fitting.get(key)
        return [] if found is None else [found]

    def _tell(self, table: str, screen: Screen, of_bank: Screen) -> None:
        said = (table, str(screen.meaning), str(of_bank.meaning))
        if said not in self._told:
            self._told.add(said)
            log.warning(
                "screen.%s is of codebook %s with a delay of %d ms, the ranker in use reads %s with %d ms, and goes on "
                "with what it knew; train it again with these codes",
                *(table, screen.codebook, screen.delay_ms, of_bank.codebook, of_bank.delay_ms),
            )


def _load(store: ArtifactStore, kind: str, version: str) -> LiveScreen:
    folder, _ = store.verified(kind, version)
    return LiveScreen(version=version, screen=load(folder))
