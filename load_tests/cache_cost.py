"""What the caches themselves cost: processor time and memory, without a gateway around them.

    python -m load_tests.cache_cost [--entries N] [--partitions N] [--redis URL]

Prints microseconds of processor time a call (means) for an exact hit and its key and for a search among a partition's
vectors, and what one entry takes of memory and disk.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from backends.asks import parse_ask
from backends.words import ModelId, Surface, TenantId, Usage
from semantic_cache.partition import Scope, keys_of
from semantic_cache.seam import Entry, Store
from semantic_cache.sqlite_store import SqliteStore
from semantic_cache.tiers import lookup_exact

_WIDTH = 384
_BODY = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"message":{"content":"%s"}}]}' % (b"word " * 64)
_ASK = b'{"model":"m","temperature":0,"messages":[{"role":"user","content":"What is it?"}]}'


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument("--redis", help="also measure the exact tier of a server, such as redis://127.0.0.1:6379")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        _embedded(Path(folder) / "cache.db", arguments.entries, arguments.partitions)
    if arguments.redis:
        _server(arguments.redis)


def _embedded(file: Path, entries: int, partitions: int) -> None:
    store = SqliteStore(file, max_entries=entries + 1, max_bytes=10**12)
    random = np.random.default_rng(1)
    for number in range(entries):
        store.put(_entry(number, random, partitions))
    asked = parse_ask(Surface.CHAT, _ASK)
    scope = Scope(tenant=TenantId("t"), answers=("large=x",))
    _print("exact key and partition", _us(lambda: keys_of(asked, scope, max_temperature=0.0), 2_000))
    _exact(store, "embedded", entries)
    before = _resident()
    vector, now = _unit(random), datetime.now(UTC)
    begun = time.perf_counter()
    store.neighbours(_partition(0), vector, limit=5, now=now)
    _print("first search of a partition (loads it)", (time.perf_counter() - begun) * 1e6)
    _print(
        f"search, {entries // partitions} vectors in the partition",
        _us(lambda: store.neighbours(_partition(0), vector, limit=5, now=now), 50),
    )
    loaded = max(1, entries // partitions)
    print(f"{(_resident() - before) / loaded:10.0f}  bytes of memory an entry of a partition in use")
    print(f"{file.stat().st_size / entries:10.0f}  bytes of disk an entry ({len(_BODY)} of them its body)")
    store.close()


def _server(url: str) -> None:
    from semantic_cache.redis_store import RedisBodies
    from semantic_cache.scaled_store import ScaledStore

    store = ScaledStore(RedisBodies.at(url, max_entries=100_000, max_bytes=10**9, deadline_s=1.0), None)
    random = np.random.default_rng(1)
    for number in range(1_000):
        store.put(_entry(number, random, 1))
    _exact(store, "in a server", 1_000)
    store.close()


def _exact(store: Store, name: str, entries: int) -> None:
    keys, now = [_key(number) for number in range(0, entries, max(1, entries // 500))], datetime.now(UTC)
    at = iter(range(10**9))
    _print(f"exact hit, {name}", _us(lambda: lookup_exact(store, keys[next(at) % len(keys)], now=now), 2_000))


def _entry(number: int, random: np.random.Generator, partitions: int) -> Entry:
    now = datetime.now(UTC)
    return Entry(
        key=_key(number),
        partition=_partition(number % partitions),
        tenant=TenantId("t"),
        asked=f"What is thing number {number}?",
        vector=_unit(random),
        payload=_BODY,
        model=ModelId("large"),
        usage=Usage(input_tokens=20, output_tokens=64),
        baseline_nusd=1,
        baseline_low_nusd=1,
        baseline_high_nusd=1,
        created_at=now,
        expires_at=now + timedelta(days=1),
    )


def _key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _partition(number: int) -> bytes:
    return (number + 1).to_bytes(32, "little")


def _unit(random: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector = random.standard_normal(_WIDTH, dtype=np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _us(call: Callable[[], object], times: int) -> float:
    for _ in range(min(times, 50)):
        call()
    begun = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begun) / times * 1e6


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _print(what: str, us: float) -> None:
    print(f"{us:10.1f}  us {what}")


if __name__ == "__main__":
    main()
