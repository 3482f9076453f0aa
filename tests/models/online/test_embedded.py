"""What the embedded store does beside the contract: processes at once, SIGKILL, bounds."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from models.online.errors import StoreError
from models.online.lives import LiveUpdate
from tests.models.online.event_streams import START_MS, Event, batch_of

WRITER = """
import sys
from models.online.config import StoreConfig
from models.online.embedded import EmbeddedStore
from tests.models.online.event_streams import START_MS, Event, batch_of

store, user = EmbeddedStore(StoreConfig(backend="embedded", path=sys.argv[1], map_gib=0.25)), int(sys.argv[2])
for n in range(int(sys.argv[3])):
    store.apply(batch_of([Event(u, n, n, START_MS + n, "exposure") for u in (user, 99)]), START_MS)
    print(n, flush=True)
"""


def config_of(path: Path, **fields: float) -> StoreConfig:
    return StoreConfig(backend="embedded", path=str(path), **{"map_gib": 0.25, **fields})  # type: ignore[arg-type]


def writer(path: Path, user: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(user), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_write_at_once_and_one_that_is_killed_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    store = EmbeddedStore(config_of(tmp_path, exposures_per_user=1_000))
    killed, other = writer(tmp_path, 1, 10**6), writer(tmp_path, 2, 60)
    assert killed.stdout is not None and other.stdout is not None
    acknowledged = [int(killed.stdout.readline()) for _ in range(30)]
    killed.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in killed.stdout]
    assert other.wait() == 0 and killed.wait() == -signal.SIGKILL
    mine, others, both = store.views([1, 2, 99])
    # The writers keep fewer exposures than the reader would: those that it kept are the newest.
    assert mine.live_id.tolist()[-20:][0] <= acknowledged[-1] - 19 and acknowledged[-1] in mine.live_id.tolist()
    assert others.live_id.tolist() == list(range(40, 60))
    newest = max(acknowledged[-1], 59)
    assert newest in both.live_id.tolist()
    store.apply(batch_of([Event(1, 7, 7, START_MS + 10**7, "exposure")]), START_MS)
    assert store.views([1])[0].live_id.tolist()[-1] == 7
    other.stdout.close()
    killed.stdout.close()
    store.close()


def test_what_was_not_written_to_for_long_is_forgotten(tmp_path: Path) -> None:
    store = EmbeddedStore(config_of(tmp_path, ttl_s=60))
    store.apply(batch_of([Event(1, 1, 1, START_MS, "exposure")]), START_MS)
    store.tell([LiveUpdate(live_id=1, author_id=1, start_ms=START_MS)], START_MS)
    store.close()
    store = EmbeddedStore(config_of(tmp_path, ttl_s=60))
    store.apply(batch_of([Event(2, 2, 2, START_MS, "exposure")]), START_MS + 60_001)
    assert [views.newest_ms for views in store.views([1, 2])] == [None, START_MS]
    assert store.lives([1]) == [None] and len(store.on_air(START_MS, 9)) == 0
    store.close()


def test_a_full_store_says_so_and_keeps_what_it_had(tmp_path: Path) -> None:
    store = EmbeddedStore(config_of(tmp_path, map_gib=0.001))
    store.apply(batch_of([Event(1, 1, 1, START_MS, "exposure")]), START_MS)
    with pytest.raises(StoreError, match="map_gib is 0.001; raise it"):
        store.apply(batch_of([Event(user, 1, 1, START_MS, "exposure") for user in range(20_000)]), START_MS)
    assert store.views([1])[0].newest_ms == START_MS
    store.close()


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="wanted a folder on a local disk"):
        EmbeddedStore(config_of(tmp_path / "file"))


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    EmbeddedStore(config_of(tmp_path / "store")).close()
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir()} == {0o600}
