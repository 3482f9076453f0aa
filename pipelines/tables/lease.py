"""One writer at a time: a lease on a name below a storage root, for as long as its holder lives.

On a file system a lease is a lock, which the system takes back when its holder dies. On an object store it is an object
that is put only where there is none, and put anew every few seconds as long as nobody else did (conditional put). One
that stands still has lost its holder, and is taken over in the same way, so that of two who try one fails. No clock of
one machine is compared with another's.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError
from obstore.store import ObjectStore, from_url
from pyarrow import fs as pafs

from pipelines.tables.contract import ContractError

if TYPE_CHECKING:
    from obstore import UpdateVersion

log = logging.getLogger(__name__)
FOLDER = "leases"
"""Below the storage root."""
BEAT_S = 10.0
"""How often the holder of an object puts it anew."""
STILL_S = 60.0
"""An object that did not change for so long has lost its holder."""
_OBJECT_STORES = ("s3", "gs")


class HeldError(ContractError):
    """Another job holds the lease; the message says which one, and since when."""


class Leases(Protocol):
    """What gives leases on names below one root."""

    def hold(self, name: str, wait_s: float = 0.0) -> AbstractContextManager[None]:
        """A context that holds the lease on a name. Raises HeldError where another holds it for longer than `wait_s`.

        Who holds a name already, in the same thread, holds it on.
        """

    def confirm(self, name: str) -> None:
        """Raises HeldError where a lease that this process took was lost to another meanwhile."""


def leases_of(url: str, filesystem: pafs.FileSystem) -> Leases:
    """Leases of a storage by its url: a folder, or a bucket of a store that knows conditional puts."""
    scheme = urlsplit(url).scheme if "://" in url else "file"
    if scheme in _OBJECT_STORES:
        return ObjectLeases(_store(url, getattr(filesystem, "region", None)))
    if scheme == "file":
        return FileLeases(Path(urlsplit(url).path if "://" in url else url))
    log.warning("%s: only folders, s3:// and gs:// keep two jobs from writing one day; start one at a time", url)
    return NoLeases()


class NoLeases:
    """For file systems that offer neither locks nor conditional puts."""

    @contextmanager
    def hold(self, name: str, wait_s: float = 0.0) -> Iterator[None]:
        """Nothing is held."""
        yield

    def confirm(self, name: str) -> None:
        """Nothing is lost."""


class _Reentrant:
    """Lets a thread that holds a name take it again."""

    def __init__(self, root: str) -> None:
        self._root = root

    @contextmanager
    def hold(self, name: str, wait_s: float = 0.0) -> Iterator[None]:
        """See Leases."""
        key = (self._root, name)
        if key in _mine():
            yield
            return
        with self._taken(name, wait_s):
            _mine().add(key)
            try:
                yield
            finally:
                _mine().discard(key)

    def _taken(self, name: str, wait_s: float) -> AbstractContextManager[None]:
        raise NotImplementedError


class FileLeases(_Reentrant):
    """Locks on files in the folder `leases`; the file goes with the lease."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self._folder = root / FOLDER

    def confirm(self, name: str) -> None:
        """A lock is lost with its process only."""

    @contextmanager
    def _taken(self, name: str, wait_s: float) -> Iterator[None]:
        path = self._folder / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + wait_s
        while (handle := _lock(path)) is None:
            if time.monotonic() >= until:
                raise _held(name, _who_in(path), str(path))
            time.sleep(0.05)
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, _me(), 0)
            yield
        finally:
            path.unlink(missing_ok=True)  # before the lock goes: who waits for this file sees that it is another's
            os.close(handle)


