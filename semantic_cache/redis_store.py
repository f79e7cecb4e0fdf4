"""Answers in Redis or Valkey, for several gateways: found by their keys, forgotten at their time.

`PREFIX:lead:KEY` says which gateway is buying an answer, for as long as it renews it.

An entry is a hash `PREFIX:e:KEY`; it expires by the server's own clock, counted from when it is put, so that the clocks
of gateway and server need not agree. `PREFIX:age` and `PREFIX:ends` order the keys by when they were made and when they
end; `PREFIX:sizes` and `PREFIX:bytes` count. One script puts an entry and makes room, so that the limits hold whoever
puts: expired entries go first, then the oldest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec
import redis

from backends.words import ModelId, TenantId, Usage
from semantic_cache.reach import DEADLINE_S, Reach
from semantic_cache.seam import Entry, Selector, Stock

_FILED: Final = (b"filed", b"body")
_CHUNK: Final = 500
"""Keys looked at together when something is dropped."""

_FORGET = """
local function forget(prefix, key)
  local size = redis.call('HGET', prefix .. ':sizes', key)
  redis.call('DEL', prefix .. ':e:' .. key)
  redis.call('ZREM', prefix .. ':age', key)
  redis.call('ZREM', prefix .. ':ends', key)
  if size then
    redis.call('HDEL', prefix .. ':sizes', key)
    redis.call('DECRBY', prefix .. ':bytes', size)
    return 1
  end
  return 0
end
"""

_PUT = (
    _FORGET
    + """
local prefix, key, now = KEYS[1], ARGV[1], ARGV[5]
forget(prefix, key)
redis.call('HSET', prefix .. ':e:' .. key, 'filed', ARGV[2], 'body', ARGV[3])
redis.call('PEXPIRE', prefix .. ':e:' .. key, ARGV[4])
redis.call('ZADD', prefix .. ':age', now, key)
redis.call('ZADD', prefix .. ':ends', ARGV[6], key)
redis.call('HSET', prefix .. ':sizes', key, ARGV[7])
redis.call('INCRBY', prefix .. ':bytes', ARGV[7])
local function is_over()
  return redis.call('ZCARD', prefix .. ':age') > tonumber(ARGV[8])
    or tonumber(redis.call('GET', prefix .. ':bytes')) > tonumber(ARGV[9])
end
local dropped = 0
if is_over() then
  for _, ended in ipairs(redis.call('ZRANGEBYSCORE', prefix .. ':ends', '-inf', now, 'LIMIT', 0, 1000)) do
    dropped = dropped + forget(prefix, ended)
  end
  while is_over() do
    local oldest = redis.call('ZRANGE', prefix .. ':age', 0, 0)[1]
    if not oldest then break end
    dropped = dropped + forget(prefix, oldest)
  end
end
return dropped
"""
)
_DROP = (
    _FORGET
    + """
local dropped = 0
for _, key in ipairs(ARGV) do dropped = dropped + forget(KEYS[1], key) end
return dropped
"""
)
_RENEW = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2]) end
end
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end"


class _Filed(msgspec.Struct, array_like=True, frozen=True):
    """All of an entry but its body; the vector is the index's."""

    partition: bytes
    asked: str
    model: ModelId
    usage: Usage
    baseline_nusd: int
    baseline_low_nusd: int
    baseline_high_nusd: int
    created_at: datetime
    expires_at: datetime
    tenant: TenantId
    namespace: str
    tags: tuple[str, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Filed).decode


