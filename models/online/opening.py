"""Opens the online store of a configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping

from models.online.config import StoreConfig
from models.online.store import OnlineStore


def open_store(config: StoreConfig, environment: Mapping[str, str] = os.environ) -> OnlineStore | None:
    """The store of a configuration; None where there is none.

    Raises ValueError for what the configuration asks of the environment, StoreError for what cannot be opened. A server
    that does not answer is no error: it is asked again with each request.
    """
    # Each backend has a library of its own, of which a process needs one.
    if config.backend == "embedded":
        from models.online.embedded import EmbeddedStore

        return EmbeddedStore(config)
    if config.backend == "redis":
        from models.online.redis_store import RedisStore

        return RedisStore(config, _url(config, environment))
    return None


def _url(config: StoreConfig, environment: Mapping[str, str]) -> str:
    """What the variable holds; no message tells it, as it may hold a password."""
    url = environment.get(config.url_env or "", "").strip()
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError(
            f"store.url_env: wanted redis://[user:password@]host:port/database in the environment variable "
            f"{config.url_env}, got {'another form' if url else 'nothing'}; set it on every node before Ray starts"
        )
    return url
