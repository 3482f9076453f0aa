"""What the store on Redis does beside the contract: a server that is gone, slow, or comes back."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.online.config import StoreConfig
from models.online.errors import StoreDownError
from models.online.redis_store import RedisStore
from tests.models.online.event_streams import START_MS, Event, batch_of
from tests.redis_server import MISSING, RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    if not RedisServer.is_installed():
        pytest.skip(MISSING)
    with RedisServer(tmp_path) as server:
        yield server


def store_of(url: str, **fields: float) -> RedisStore:
    return RedisStore(StoreConfig(backend="redis", url_env="X", read_timeout_s=1.0, **fields), url)  # type: ignore[arg-type]


def test_a_server_that_is_killed_is_told_and_used_again_when_it_is_back(server: RedisServer) -> None:
    store = store_of(server.url, retry_s=0.05)
    assert store.views([1])[0].newest_ms is None
    server.kill()
    for call in (lambda: store.views([1]), lambda: store.apply(batch_of([Event(1, 1, 1, 1, "click")]), 1)):
        with pytest.raises(StoreDownError, match="redis does not answer"):
            call()
    server.start()
    time.sleep(0.06)
    store.apply(batch_of([Event(1, 1, 1, START_MS, "exposure")]), START_MS)
    assert store.views([1])[0].newest_ms == START_MS
    store.close()


def test_a_server_that_does_not_answer_is_asked_once_and_then_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen(8)
        store = RedisStore(
            StoreConfig(backend="redis", url_env="X", read_timeout_s=0.02, retry_s=30), f"unix://{tmp_path}/silent"
        )
        with pytest.raises(StoreDownError, match="redis does not answer"):
            store.views([1])
        for _ in range(100):
            with pytest.raises(StoreDownError, match="left alone"):
                store.views([1])
        silent.setblocking(False)
        asked = 0
        while True:
            try:
                silent.accept()[0].close()
                asked += 1
            except BlockingIOError:
                break
        assert asked == 1
        store.close()


def test_what_was_not_written_to_for_long_is_forgotten(server: RedisServer) -> None:
    store = store_of(server.url, ttl_s=0.05)
    store.apply(batch_of([Event(1, 1, 1, START_MS, "exposure")]), START_MS)
    time.sleep(0.1)
    assert store.views([1])[0].newest_ms is None
    store.close()
