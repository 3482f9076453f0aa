"""Follows CURRENT in the background and swaps in each new version by one assignment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from models.artifacts.store import ArtifactStore
from serve.args import WatchConfig

log = logging.getLogger(__name__)


class Versioned(Protocol):
    """What a watcher holds: anything immutable with a version."""

    @property
    def version(self) -> str:
        """Run id of the bank."""


LoadedT = TypeVar("LoadedT", bound=Versioned)


class NotReadyError(RuntimeError):
    """No version is loaded yet; the message says why."""


class SnapshotWatcher(Generic[LoadedT]):
    """Holds the newest version that could be loaded. A version that does not fit is logged, counted, and left alone.

    Readers take `current` once per request and use that object only: the old one lives until its last reader is done.
    """

    def __init__(self, store: ArtifactStore, load: Callable[[str], LoadedT], config: WatchConfig) -> None:
        self._store, self._load, self._config = store, load, config
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._refused: dict[str, float] = {}
        self.loaded: tuple[LoadedT, ...] = ()
        """The version in use and the one before it, newest first; empty until a first version is loaded."""
        self.failures = 0
        """Loads and looks that failed since the start."""
        self.last_failure: str | None = None
        """Message of the newest failure, None while the newest published version is in use."""

    @property
    def current(self) -> LoadedT:
        """The version in use. Raises NotReadyError before the first one is loaded."""
        loaded = self.loaded
        if not loaded:
            raise NotReadyError(
                self.last_failure or f"nothing is published below {self._store.root}; run the publish job"
            )
        return loaded[0]

    def poll(self) -> bool:
        """Looks at CURRENT once and loads what is new. Returns True if a version was swapped in; never raises."""
        with self._lock:
            version = None
            try:
                version = self._store.current("bank")
                if version is None or not self._wanted(version):
                    return False
                fresh = self._load(version)
            except Exception as error:  # noqa: BLE001 - whatever a published file does, the old version must go on
                self._note_failure(version, error)
                return False
            self.loaded = (fresh, *self.loaded[:1])
            self.last_failure = None
            self._refused.clear()
            log.info("version %s is in use", version)
            return True

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
    def is_alive(self) -> bool:
        """Whether the thread follows CURRENT."""
        return self._thread is not None and self._thread.is_alive()

    def _wanted(self, version: str) -> bool:
        if self.loaded and self.loaded[0].version == version:
            self.last_failure = None
            return False
        refused_at = self._refused.get(version)
        return refused_at is None or time.monotonic() - refused_at >= self._config.retry_refused_s

    def _note_failure(self, version: str | None, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}"
        level = logging.DEBUG if message == self.last_failure else logging.ERROR
        self.failures += 1
        self.last_failure = message
        # Storage that cannot be reached is asked again at the next look; a version that does not fit will not improve.
        if version is not None and not _is_transient(error):
            self._refused[version] = time.monotonic()
        kept = self.loaded[0].version if self.loaded else "nothing"
        log.log(level, "cannot use bank %s, keeping %s: %s", version, kept, message)

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(self._config.poll_s)
            self._wake.clear()
            if not self._stopped.is_set():
                self.poll()


def _is_transient(error: Exception) -> bool:
    return isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError)
