"""The contract of `Backend`, for every implementation: one endpoint over HTTP, and a pool of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from backends.clock import SystemClock
from backends.errors import BackendError, StreamCut
from backends.http import HttpBackend
from backends.pool import Pool
from backends.seam import Backend, Outbound, Timeouts
from backends.words import Chunk, Event, RequestId, Surface, Whole
from tests.backends.fakes import drain
from tests.transports import TRANSPORTS
from tests.upstream import Stalls, Upstream, refuses, says

Maker = Callable[[str], Backend]


@pytest.fixture(params=[(kind, name) for kind in ("http", "pool") for name in TRANSPORTS], ids="-".join)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Maker]:
    kind, name = request.param
    transport = TRANSPORTS[name](5)

    def maker(url: str) -> Backend:
        one = HttpBackend(transport=transport, base_url=url, api_key=None, timeouts=Timeouts())
        return one if kind == "http" else Pool([one], clock=SystemClock())

    yield maker
    await transport.aclose()


def out(question: str, *, stream: bool) -> Outbound:
    body = {"model": "m", "messages": [{"role": "user", "content": question}], "stream": stream}
    return Outbound(
        surface=Surface.CHAT, body=json.dumps(body).encode(), is_stream=stream, request_id=RequestId("req-1")
    )


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    script = {
        "whole": says("one two three"),
        "refused": refuses(500, "broken"),
        "cut": says("one two three", cut_after=2),
        "slow": says("one two three", stall_after=1),
        "silent": Stalls(),
    }
    async with Upstream(script) as server:
        yield server


async def test_a_stream_yields_chunks_until_its_end(make: Maker, upstream: Upstream):
    reply = await make(upstream.url).open(out("whole", stream=True))
    events = [event async for event in reply]
    await reply.aclose()
    assert all(isinstance(event, Chunk) for event in events)
    assert "".join(event.content for event in events) == "one two three"
    assert [e.finish_reason for e in events if e.finish_reason] == ["stop"]


async def test_a_whole_answer_is_one_event(make: Maker, upstream: Upstream):
    reply = await make(upstream.url).open(out("whole", stream=False))
    (event,) = [event async for event in reply]
    await reply.aclose()
    assert isinstance(event, Whole)
    assert event.content == "one two three"


async def test_what_is_no_answer_raises_in_open(make: Maker, upstream: Upstream):
    with pytest.raises(BackendError):
        await make(upstream.url).open(out("refused", stream=True))


async def test_an_end_before_the_finish_reason_raises_after_what_came(make: Maker, upstream: Upstream):
    reply = await make(upstream.url).open(out("cut", stream=True))
    events: list[Event] = []
    with pytest.raises(StreamCut):
        await drain(reply, events)
    await reply.aclose()
    assert "".join(event.content for event in events) == "one two"


async def test_the_reply_names_its_endpoint(make: Maker, upstream: Upstream):
    reply = await make(upstream.url).open(out("whole", stream=False))
    await reply.aclose()
    assert reply.endpoint == upstream.url


async def test_closing_early_and_twice_frees_the_upstream(make: Maker, upstream: Upstream):
    reply = await make(upstream.url).open(out("slow", stream=True))
    await anext(reply)
    await reply.aclose()
    await reply.aclose()
    await asyncio.wait_for(upstream.last.closed.wait(), 10)


async def test_cancelling_open_frees_the_upstream(make: Maker, upstream: Upstream):
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(make(upstream.url).open(out("silent", stream=True)))
        received = await upstream.request()
        opening.cancel()
        await asyncio.wait_for(received.closed.wait(), 10)


async def test_a_cancelled_iteration_loses_no_event(make: Maker, upstream: Upstream):
    reply = await make(upstream.url).open(out("slow", stream=True))
    events: list[Event] = []
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(drain(reply, events), 0.1)
    await reply.aclose()
    assert "".join(event.content for event in events) == "one"


async def test_closing_a_backend_twice_is_closing_it_once(make: Maker, upstream: Upstream):
    backend = make(upstream.url)
    await backend.aclose()
    await backend.aclose()
