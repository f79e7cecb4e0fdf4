"""The caches on a request's way, without a gateway: what a store that does not answer costs."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from backends.asks import parse_ask
from backends.clock import SystemClock
from backends.words import RequestId, Surface, TenantId
from gateway.caching import Caches
from gateway.calls import Call
from gateway.compose import prepare
from gateway.journey import Caller, Journey, Lane
from gateway.worker import Worker, take_short_turns
from policies.loader import load_policy
from semantic_cache.partition import Keys, Scope, keys_of
from semantic_cache.qdrant_index import QdrantIndex
from semantic_cache.redis_store import RedisBodies
from semantic_cache.scaled_store import ScaledStore
from semantic_cache.seam import Miss, MissReason
from semantic_cache.sqlite_store import SqliteStore
from tests.contracts.test_store import entry
from tests.served.world import EMBEDDER, a_policy, an_acceptance, write_policy

BODY = json.dumps({"model": "cached", "temperature": 0, "messages": [{"role": "user", "content": "What is it?"}]})
DEADLINE_S = 0.5


def a_journey(lane: Lane) -> Journey:
    clock, call = SystemClock(), Call(surface=Surface.CHAT, body=BODY.encode(), digest=None)
    journey = Journey(
        request_id=RequestId("r"), call=call, clock=clock, started_at=clock.now(), started=clock.monotonic()
    )
    journey.caller, journey.lane = Caller(tenant=TenantId("acme"), key_id="k"), lane
    return journey


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_a_partition_that_was_searched_is_read_in_to_its_end(tmp_path: Path):
    lane = prepare(load_policy(write_policy(tmp_path, a_policy(["http://a"])), {}), SystemClock()).lanes["cached"].lane
    journey, ask, worker = a_journey(lane), parse_ask(Surface.CHAT, BODY.encode()), Worker()
    scope = Scope(tenant=TenantId("acme"), answers=lane.answers, namespace="")
    keys = keys_of(ask, scope, max_temperature=0.0, wants_partition=True)
    assert isinstance(keys, Keys)
    store = SqliteStore(tmp_path / "cache.db", max_entries=2_000, max_bytes=10**8)
    ends_at = SystemClock().now() + timedelta(hours=1)
    for n in range(1_300):
        stored = entry(f"e{n}", vector=EMBEDDER.embed([f"{n}"])[0], partition=keys.partition)
        store.put(replace(stored, expires_at=ends_at))
    caches = Caches(store=store, acceptance=an_acceptance, embedder=EMBEDDER, worker=worker)
    await caches.look_exact(journey, ask)
    assert await caches.look_semantic(journey, ask, wants_vector=False) is None
    async with asyncio.timeout(20):
        while await worker.run(store.is_partial, keys.partition):
            await worker.run(len, "")
    assert len(store._shelves[keys.partition]) == 1_300
    caches.close()


async def test_servers_that_never_answer_cost_a_request_one_deadline_and_not_one_each(tmp_path: Path):
    lane = prepare(load_policy(write_policy(tmp_path, a_policy(["http://a"])), {}), SystemClock()).lanes["cached"].lane
    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    at = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    bodies = RedisBodies.at(f"redis://{at}", max_entries=9, max_bytes=999, deadline_s=DEADLINE_S)
    index = QdrantIndex.at(f"http://{at}", api_key=None, embedder_id="e", dimensions=384, deadline_s=DEADLINE_S)
    caches = Caches(
        store=ScaledStore(bodies, index),
        acceptance=an_acceptance,
        embedder=EMBEDDER,
        worker=Worker(),
        deadline_s=DEADLINE_S,
    )
    journey, ask = a_journey(lane), parse_ask(Surface.CHAT, BODY.encode())
    assert await caches.look_exact(journey, ask) is None
    assert await caches.look_semantic(journey, ask, wants_vector=False) is None
    assert journey.lookups == dict.fromkeys(("exact", "semantic"), Miss(reason=MissReason.STORE_FAILED))
    assert DEADLINE_S * 0.9 < journey.store_s < DEADLINE_S * 1.8
    await asyncio.to_thread(caches.close)
    silent.close()


def test_a_serving_process_hands_the_interpreter_over_within_the_loops_aim():
    before = sys.getswitchinterval()
    try:
        take_short_turns()
        assert sys.getswitchinterval() < 0.0002
    finally:
        sys.setswitchinterval(before)