class RedisBodies:
    """Keeps entries without their vectors.

    Args:
        client: connected; closed with this.
        max_entries: entries kept by all gateways together.
        max_bytes: bytes of bodies and texts kept; what Redis itself needs for an entry comes on top.
        prefix: of all keys.
    """

    def __init__(self, client: redis.Redis, *, max_entries: int, max_bytes: int, prefix: str = "faregate") -> None:
        self._client = client
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._prefix = prefix
        self._reach = Reach((redis.RedisError, OSError))
        self._put = client.register_script(_PUT)
        self._drop = client.register_script(_DROP)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)
        self._dropped = 0

    @classmethod
    def at(cls, url: str, *, max_entries: int, max_bytes: int, deadline_s: float = DEADLINE_S) -> RedisBodies:
        """Return the store at an address such as `redis://host:6379/0`; it is connected to when it is first asked."""
        client = redis.Redis.from_url(
            url, socket_timeout=deadline_s, socket_connect_timeout=deadline_s, retry=None, retry_on_timeout=False
        )
        return cls(client, max_entries=max_entries, max_bytes=max_bytes)

    @property
    def is_resting(self) -> bool:
        """Whether it failed a moment ago, and fails at once now."""
        return self._reach.is_resting

    def get(self, keys: Sequence[bytes], now: datetime) -> list[Entry | None]:
        """Return the entries under keys that have not expired, in the keys' order, without their vectors.

        Raises:
            StoreUnavailable: the server could not be asked in time.
        """

        def ask() -> list[list[bytes | None]]:
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(self._at(key), _FILED)
            found: list[list[bytes | None]] = pipeline.execute()
            return found

        entries = [_entry(key, *found) for key, found in zip(keys, self._reach.ask(ask), strict=True)]
        return [entry if entry is not None and entry.expires_at > now else None for entry in entries]

    def put(self, entry: Entry) -> None:
        """Keep an entry, in place of one under the same key.

        Raises:
            StoreUnavailable: as above.
        """
        lives_ms = max(1, int((entry.expires_at - entry.created_at).total_seconds() * 1e3))
        filed = _encode(_filed(entry))
        size = len(entry.payload) + len(filed)
        made, ends = entry.created_at.timestamp(), entry.expires_at.timestamp()
        arguments: list[bytes | float] = [
            entry.key,
            filed,
            entry.payload,
            lives_ms,
            made,
            ends,
            size,
            self._max_entries,
            self._max_bytes,
        ]
        self._dropped += int(self._reach.ask(self._put, keys=[self._prefix], args=arguments))

    def drop(self, selector: Selector) -> list[bytes]:
        """Forget the entries that are meant; return their keys.

        Raises:
            StoreUnavailable: as above; some of them may be forgotten.
        """
        dropped: list[bytes] = []
        for keys in self._keys() if selector.key is None else iter([[selector.key]]):
            found = [_entry(key, filed, b"") for key, filed in zip(keys, self._filed_of(keys), strict=True)]
            meant = [entry.key for entry in found if entry is not None and selector.takes(entry)]
            gone = [key for key, entry in zip(keys, found, strict=True) if entry is None]
            if meant or gone:
                self._reach.ask(self._drop, keys=[self._prefix], args=[*meant, *gone])
            dropped += meant
        return dropped

    def stock(self) -> Stock:
        """Count what is there.

        Raises:
            StoreUnavailable: as above.
        """
        entries = int(self._reach.ask(self._client.zcard, f"{self._prefix}:age"))
        size = int(self._reach.ask(self._client.get, f"{self._prefix}:bytes") or 0)
        return Stock(entries=entries, bytes=size, with_vectors=0, dropped=self._dropped)

    def claim(self, key: bytes, holder: bytes, *, life_s: float) -> bool:
        """Take the lead for a while, if nobody has it.

        Raises:
            StoreUnavailable: as above.
        """
        taken = self._reach.ask(self._client.set, self._lead(key), holder, nx=True, px=round(life_s * 1e3))
        return bool(taken)

    def renew(self, keys: Iterable[bytes], holder: bytes, *, life_s: float) -> None:
        """Keep leads of one's own for longer.

        Raises:
            StoreUnavailable: as above.
        """
        leads: list[str | bytes] = [self._lead(key) for key in keys]
        self._reach.ask(self._renew, keys=leads, args=[holder, round(life_s * 1e3)])

    def release(self, key: bytes, holder: bytes) -> None:
        """Let go of a lead of one's own.

        Raises:
            StoreUnavailable: as above.
        """
        self._reach.ask(self._release, keys=[self._lead(key)], args=[holder])

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._client.close()

    def _at(self, key: bytes) -> bytes:
        return f"{self._prefix}:e:".encode() + key

    def _lead(self, key: bytes) -> bytes:
        return f"{self._prefix}:lead:".encode() + key

    def _keys(self) -> Iterator[list[bytes]]:
        """Yield all keys in chunks: those of one moment, so that what is put meanwhile is not looked for for ever."""
        found = self._reach.ask(self._client.zrange, f"{self._prefix}:age", 0, -1)
        keys = [key for key in found if isinstance(key, bytes)]
        for first in range(0, len(keys), _CHUNK):
            yield keys[first : first + _CHUNK]

    def _filed_of(self, keys: Sequence[bytes]) -> list[bytes | None]:
        def ask() -> list[bytes | None]:
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.hget(self._at(key), "filed")
            found: list[bytes | None] = pipeline.execute()
            return found

        return self._reach.ask(ask)


def _filed(entry: Entry) -> _Filed:
    return _Filed(
        entry.partition,
        entry.asked,
        entry.model,
        entry.usage,
        entry.baseline_nusd,
        entry.baseline_low_nusd,
        entry.baseline_high_nusd,
        entry.created_at,
        entry.expires_at,
        entry.tenant,
        entry.namespace,
        entry.tags,
    )


def _entry(key: bytes, filed: bytes | None, body: bytes | None) -> Entry | None:
    if filed is None or body is None:
        return None
    try:
        known = _decode(filed)
    except msgspec.MsgspecError:
        return None  # another version's
    return Entry(
        key=key,
        partition=known.partition,
        asked=known.asked,
        vector=None,
        payload=body,
        model=known.model,
        usage=known.usage,
        baseline_nusd=known.baseline_nusd,
        baseline_low_nusd=known.baseline_low_nusd,
        baseline_high_nusd=known.baseline_high_nusd,
        created_at=known.created_at,
        expires_at=known.expires_at,
        tenant=known.tenant,
        namespace=known.namespace,
        tags=known.tags,
    )
