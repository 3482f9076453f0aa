"""The store on a server of Redis, for a cluster: rows as the embedded store has them, one key for each user.

A user's row is replaced only where it is still the one that was read, so that writers of several nodes never lose each
other's events. Reads are given up soon, and a server that fails is left alone for a while. What is acknowledged is in
the server's memory: how much of it a crash of the server takes is the matter of its `appendfsync`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.online.config import StoreConfig
from models.online.errors import StoreDownError
from models.online.lives import LiveState, LiveUpdate, OnAir
from models.online.store import EventBatch
from models.online.user_row import VERSION_BYTES, Views, fold, is_folded
from models.visits import EVENT_KINDS, Bools, Columns, chosen

_TRIES, _PAUSE_S = 20, 0.005
"""For rows that writers of other processes change meanwhile."""
_USERS_AT_ONCE = 512
"""Rows that are read, folded and written with one round trip each."""
_SWAP = """
if redis.call('GETRANGE', KEYS[1], 0, tonumber(ARGV[4]) - 1) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""
_COUNT = """
local is_new = {}
for i = 1, #KEYS, 2 do
  local n = (i + 1) / 2
  is_new[n] = redis.call('SET', KEYS[i], '', 'NX', 'PX', ARGV[1]) and 1 or 0
  if is_new[n] == 1 then
    redis.call('HINCRBY', KEYS[i + 1], ARGV[n + 2], 1)
    redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
  end
end
return is_new
"""
_TELL = """
local live, air = KEYS[1], KEYS[2]
redis.call('HSET', live, 'author', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', live, 'start', ARGV[3]) end
if ARGV[4] ~= '' then redis.call('HSET', live, 'end', ARGV[4]) end
if ARGV[5] ~= '' and tonumber(ARGV[5]) > tonumber(redis.call('HGET', live, 'segment') or '-1') then
  redis.call('HSET', live, 'segment', ARGV[5])
end
local old = redis.call('HGET', live, 'air')
if old then redis.call('ZREM', air, old) end
local start, over = redis.call('HGET', live, 'start'), redis.call('HGET', live, 'end')
if start then
  over = over or string.format('%.0f', tonumber(start) + tonumber(ARGV[7]))
  local member = ARGV[1] .. ':' .. ARGV[2] .. ':' .. start .. ':' .. over
  redis.call('ZADD', air, over, member)
  redis.call('HSET', live, 'air', member)
end
redis.call('PEXPIRE', live, ARGV[6])
redis.call('ZREMRANGEBYSCORE', air, '-inf', ARGV[8])
"""


class Side:
    """One client, for reads or for writes, that is left alone for a while after each failure."""

    def __init__(self, url: str, timeout_s: float, retry_s: float) -> None:
        self._retry_s, self._alone_until, self._lock = retry_s, 0.0, threading.Lock()
        self.client: Any = redis.Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )

    @contextmanager
    def asking(self) -> Iterator[Any]:
        """The client. Raises StoreDownError where it is left alone, and for what goes wrong inside."""
        with self._lock:
            now = time.monotonic()
            if now < self._alone_until:
                raise StoreDownError("redis failed a moment ago and is left alone; see store.retry_s")
            if self._alone_until:
                self._alone_until = now + self._retry_s  # one tries whether it is back, the others go without
        try:
            yield self.client
        except redis.RedisError as error:
            self._alone_until = time.monotonic() + self._retry_s
            raise StoreDownError(f"redis does not answer: {type(error).__name__}; look at the server") from error
        self._alone_until = 0.0


