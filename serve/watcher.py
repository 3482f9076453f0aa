"""Follows CURRENT of a bank and its deltas, or of an index, in the background; swaps in news by one assignment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, Protocol, Self, TypeVar

from models.artifacts.live_screen import KINDS
from models.artifacts.manifest import ArtifactError
from models.artifacts.store import ArtifactStore
from serve.args import WatchConfig

log = logging.getLogger(__name__)
MADE_BY = {"bank": "publish", "live_index": "index", **dict.fromkeys(KINDS, "screens")}
"""The job that publishes each kind of artifact that is followed."""


class Versioned(Protocol):
    """What a watcher holds: anything immutable with a version."""

    @property
    def version(self) -> str:
        """Its run id."""

    def after(self, store: ArtifactStore) -> Iterable[Self]:
        """The same version after each delta that was published since, in order. Raises at the first bad one."""


LoadedT = TypeVar("LoadedT", bound=Versioned)


class NotReadyError(RuntimeError):
    """No version is loaded yet; the message says why."""


class SnapshotWatcher(Generic[LoadedT]):
    """Holds the newest version that could be loaded. A version that does not fit is logged, counted, and left alone.

    So is a delta, which is looked at again each time: later ones wait until it is repaired, or a full bank comes.
    Readers take `current` once per request and use that object only: the old one lives until its last reader is done.
    """

    def __init__(
        self,
        store: ArtifactStore,
        load: Callable[[str], LoadedT],
        config: WatchConfig,
        *,
        kind: str = "bank",
        keep: int = 2,
        which: Callable[[], str | None] | None = None,
    ) -> None:
        """Args: `kind` of artifact, of MADE_BY; `keep` versions stay loaded, those before the newest for whoever still
        asks for one of them; `which` says the version to hold, None = that of CURRENT."""
        self._store, self._load, self._config, self._keep, self._kind = store, load, config, keep, kind
        self._which = which or partial(store.current, kind)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._refused: dict[str, float] = {}
        self.loaded: tuple[LoadedT, ...] = ()
        """The version in use, with its deltas, and those before it, newest first; empty until one is loaded."""
        self.failures = 0
        """Loads and looks that failed since the start."""
        self.last_failure: str | None = None
        """Message of the newest failure, None while the newest published version and delta are in use."""

    @property
    def current(self) -> LoadedT:
        """The version in use. Raises NotReadyError before the first one is loaded."""
        loaded = self.loaded
        if not loaded:
            raise NotReadyError(
                self.last_failure
                or f"no {self._kind} is published below {self._store.root}; run the job {MADE_BY[self._kind]}"
            )
        return loaded[0]

    def poll(self) -> bool:
        """Looks once at CURRENT and deltas, and takes what is new. True if anything was swapped in; never raises."""
        with self._lock:
            version, before = None, self.loaded[:1]
            try:
                version = self._which()
                if before and version in (None, before[0].version):
                    self._require_stored(before[0].version, version)
                    fresh, older = before[0], self.loaded[1:]
                elif version is None:
                    return False
                elif self._is_refused(version):
                    return False
                else:
                    fresh, older = self._load(version), before
            except Exception as error:  # noqa: BLE001 - whatever a published file does, the old version must go on
                self._note_failure(version, error)
                return False
            self._take(fresh, older)
            return self.loaded[:1] != before

    def _require_stored(self, in_use: str, current: str | None) -> None:
        """Raises ArtifactError where storage, CURRENT or the bank in use is gone: nothing newer can come from there."""
        missing = "CURRENT" if current is None else f"v={in_use}"
        if current is None or not self._store.has(self._kind, in_use):
            raise ArtifactError(
                f"{missing} of the {self._kind} is gone below {self._store.root}; restore the storage, or run the job "
                f"{MADE_BY[self._kind]}"
            )

    def _take(self, fresh: LoadedT, older: tuple[LoadedT, ...]) -> None:
        """Swaps a version in, after as many of its deltas as are good."""
        is_new, failure, newest = all(fresh is not each for each in self.loaded), None, fresh
        try:
            for after in fresh.after(self._store):
                newest = after
        except Exception as error:  # noqa: BLE001 - nor may a delta end it
            failure = error
        self.loaded = (newest, *older)[: self._keep]
        if is_new:
            self._refused.clear()
            log.info("%s %s is in use", self._kind, fresh.version)
        if failure is None:
            self.last_failure = None
        else:
            self._note_failure(None, failure)

    def start(self) -> None:
        """Loads what is published now, then follows it in a thread."""
        self.poll()
        self._thread = threading.Thread(target=self._follow, name="snapshot-watcher", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Makes the thread look now: someone has seen a newer version."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread. What is loaded stays usable."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=60)

    @property
    def is_stale(self) -> bool:
        """Whether something is in use, and it is not known to be the newest: `last_failure` says why."""
        return bool(self.loaded) and self.last_failure is not None

    @property
    def is_alive(self) -> bool:
        """Whether the thread follows CURRENT."""
        return self._thread is not None and self._thread.is_alive()

    def _is_refused(self, version: str) -> bool:
        refused_at = self._refused.get(version)
        return refused_at is not None and time.monotonic() - refused_at < self._config.retry_refused_s

    def _note_failure(self, version: str | None, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        level = logging.DEBUG if message == self.last_failure else logging.ERROR
        self.failures += 1
        self.last_failure = message
        # Storage that cannot be reached is asked again at the next look; a version that does not fit will not improve.
        in_use = self.loaded[0].version if self.loaded else None
        if version not in (None, in_use) and not _is_transient(error):
            self._refused[str(version)] = time.monotonic()
        what = f"what is new of {self._kind}" if version in (None, in_use) else f"{self._kind} {version}"
        log.log(level, "cannot use %s, keeping %s: %s", what, in_use or "nothing", message)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(self._config.poll_s)
            self._wake.clear()
            if not self._stopped.is_set():
                self.poll()


def _is_transient(error: Exception) -> bool:
    return isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError)
