"""The store in files of this machine: LMDB, mapped by every process of the node that reads or writes.

Readers never wait. Writers take turns across processes. What threads of one process bring at the same time is written
in one transaction: whoever is first writes for all that wait. A transaction is on disk (fdatasync) before it is
acknowledged, so neither SIGKILL nor a loss of power takes what was.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from models.online import lives, user_row
from models.online.config import StoreConfig
from models.online.errors import StoreError
from models.online.group_commit import GroupCommit, Work
from models.online.lives import LiveState, LiveUpdate, OnAir
from models.online.store import EventBatch
from models.online.user_row import Views, fold, is_folded
from models.visits import EVENT_KINDS, Bools, Columns, chosen

_KEY = struct.Struct(">Q")
_AIR_KEY, _AIR = struct.Struct(">QQ"), struct.Struct("<qq")
_MARK = struct.Struct("<q")
_BUCKET = struct.Struct(">Q")
_BUCKETS = 4
"""Ids of events are kept by the part of `event_ids_s` in which they came, so that whole parts are forgotten."""
_SWEEP_S, _SWEEP_ROWS = 1.0, 2_000
_READERS = 1_024
_NAMES = ("users", "lives", "air", "seen", "marks")


class EmbeddedStore:
    """See OnlineStore. One object per path and process."""

    def __init__(self, config: StoreConfig) -> None:
        """Raises StoreError where the folder cannot be used."""
        assert config.path is not None
        self._config, self._longest_ms = config, round(config.max_live_s * 1000)
        folder = Path(config.path)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            size = int(config.map_gib * 2**30) // 4096 * 4096
            self._env = lmdb.open(
                str(folder), map_size=size, max_dbs=len(_NAMES), max_readers=_READERS, mode=0o600, readahead=False
            )
            self._dbs = {name: self._env.open_db(name.encode()) for name in _NAMES}
        except (OSError, lmdb.Error) as error:
            raise StoreError(
                f"store.path {folder}: wanted a folder on a local disk for the store's files, got {error}; name another"
            ) from error
        self._writes = GroupCommit(self._commit)
        self._swept, self._next_sweep = {"users": b"", "lives": b""}, 0.0

    def views(self, user_ids: Sequence[int]) -> list[Views]:
        """See OnlineStore."""
        with self._reading("users") as txn:
            return [Views.of(txn.get(_key(user_id))) for user_id in user_ids]

    def apply(self, batch: EventBatch, now_ms: int) -> Bools:
        """See OnlineStore."""
        is_new: Bools = self._writes.run(lambda txn: self._applied(txn, batch, now_ms))
        return is_new

    def marked(self, name: str) -> int | None:
        """See OnlineStore."""
        with self._reading("marks") as txn:
            found = txn.get(name.encode())
        return None if found is None else _MARK.unpack(found)[0]

    def tell(self, updates: Sequence[LiveUpdate], now_ms: int) -> None:
        """See OnlineStore."""

        def told(txn: Any) -> None:
            for update in updates:
                self._put_live(txn, update.live_id, partial(LiveState.after, update=update), now_ms)
            self._sweep(txn, now_ms)

        self._writes.run(told)

    def lives(self, live_ids: Sequence[int]) -> list[LiveState | None]:
        """See OnlineStore."""
        with self._reading("lives") as txn:
            rows = [txn.get(_key(live_id)) for live_id in live_ids]
        return [None if row is None else LiveState.of(row) for row in rows]

    def on_air(self, ts_ms: int, most: int) -> OnAir:
        """See OnlineStore."""
        found: list[tuple[int, int, int, int]] = []
        with self._reading("air") as txn, txn.cursor() as cursor:
            if cursor.set_range(_AIR_KEY.pack(ts_ms + 1, 0)):
                for key, value in cursor:
                    if len(found) == most:
                        break
                    over_ms, live = _AIR_KEY.unpack(key)
                    found.append((live - 2**63, *_AIR.unpack(value), over_ms))
        return OnAir.of(found)

    def ended(self, since_ms: int, until_ms: int, most: int) -> OnAir:
        """See OnlineStore."""
        found: list[tuple[int, int, int, int]] = []
        with self._reading("air") as txn, txn.cursor() as cursor:
            is_later = cursor.set_range(_AIR_KEY.pack(until_ms + 1, 0))
            has_more = cursor.prev() if is_later else cursor.last()
            while has_more and len(found) < most:
                over_ms, live = _AIR_KEY.unpack(cursor.key())
                if over_ms <= since_ms:
                    break
                found.append((live - 2**63, *_AIR.unpack(cursor.value()), over_ms))
                has_more = cursor.prev()
        return OnAir.of(found)

    def close(self) -> None:
        """See OnlineStore."""
        self._env.close()

    @contextmanager
    def _reading(self, name: str) -> Iterator[Any]:
        try:
            with self._env.begin(self._dbs[name]) as txn:
                yield txn
        except lmdb.Error as error:
            raise StoreError(f"the online store cannot be read: {error}; look at {self._config.path}") from error

    def _commit(self, works: Sequence[Work]) -> list[Any]:
        try:
            with self._env.begin(write=True) as txn:
                return [work(txn) for work in works]
        except lmdb.MapFullError as error:
            size = self._config.map_gib
            raise StoreError(f"the online store is full: map_gib is {size:g}; raise it and start again") from error
        except lmdb.Error as error:
            raise StoreError(f"the online store cannot be written: {error}; look at its disk") from error

    def _applied(self, txn: Any, batch: EventBatch, now_ms: int) -> Bools:
        is_new = np.ones(len(batch), bool)
        if batch.ids is not None:
            is_new = np.array([self._is_new(txn, event_id, now_ms) for event_id in batch.ids], bool)
            self._forget_ids(txn, now_ms)
        events = chosen(batch.events, is_new)
        self._fold(txn, events, now_ms)
        if batch.ids is not None:
            for live_id, counts in counts_of(events).items():
                self._put_live(txn, live_id, partial(LiveState.counted, counts=counts), now_ms)
        if batch.mark is not None:
            txn.put(batch.mark[0].encode(), _MARK.pack(batch.mark[1]), db=self._dbs["marks"])
        self._sweep(txn, now_ms)
        return is_new

    def _fold(self, txn: Any, events: Columns, now_ms: int) -> None:
        events = chosen(events, is_folded(events))
        user_ids, place = np.unique(events["user_id"], return_inverse=True)
        keys = [_key(user_id) for user_id in user_ids.tolist()]
        rows = [txn.get(key, db=self._dbs["users"]) for key in keys]
        for key, row in zip(keys, fold(rows, place, events, self._config, now_ms), strict=True):
            txn.put(key, row, db=self._dbs["users"])

    def _put_live(self, txn: Any, live_id: int, change: Callable[[LiveState], LiveState], now_ms: int) -> None:
        """Changes a live and, where its times change, its place in the list of those on air."""
        key = _key(live_id)
        row = txn.get(key, db=self._dbs["lives"])
        before = LiveState() if row is None else LiveState.of(row)
        after = change(before)
        txn.put(key, after.to_bytes(now_ms), db=self._dbs["lives"])
        was, is_now = (_on_air_row(key, live, self._longest_ms) for live in (before, after))
        if was != is_now:
            if was is not None:
                txn.delete(was[0], db=self._dbs["air"])
            if is_now is not None:
                txn.put(*is_now, db=self._dbs["air"])

    def _is_new(self, txn: Any, event_id: bytes, now_ms: int) -> bool:
        """Whether an id did not come before, which is remembered."""
        bucket = self._bucket(now_ms)
        if any(txn.get(_BUCKET.pack(b) + event_id, db=self._dbs["seen"]) is not None for b in _recent(bucket)):
            return False
        txn.put(_BUCKET.pack(bucket) + event_id, b"", db=self._dbs["seen"])
        return True

    def _bucket(self, now_ms: int) -> int:
        return int(now_ms / 1000 / self._config.event_ids_s * _BUCKETS)

    def _forget_ids(self, txn: Any, now_ms: int) -> None:
        """Deletes ids that are too old to count, a bounded number at a time."""
        oldest = _BUCKET.pack(max(0, self._bucket(now_ms) - _BUCKETS))
        with txn.cursor(self._dbs["seen"]) as cursor:
            for _ in range(_SWEEP_ROWS):
                if not cursor.first() or cursor.key()[: _BUCKET.size] >= oldest:
                    break
                cursor.delete()

    def _sweep(self, txn: Any, now_ms: int) -> None:
        """Each second, looks through some rows for those that were not written to for `ttl_s`."""
        if time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + _SWEEP_S
        self._env.reader_check()  # readers that were killed would keep old pages from being used again
        oldest_ms = now_ms - round(self._config.ttl_s * 1000)
        for key, _ in self._unwritten_since(txn, "users", user_row.written_ms, oldest_ms):
            txn.delete(key, db=self._dbs["users"])
        for key, row in self._unwritten_since(txn, "lives", lives.written_ms, oldest_ms):
            place = _on_air_row(key, LiveState.of(row), self._longest_ms)
            if place is not None:
                txn.delete(place[0], db=self._dbs["air"])
            txn.delete(key, db=self._dbs["lives"])

    def _unwritten_since(
        self, txn: Any, name: str, written_ms: Callable[[bytes], int], oldest_ms: int
    ) -> list[tuple[bytes, bytes]]:
        """Old rows among the next ones, behind those that were looked at last."""
        with txn.cursor(self._dbs[name]) as cursor:
            rows = list(islice(cursor if cursor.set_range(self._swept[name]) else (), _SWEEP_ROWS + 1))
        self._swept[name] = rows.pop()[0] if len(rows) > _SWEEP_ROWS else b""
        return [row for row in rows if written_ms(row[1]) < oldest_ms]


def counts_of(events: Columns) -> dict[int, dict[str, int]]:
    """By live, how many events there are of each kind."""
    pairs, counts = np.unique(
        np.stack([events["live_id"], events["kind"].astype(np.int64)]), axis=1, return_counts=True
    )
    found: dict[int, dict[str, int]] = {}
    for live_id, kind, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        found.setdefault(live_id, {})[EVENT_KINDS[kind]] = count
    return found


def _on_air_row(key: bytes, live: LiveState, longest_ms: int) -> tuple[bytes, bytes] | None:
    over_ms = live.over_ms(longest_ms)
    if over_ms is None or live.author_id is None or live.start_ms is None:
        return None
    return _KEY.pack(over_ms) + key, _AIR.pack(live.author_id, live.start_ms)


def _recent(bucket: int) -> range:
    return range(bucket, max(-1, bucket - _BUCKETS - 1), -1)


def _key(number: int) -> bytes:
    """Bytes that sort as the 64-bit number does."""
    return _KEY.pack(number + 2**63)