def _lock(path: Path) -> int | None:
    """The locked file, or None where another holds it, or has just removed it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        log.debug("%s is another's", path)
    os.close(handle)
    return None


def _who_in(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


class ObjectLeases(_Reentrant):
    """Objects in the prefix `leases`, put anew every BEAT_S while they are held."""

    def __init__(self, store: ObjectStore, beat_s: float = BEAT_S, still_s: float = STILL_S) -> None:
        super().__init__(str(store))
        self._store, self._beat_s, self._still_s = store, beat_s, still_s
        self._held: dict[str, _Held] = {}

    def confirm(self, name: str) -> None:
        """See Leases."""
        if name in self._held:
            self._held[name].beat()

    @contextmanager
    def _taken(self, name: str, wait_s: float) -> Iterator[None]:
        path = f"{FOLDER}/{name}.json"
        held = self._held[name] = _Held(self._store, name, path, self._take(name, path, wait_s))
        done = threading.Event()
        beats = threading.Thread(target=held.beat_until, args=(done, self._beat_s), name=f"lease-{name}", daemon=True)
        beats.start()
        try:
            yield
        finally:
            done.set()
            beats.join()
            self._held.pop(name).release()

    def _take(self, name: str, path: str, wait_s: float) -> "UpdateVersion":
        """The tag of an object that is ours now."""
        until, since, seen = time.monotonic() + wait_s, time.monotonic(), cast("UpdateVersion", {})
        while True:
            try:
                return _tag(obstore.put(self._store, path, _me(), mode="create"))
            except AlreadyExistsError:
                tag, who = self._look(path)
            now = time.monotonic()
            if tag != seen:
                if seen and tag and now >= until:  # it was put anew while we looked: its holder lives
                    raise _held(name, who, path)
                seen, since = tag, now
            elif now - since >= self._still_s:
                try:
                    taken = obstore.put(self._store, path, _me(), mode=tag)
                    log.warning("%s: its holder is gone, taken over", path)
                    return _tag(taken)
                except PreconditionError:
                    log.debug("%s: another was faster", path)
            time.sleep(self._beat_s / 10)

    def _look(self, path: str) -> "tuple[UpdateVersion, bytes]":
        try:
            found = obstore.get(self._store, path)
            return _tag(found.meta), bytes(found.bytes())
        except NotFoundError:
            return cast("UpdateVersion", {}), b""


class _Held:
    """A lease that this process took."""

    def __init__(self, store: ObjectStore, name: str, path: str, tag: "UpdateVersion") -> None:
        self._store, self._name, self._path, self._tag = store, name, path, tag
        self._lock = threading.Lock()

    def beat(self) -> None:
        """Puts the object anew. Raises HeldError where it is another's."""
        with self._lock:
            try:
                self._tag = _tag(obstore.put(self._store, self._path, _me(), mode=self._tag))
            except (PreconditionError, NotFoundError) as error:
                raise HeldError(
                    f"the lease on {self._name} was lost to another job while this one stood still; its result is left "
                    "out; run it again"
                ) from error

    def beat_until(self, done: threading.Event, every_s: float) -> None:
        """Beats until it is done, or lost: what was lost is said where it is confirmed."""
        while not done.wait(every_s):
            try:
                self.beat()
            except HeldError as error:
                log.warning("%s", error)
                return
            except obstore.exceptions.BaseError as error:  # the next beat may come through
                log.warning("lease on %s: %s", self._name, error)

    def release(self) -> None:
        """Removes the object if it is ours; what another took over stays."""
        try:
            self.beat()
        except HeldError:
            return
        obstore.delete(self._store, self._path)


def _mine() -> set[tuple[str, str]]:
    held: set[tuple[str, str]] = _THREAD.__dict__.setdefault("held", set())
    return held


_THREAD = threading.local()


def _tag(about: Any) -> "UpdateVersion":
    """What tells this content of an object from any other: stores ask for one of the two."""
    return cast("UpdateVersion", {name: about[name] for name in ("e_tag", "version") if about.get(name)})


def _me() -> bytes:
    now = datetime.now(UTC).isoformat(timespec="microseconds")  # makes each beat another content, and so another tag
    return json.dumps({"host": socket.gethostname(), "process": os.getpid(), "at": now}).encode()


def _held(name: str, who: bytes, path: str) -> HeldError:
    try:
        holder = json.loads(who)
        by = f"process {holder['process']} on {holder['host']}, seen {holder['at'][:19]}Z"
    except (ValueError, KeyError, TypeError):
        by = "it says not who"
    return HeldError(f"{name}: another job is writing it ({by}, {path}); wait until it ends, or stop it")


def _store(url: str, region: str | None) -> ObjectStore:
    """The bucket of a URL that pyarrow understands, with its options endpoint_override and scheme."""
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    config: dict[str, Any] = {}
    if parts.scheme == "s3":
        if region:
            config["region"] = region
        if "endpoint_override" in options:
            scheme = options.get("scheme", "https")
            config["endpoint"] = f"{scheme}://{options['endpoint_override']}"
            config["client_options"] = {"allow_http": scheme == "http"}
        if parts.username and parts.password:
            config |= {"access_key_id": parts.username, "secret_access_key": parts.password}
    return from_url(f"{parts.scheme}://{parts.hostname}{parts.path}", **config)
