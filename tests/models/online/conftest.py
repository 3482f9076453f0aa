"""Stores of both backends, empty."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.online.config import StoreConfig
from models.online.opening import open_store
from models.online.store import OnlineStore
from tests.redis_server import MISSING, RedisServer

Opener = Callable[..., OnlineStore]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    if not RedisServer.is_installed():
        pytest.skip(MISSING)
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["embedded", "redis"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens stores, each empty, with the fields of a StoreConfig."""
    opened: list[OnlineStore] = []
    numbers = itertools.count()

    def open_one(**fields: Any) -> OnlineStore:
        place = {"path": str(tmp_path / str(next(numbers))), "map_gib": 0.25}
        environment = {}
        if request.param == "redis":
            environment = {"STORE_URL": request.getfixturevalue("redis_server").url}
            place = {"url_env": "STORE_URL", "prefix": f"{tmp_path.name}.{next(numbers)}:", "read_timeout_s": 5.0}
        store = open_store(StoreConfig(backend=request.param, **place, **fields), environment)
        assert store is not None
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(opener: Opener) -> OnlineStore:
    return opener()
