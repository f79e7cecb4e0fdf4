"""Patience with the network: what the event loop takes for itself is not the network's time."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from backends.connecting import MOST_AT_ONCE, Patience
from backends.wire import WireTransport, _Origin
from tests.wall.server import PlayServer, whole


async def test_what_takes_too_long_times_out():
    began = time.monotonic()
    with pytest.raises(TimeoutError), Patience(0.02):
        await asyncio.Event().wait()
    assert time.monotonic() - began >= 0.02
    assert asyncio.current_task().cancelling() == 0


async def test_a_loop_that_did_not_turn_costs_the_network_nothing():
    with Patience(0.02):
        time.sleep(0.1)  # noqa: ASYNC251 - other requests' work
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251
        await asyncio.sleep(0)


async def test_who_is_cancelled_is_not_timed_out():
    async def wait() -> None:
        with Patience(5):
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
    assert task.cancelled()


async def test_a_burst_makes_its_connections_in_turns():
    turns: list[int] = []

    class Counting(WireTransport):
        async def _open_socket(self, origin: _Origin) -> socket.socket:
            turns.append(MOST_AT_ONCE - origin.turns._value)
            return await super()._open_socket(origin)

    transport = Counting(connect_s=5)
    async with PlayServer(lambda _: [whole(b"a")]) as server, asyncio.TaskGroup() as group:
        asked = [group.create_task(transport.post(server.url, headers={}, body=b"")) for _ in range(MOST_AT_ONCE + 50)]
    assert {(await task).status for task in asked} == {200}
    assert max(turns) == MOST_AT_ONCE
    await transport.aclose()
