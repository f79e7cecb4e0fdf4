"""The HTTP backend against a scripted upstream: statuses, streams, deadlines, and when connections are freed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from backends.errors import (
    AskRejected,
    CredentialsRejected,
    EndpointFailed,
    EndpointTimeout,
    EndpointUnreachable,
    ReplyMalformed,
    StreamCut,
)
from backends.http import HttpBackend, _read_error
from backends.seam import Outbound, Reply, Timeouts
from backends.transport import Transport
from backends.words import Chunk, Event, JsonValue, RequestId, Surface
from tests.backends.fakes import drain
from tests.transports import TRANSPORTS
from tests.upstream import Act, Answers, Drops, Flavour, Says, Stalls, Upstream, refuses, says, unused_url

SOON = Timeouts(first_byte_s=0.2, idle_s=0.2)


def out(*, stream: bool = True, **fields: JsonValue) -> Outbound:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **options, **fields}
    return Outbound(
        surface=Surface.CHAT, body=json.dumps(body).encode(), is_stream=stream, request_id=RequestId("req-7")
    )


@pytest.fixture(params=TRANSPORTS)
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    opened = TRANSPORTS[request.param](5)
    yield opened
    await opened.aclose()


def backend(transport: Transport, url: str, timeouts: Timeouts | None = None) -> HttpBackend:
    return HttpBackend(transport=transport, base_url=url, api_key="sk-own", timeouts=timeouts or Timeouts())


async def read(reply: Reply) -> list[Event]:
    events = [event async for event in reply]
    await reply.aclose()
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.content for event in events)


@pytest.mark.parametrize("flavour", list(Flavour))
async def test_a_stream_is_its_events(transport: Transport, flavour: Flavour):
    async with Upstream({"Hi": says("one two three")}, flavour=flavour) as upstream:
        events = await read(await backend(transport, upstream.url).open(out()))
    assert [e.content for e in events] == ["", "one", " two", " three", "", ""]
    assert b'"role":"assistant"' in events[0].payload
    assert [e.usage.output_tokens for e in events if e.usage] == [3]


@pytest.mark.parametrize("flavour", list(Flavour))
async def test_a_whole_answer_is_one_event(transport: Transport, flavour: Flavour):
    async with Upstream({"Hi": says("one two three")}, flavour=flavour) as upstream:
        (event,) = await read(await backend(transport, upstream.url).open(out(stream=False)))
    assert (event.content, event.finish_reason) == ("one two three", "stop")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_line_ends_and_comments_change_nothing(transport: Transport, end: str):
    async with Upstream({"Hi": says("one two", ends_line=end, comments=True)}) as upstream:
        assert text_of(await read(await backend(transport, upstream.url).open(out()))) == "one two"


async def test_the_key_and_the_request_id_are_sent(transport: Transport):
    async with Upstream() as upstream:
        await read(await backend(transport, upstream.url).open(out()))
        assert upstream.last.headers["authorization"] == "Bearer sk-own"
        assert upstream.last.headers["x-request-id"] == "req-7"


async def test_a_body_of_megabytes_is_sent_whole(transport: Transport):
    async with Upstream() as upstream:
        await read(await backend(transport, upstream.url).open(out(stream=False, image="x" * 3_000_000)))
    assert len(upstream.last.json["image"]) == 3_000_000
    assert "content-length" in upstream.last.headers


async def test_a_whole_answers_connection_is_used_again(transport: Transport):
    async with Upstream() as upstream:
        for _ in range(3):
            await read(await backend(transport, upstream.url).open(out(stream=False)))
        assert upstream.connections == 1


async def test_a_streams_connection_is_used_again_although_its_end_comes_late(transport: Transport):
    async with Upstream() as upstream:
        for _ in range(5):
            await read(await backend(transport, upstream.url).open(out()))
        assert upstream.connections == 1


async def test_a_stream_that_never_ends_its_body_is_closed(transport: Transport):
    body = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    endless = Answers(body=body, content_type="text/event-stream", is_endless=True)
    async with Upstream({"Hi": endless}) as upstream:
        reply = await backend(transport, upstream.url).open(out())
        assert text_of([event async for event in reply]) == "a"
        await reply.aclose()
        await asyncio.wait_for(upstream.last.closed.wait(), 10)


async def test_llamacpp_closes_after_a_stream_and_the_next_one_works(transport: Transport):
    async with Upstream(flavour=Flavour.LLAMACPP) as upstream:
        for _ in range(3):
            assert text_of(await read(await backend(transport, upstream.url).open(out()))) == "An answer."
        assert upstream.connections == 3


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (Answers(status=500), EndpointFailed),
        (Answers(status=503), EndpointFailed),
        (refuses(429, "slow down"), EndpointFailed),
        (Answers(status=302, headers={"location": "http://127.0.0.1:1/"}), EndpointFailed),
        (refuses(408, "too slow"), EndpointFailed),
        (refuses(401, "bad key sk-own"), CredentialsRejected),
        (refuses(403, "not you"), CredentialsRejected),
        (refuses(400, "too long"), AskRejected),
        (refuses(404, "no such model"), AskRejected),
        (Drops(), EndpointUnreachable),
        (Answers(body=b"<html>hello</html>", content_type="text/html"), ReplyMalformed),
        (Answers(body=b'{"error":{"message":"broken"}}'), ReplyMalformed),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_is_no_answer_raises_before_the_first_event(
    transport: Transport, act: Act, error: type[Exception], stream: bool
):
    async with Upstream({"Hi": act}) as upstream:
        with pytest.raises(error) as raised:
            await backend(transport, upstream.url).open(out(stream=stream))
        assert "sk-own" not in str(raised.value)
        assert raised.value.endpoint == upstream.url


@pytest.mark.parametrize(
    "body", [b'data: {"error":{"message":"x"}}\n\n', b"data: {nonsense\n\n", b"", b"data: [DONE]\n\n", b": only\n\n"]
)
async def test_a_stream_without_a_first_event_is_malformed(transport: Transport, body: bytes):
    async with Upstream({"Hi": Answers(body=body, content_type="text/event-stream")}) as upstream:
        with pytest.raises(ReplyMalformed) as raised:
            await backend(transport, upstream.url).open(out())
        assert raised.value.endpoint == upstream.url


async def test_retry_after_travels_with_the_refusal(transport: Transport):
    async with Upstream({"Hi": refuses(429, "slow", headers={"retry-after": "7"})}) as upstream:
        with pytest.raises(EndpointFailed) as raised:
            await backend(transport, upstream.url).open(out())
    assert (raised.value.status, raised.value.retry_after) == (429, "7")


async def test_a_refusals_words_are_the_upstreams(transport: Transport):
    async with Upstream({"Hi": refuses(400, "too long", param="messages", code=400, type="BadRequestError")}) as up:
        with pytest.raises(AskRejected) as raised:
            await backend(transport, up.url).open(out())
    error = raised.value
    assert (error.status, error.message, error.kind) == (400, "too long", "invalid_request_error")
    assert (error.param, error.code) == ("messages", "400")


@pytest.mark.parametrize("body", [b"", b"<html>", b'"text"', b'{"detail":"no"}', b"\xff"])
def test_a_refusal_without_words_says_its_status(body: bytes):
    assert _read_error(body).message is None


async def test_nobody_listens(transport: Transport):
    with pytest.raises(EndpointUnreachable):
        await backend(transport, unused_url()).open(out())


async def test_silence_before_the_answer_is_a_timeout_and_frees_the_upstream(transport: Transport):
    async with Upstream({"Hi": Stalls()}) as upstream:
        with pytest.raises(EndpointTimeout) as raised:
            await backend(transport, upstream.url, SOON).open(out())
        await asyncio.wait_for(upstream.last.closed.wait(), 10)
    assert raised.value.phase == "first_byte"


async def test_silence_in_a_stream_is_a_timeout(transport: Transport):
    async with Upstream({"Hi": says("one two three", stall_after=2)}) as upstream:
        reply = await backend(transport, upstream.url, SOON).open(out())
        with pytest.raises(EndpointTimeout) as raised:
            await read(reply)
        await reply.aclose()
        await asyncio.wait_for(upstream.last.closed.wait(), 10)
    assert raised.value.phase == "idle"


@pytest.mark.parametrize(("fault", "error"), [("cut_after", StreamCut), ("break_after", ReplyMalformed)])
async def test_a_stream_that_breaks_gives_what_came_before(transport: Transport, fault: str, error: type[Exception]):
    async with Upstream({"Hi": says("one two three", **{fault: 2})}) as upstream:
        reply = await backend(transport, upstream.url).open(out())
        events: list[Event] = []
        with pytest.raises(error) as raised:
            await drain(reply, events)
        await reply.aclose()
    assert text_of(events) == "one two"
    assert raised.value.endpoint == upstream.url


async def test_done_before_the_finish_reason_is_a_cut(transport: Transport):
    body = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'
    async with Upstream({"Hi": Answers(body=body, content_type="text/event-stream")}) as upstream:
        reply = await backend(transport, upstream.url).open(out())
        assert (await anext(reply)).content == "a"
        with pytest.raises(StreamCut):
            await anext(reply)
        await reply.aclose()


async def test_a_whole_answer_that_is_cut_raises(transport: Transport):
    async with Upstream({"Hi": Says(cut_after=0)}) as upstream:
        with pytest.raises(ReplyMalformed):
            await backend(transport, upstream.url).open(out(stream=False))


async def test_closing_a_stream_frees_the_upstream_at_once(transport: Transport):
    async with Upstream({"Hi": says("one two three", stall_after=1)}) as upstream:
        reply = await backend(transport, upstream.url).open(out())
        await reply.aclose()
        await reply.aclose()
        await asyncio.wait_for(upstream.last.closed.wait(), 10)


async def test_cancelling_open_frees_the_upstream(transport: Transport):
    async with Upstream({"Hi": Stalls()}) as upstream, asyncio.TaskGroup() as group:
        opening = group.create_task(backend(transport, upstream.url).open(out()))
        received = await upstream.request()
        opening.cancel()
        await asyncio.wait_for(received.closed.wait(), 10)


async def test_an_iteration_that_is_cancelled_can_be_gone_on_with(transport: Transport):
    def slow(_: object) -> Act:
        return says("one two three", stall_after=3)

    async with Upstream(slow) as upstream:
        reply = await backend(transport, upstream.url).open(out())
        seen: list[Event] = []
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(drain(reply, seen), 0.2)
        await reply.aclose()
    assert text_of(seen) == "one two three"


async def test_events_keep_their_bytes(transport: Transport):
    async with Upstream({"Hi": Says(fields={"big": 12345678901234567890, "x": "é"})}) as upstream:
        events = await read(await backend(transport, upstream.url).open(out()))
    assert all(isinstance(e, Chunk) and b'"big":12345678901234567890,"x":"\xc3\xa9"' in e.payload for e in events)
