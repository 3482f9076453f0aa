"""What the online store keeps, for how long, and where. Light to import: no backend is."""

from __future__ import annotations

import re
from dataclasses import dataclass

BACKENDS = ("none", "embedded", "redis")
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{0,64}")
_DURATIONS = ("ttl_s", "open_view_s", "event_ids_s", "max_live_s", "read_timeout_s", "write_timeout_s", "retry_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreConfig:
    """The online store of a deployment, or of the job that fills it."""

    backend: str = "none"
    """none: histories are those that are published. embedded: files on this machine, for all processes of one node.
    redis: a server, for a cluster."""
    path: str | None = None
    """embedded: folder of the files, on a local disk."""
    map_gib: float = 64.0
    """embedded: largest size of the file. It grows as it is filled, so that this may be more than what is stored."""
    url_env: str | None = None
    """redis: environment variable that holds redis://[user:password@]host:port/database, or rediss://."""
    prefix: str = "live:"
    """redis: how the names of all keys begin."""
    read_timeout_s: float = 0.02
    """redis: after this a read is given up, and the request is answered from the published history, `degraded`."""
    write_timeout_s: float = 1.0
    """redis: after this a write is given up, and its events are not acknowledged."""
    retry_s: float = 1.0
    """redis: after a failure it is left alone for so long: a dead server costs one timeout in this time, not one for
    each request."""
    ttl_s: float = 1_209_600.0
    """What was not written to for so long is forgotten, and so are views so much older than the user's newest one."""
    views_per_user: int = 50
    """Newest clicked views that are kept of a user: as many as the ranker's history is long, and those that its delay
    may hide."""
    exposures_per_user: int = 20
    """Newest views without a click that are kept of a user: their click may still come."""
    open_view_s: float = 14_400.0
    """A view without an exit is over after so long, or with the next exposure of the same live."""
    event_ids_s: float = 3_600.0
    """An event that comes again within this time is known by its id. Later it adds nothing to views, which know it by
    user, live, moment and kind, but counts again in its live's counters."""
    max_live_s: float = 86_400.0
    """A live whose end nobody told is over so long after its start."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend: wanted one of {', '.join(BACKENDS)}, got {self.backend!r}")
        if self.backend == "embedded" and not self.path:
            raise ValueError("path: wanted a folder on this machine for backend embedded, got none; name one")
        if self.backend == "redis" and not self.url_env:
            raise ValueError("url_env: wanted the environment variable with the URL of redis, got none; name it")
        if not _PREFIX.fullmatch(self.prefix):
            raise ValueError(f"prefix: wanted up to 64 letters, digits and _.:-, got {self.prefix!r}")
        for name in (*_DURATIONS, "map_gib"):
            if not 0.001 <= getattr(self, name) <= 1e9:
                raise ValueError(f"{name}: wanted 0.001 to 1e9, got {getattr(self, name)}")
        for name in ("views_per_user", "exposures_per_user"):
            if not 1 <= getattr(self, name) <= 1_000:
                raise ValueError(f"{name}: wanted 1 to 1000, got {getattr(self, name)}")
