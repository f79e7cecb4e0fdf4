"""A client that hangs up: its upstream is freed at once, in every state, and what was generated is booked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from backends.words import JsonValue
from tests.served.world import Rows, Served, a_policy, serving
from tests.transports import TRANSPORTS
from tests.upstream import Received
from tests.wall.runs import open_holds
from tests.wall.server import Floods, Hangs, Play, PlayServer, as_chunk, head
from tests.wall.words import CHUNKED, ONE, ROLE, TWO, begun

pytestmark = pytest.mark.asyncio(loop_scope="module")

WITHIN_S = 0.1
TRIES = 3
"""The best of so many counts: a busy machine may be late, a gateway that waits for something is late every time."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Where an answer stands when its client leaves, having seen `seen`."""

    is_stream: bool
    play: Play
    model: str = "plain"
    seen: bytes = b""
    tokens: int | None = None


STATES = {
    "whole, before the headers": State(is_stream=False, play=(Hangs(),)),
    "whole, within the headers": State(is_stream=False, play=(b"HTTP/1.1 200 OK\r\n", Hangs())),
    "whole, within the body": State(is_stream=False, play=(head("content-length: 99"), b"{", Hangs())),
    "stream, before the headers": State(is_stream=True, play=(Hangs(),)),
    "stream, between headers and body": State(is_stream=True, play=(CHUNKED, Hangs())),
    "stream, silent after the role chunk": State(
        is_stream=True, play=(*begun(ROLE), Hangs()), seen=b'"role"', tokens=0
    ),
    "stream, silent between tokens": State(
        is_stream=True, play=(*begun(ROLE, ONE, TWO), Hangs()), seen=b" two", tokens=2
    ),
    "whole, before a judge has it": State(
        is_stream=False, play=(head("content-length: 99"), b"{", Hangs()), model="cascade"
    ),
    "stream, held back for a judge": State(
        is_stream=True, play=(*begun(ROLE, ONE, TWO), Hangs()), model="cascade", tokens=2
    ),
    "stream, by itself in a flight": State(
        is_stream=True, play=(*begun(ROLE), Hangs()), model="cached", seen=b'"role"'
    ),
    "stream, while tokens come": State(
        is_stream=True, play=(*begun(ROLE, ONE), Floods(as_chunk(TWO), 10**9)), seen=b" two"
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[PlayServer]:
    def play(received: Received) -> Play:
        return STATES[received.text].play

    async with PlayServer(play) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TRANSPORTS)
async def gateway(
    request: pytest.FixtureRequest, upstream: PlayServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    policy = a_policy([upstream.url], server={"transport": request.param})
    async with serving(tmp_path_factory.mktemp("hang-ups"), policy) as served:
        yield served


async def leave(gateway: Served, upstream: PlayServer, name: str, client_request_id: str) -> float:
    """Ask, hang up in that state, and return how many seconds later the upstream is free."""
    state = STATES[name]
    messages = [{"role": "user", "content": name}]
    body = {"model": state.model, "messages": messages, "stream": state.is_stream, "temperature": 0}
    host, port = gateway.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_request(gateway, json.dumps(body | {"max_tokens": 50}).encode(), client_request_id))
    received = await upstream.request(len(upstream.requests) + 1)
    await asyncio.wait_for(reader.readuntil(state.seen) if state.seen else asyncio.sleep(0.05), 10)
    left_at = asyncio.get_running_loop().time()
    writer.close()
    await asyncio.wait_for(received.closed.wait(), 10)
    return received.closed_at - left_at


def _request(gateway: Served, body: bytes, client_request_id: str) -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.secrets['acme']}\r\n"
        f"x-request-id: {client_request_id}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def booked(gateway: Served, client_request_id: str) -> Rows:
    """Return the rows of a request that got no answer to know its id by."""
    async with asyncio.timeout(20):
        while True:
            rows = await gateway.rows(0)
            found: list[dict[str, JsonValue]] = [
                row for row in rows.requests if row["client_request_id"] == client_request_id
            ]
            if found:
                charges = [c for c in rows.charges if c["request_id"] == found[0]["request_id"]]
                return Rows(requests=found, charges=charges)


@pytest.mark.parametrize("name", STATES)
async def test_a_hang_up_frees_the_upstream_at_once_and_books_what_came(
    gateway: Served, upstream: PlayServer, name: str
):
    times = [await leave(gateway, upstream, name, f"{name} {number}") for number in range(TRIES)]
    rows = await booked(gateway, f"{name} 0")
    assert min(times) < WITHIN_S
    assert [(r["status"], r["error_code"]) for r in rows.requests] == [(499, "client_gone")]
    (charge,) = rows.charges
    assert (charge["kind"], charge["cost_nusd"] > 0) == ("cancelled", True)
    assert STATES[name].tokens in {None, charge["output_tokens"]}
    assert charge["output_provenance"] == ("counted" if charge["output_tokens"] and "stream" in name else "estimated")


async def test_hang_ups_leave_nothing_open(gateway: Served, upstream: PlayServer):
    for name in STATES:
        await leave(gateway, upstream, name, f"left {name}")
        await booked(gateway, f"left {name}")
    assert open_holds(gateway) == 0
    assert gateway.opened.gateway._in_flight == 0
    assert all(connection.closed.is_set() for connection in upstream.connections)