class RedisStore:
    """See OnlineStore."""

    def __init__(self, config: StoreConfig, url: str) -> None:
        """Connects when it is first asked. Raises ValueError for what is no URL of redis."""
        self._config = config
        self._ttl_ms, self._longest_ms, self._ids_ms = (
            round(seconds * 1000) for seconds in (config.ttl_s, config.max_live_s, config.event_ids_s)
        )
        self._turn = threading.Lock()
        self._reads = Side(url, config.read_timeout_s, config.retry_s)
        self._writes = Side(url, config.write_timeout_s, config.retry_s)

    def views(self, user_ids: Sequence[int]) -> list[Views]:
        """See OnlineStore."""
        with self._reads.asking() as client:
            rows = client.mget([self._key("user", user_id) for user_id in user_ids]) if user_ids else []
        return [Views.of(row) for row in rows]

    def apply(self, batch: EventBatch, now_ms: int) -> Bools:
        """See OnlineStore. Views come first and know an event that comes again, ids and counters follow in one step: a
        call that breaks off between the two is made whole by the same call again."""
        is_new = np.ones(len(batch), bool)
        with self._writes.asking() as client:
            if batch.ids:
                known = client.mget([self._key("seen", event_id.hex()) for event_id in batch.ids])
                is_new = np.array([row is None for row in known], bool)
            events = chosen(batch.events, is_new)
            self._fold(client, chosen(events, is_folded(events)), now_ms)
            if batch.ids and is_new.any():
                rows = np.flatnonzero(is_new)
                is_new[rows] = self._count(client, events, [batch.ids[row] for row in rows.tolist()])
            if batch.mark is not None:
                client.set(self._key("mark", batch.mark[0]), batch.mark[1])
        return is_new

    def marked(self, name: str) -> int | None:
        """See OnlineStore."""
        with self._writes.asking() as client:
            found = client.get(self._key("mark", name))
        return None if found is None else int(found)

    def tell(self, updates: Sequence[LiveUpdate], now_ms: int) -> None:
        """See OnlineStore."""
        with self._writes.asking() as client, client.pipeline(transaction=False) as pipe:
            for update in updates:
                told = (update.live_id, update.author_id, update.start_ms, update.end_ms, update.segment)
                told_or_not = ["" if each is None else each for each in told]
                times = (self._ttl_ms, self._longest_ms, now_ms - self._ttl_ms)
                pipe.eval(_TELL, 2, self._key("live", update.live_id), self._key("air", ""), *told_or_not, *times)
            pipe.execute()

    def lives(self, live_ids: Sequence[int]) -> list[LiveState | None]:
        """See OnlineStore."""
        with self._reads.asking() as client, client.pipeline(transaction=False) as pipe:
            for live_id in live_ids:
                pipe.hgetall(self._key("live", live_id))
            found = pipe.execute()
        return [_state(fields) if fields else None for fields in found]

    def on_air(self, ts_ms: int, most: int) -> OnAir:
        """See OnlineStore."""
        with self._writes.asking() as client:  # there may be thousands
            return _listed(client.zrangebyscore(self._key("air", ""), f"({ts_ms}", "+inf", start=0, num=most))

    def ended(self, since_ms: int, until_ms: int, most: int) -> OnAir:
        """See OnlineStore."""
        with self._writes.asking() as client:
            return _listed(client.zrevrangebyscore(self._key("air", ""), until_ms, f"({since_ms}", start=0, num=most))

    def close(self) -> None:
        """See OnlineStore."""
        self._reads.client.close()
        self._writes.client.close()

    def _fold(self, client: Any, events: Columns, now_ms: int) -> None:
        user_ids = np.unique(events["user_id"])
        for start in range(0, len(user_ids), _USERS_AT_ONCE):
            some = user_ids[start : start + _USERS_AT_ONCE]
            for turn in range(_TRIES):
                with self._turn:  # threads of this process wait for each other, and only other processes come between
                    some = self._swapped(client, some, events, now_ms)
                if not len(some):
                    break
                time.sleep(random.random() * turn * _PAUSE_S)
            else:
                raise StoreDownError(f"redis: {len(some)} users were written by others {_TRIES} times; send it again")

    def _swapped(self, client: Any, user_ids: Any, events: Columns, now_ms: int) -> Any:
        """Folds events into rows of users; returns those users whose row others wrote meanwhile."""
        own = chosen(events, np.isin(events["user_id"], user_ids))
        keys = [self._key("user", user_id) for user_id in user_ids.tolist()]
        rows = client.mget(keys)
        after = fold(rows, np.searchsorted(user_ids, own["user_id"]), own, self._config, now_ms)
        with client.pipeline(transaction=False) as pipe:
            for key, before, row in zip(keys, rows, after, strict=True):
                version = b"" if before is None else before[:VERSION_BYTES]
                pipe.eval(_SWAP, 1, key, version, row, self._ttl_ms, VERSION_BYTES)
            is_written = np.array(pipe.execute(), bool)
        return user_ids[~is_written]

    def _count(self, client: Any, events: Columns, ids: Sequence[bytes]) -> list[int]:
        """Remembers ids and counts the events of those that did not come before; which these are."""
        lives, kinds = events["live_id"].tolist(), [EVENT_KINDS[kind] for kind in events["kind"].tolist()]
        keys = [
            key
            for event_id, live_id in zip(ids, lives, strict=True)
            for key in (self._key("seen", event_id.hex()), self._key("live", live_id))
        ]
        counted: list[int] = client.eval(_COUNT, len(keys), *keys, self._ids_ms, self._ttl_ms, *kinds)
        return counted

    def _key(self, table: str, what: object) -> str:
        return f"{self._config.prefix}{table}:{what}"


def _state(fields: Mapping[bytes, bytes]) -> LiveState:
    def number(name: str) -> int | None:
        return int(fields[name.encode()]) if name.encode() in fields else None

    return LiveState(
        author_id=number("author"),
        start_ms=number("start"),
        end_ms=number("end"),
        newest_segment=number("segment"),
        counters={kind: number(kind) or 0 for kind in EVENT_KINDS},
    )


def _listed(members: Sequence[bytes]) -> OnAir:
    rows = [tuple(int(part) for part in member.split(b":")) for member in members]
    return OnAir.of([(live, author, start, over) for live, author, start, over in rows])
