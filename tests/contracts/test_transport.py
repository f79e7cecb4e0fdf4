"""The contract of `Transport`, for every implementation; see `backends.transport`."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import pytest

from backends.errors import BackendError, EndpointTimeout, EndpointUnreachable, ReplyMalformed, StreamCut
from backends.transport import MAX_HEADER_BYTES, Response, Transport
from tests.transports import TRANSPORTS
from tests.upstream import Received, unused_url
from tests.wall.server import Cuts, Floods, Hangs, PlayServer, Step, as_chunk, head, whole

CHUNKED = head("transfer-encoding: chunked")
GONE_WITHIN_S = 5.0
"""Generous: a busy machine is not a fault. What is asserted is that it happens without anything else happening."""


@pytest.fixture(params=TRANSPORTS)
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    opened = TRANSPORTS[request.param](5)
    yield opened
    await opened.aclose()


def plays(*steps: Step) -> PlayServer:
    """Return a server that does the same for every request."""
    return PlayServer(lambda _: steps)


def plays_each(*each: tuple[Step, ...]) -> PlayServer:
    """Return a server that does one play a request."""
    left = list(each)
    return PlayServer(lambda _: left.pop(0))


async def ask(transport: Transport, server: PlayServer, headers: Mapping[str, str] | None = None) -> Response:
    return await transport.post(f"{server.url}/x", headers=headers or {}, body=b"question")


async def drain(response: Response, into: bytearray) -> None:
    """Read to the end; what came before an error is in `into`."""
    while part := await response.read():
        into += part


async def rest(response: Response) -> bytes:
    """Read to the end and let go."""
    received = bytearray()
    await drain(response, received)
    response.close()
    return bytes(received)


async def exchange(transport: Transport, server: PlayServer, *, into: bytearray | None = None) -> bytes:
    received = bytearray() if into is None else into
    response = await ask(transport, server)
    try:
        await drain(response, received)
    finally:
        response.close()
    return bytes(received)


# --- what is sent ------------------------------------------------------------------------------------------------


async def test_a_request_arrives_as_it_was_given(transport: Transport):
    async with plays(whole(b"{}")) as server:
        response = await transport.post(f"{server.url}/chat/completions?a=b%20c", headers={"x-one": "1"}, body=b"\x00q")
        await rest(response)
    (received,) = server.requests
    assert (received.method, received.path, received.body) == ("POST", "/v1/chat/completions?a=b%20c", b"\x00q")
    given = {"host", "content-length", "x-one"}
    assert given <= received.headers.keys() <= given | {"connection"}


async def test_a_body_of_megabytes_is_sent_whole(transport: Transport):
    body = bytes(range(256)) * 2**14
    async with plays(whole(b"{}")) as server:
        await rest(await transport.post(server.url, headers={}, body=body))
    assert server.requests[0].body == body
    assert server.requests[0].headers["content-length"] == str(len(body))


async def test_cookies_are_not_kept(transport: Transport):
    async with plays(whole(b"{}", "set-cookie: a=b; Path=/")) as server:
        await exchange(transport, server)
        await exchange(transport, server)
    assert all("cookie" not in received.headers for received in server.requests)


@pytest.mark.parametrize("status", ["301 X", "302 X", "303 X", "307 X", "308 X"])
async def test_a_redirect_is_an_answer(transport: Transport, status: str):
    async with plays(whole(b"{}")) as other, plays(whole(b"no", f"location: {other.url}", status=status)) as server:
        response = await ask(transport, server)
        assert (response.status, response.header("location"), await rest(response)) == (
            int(status[:3]),
            other.url,
            b"no",
        )
    assert other.requests == []


# --- what comes back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "body", "is_delimited"),
    [
        ((whole(b"abc"),), b"abc", True),
        ((whole(b""),), b"", True),
        ((head("content-length: 3"), b"a", b"bc"), b"abc", True),
        ((CHUNKED, as_chunk(b"ab"), as_chunk(b"c"), b"0\r\n\r\n"), b"abc", True),
        ((CHUNKED + as_chunk(b"abc") + b"0\r\n\r\n",), b"abc", True),
        ((CHUNKED, b"3;ext=1\r\nabc\r\n0\r\nx-trailer: 1\r\n\r\n"), b"abc", True),
        ((CHUNKED, *(bytes([b]) for b in as_chunk(b"abc") + b"0\r\n\r\n")), b"abc", True),
        ((head("connection: close"), b"abc", Cuts()), b"abc", False),
        ((head(version="1.0"), b"abc", Cuts()), b"abc", False),
        ((head(status="100 Continue"), whole(b"abc")), b"abc", True),
        ((head("link: </x>", status="103 Early Hints"), whole(b"abc")), b"abc", True),
    ],
)
async def test_a_body_is_what_its_framing_says(
    transport: Transport, answer: tuple[Step, ...], body: bytes, is_delimited: bool
):
    async with plays(*answer) as server:
        response = await ask(transport, server)
        assert (response.status, response.is_delimited) == (200, is_delimited)
        assert await rest(response) == body
        assert (await response.read(), response.read_now()) == (b"", b"")


async def test_a_compressed_body_is_left_as_it_is(transport: Transport):
    body = gzip.compress(b"abc")
    async with plays(whole(body, "content-encoding: gzip")) as server:
        response = await ask(transport, server)
        assert response.header("content-encoding") == "gzip"
        assert await rest(response) == body


async def test_headers_are_found_in_lower_case(transport: Transport):
    async with plays(whole(b"{}", "Retry-After: 7", "X-Twice: a", "X-Twice: b")) as server:
        response = await ask(transport, server)
        found = [response.header(name) for name in ("retry-after", "x-twice", "x-none")]
        await rest(response)
    assert found == ["7", "a", None]


async def test_a_header_section_below_the_limit_is_read(transport: Transport):
    lines = [f"x-{n}: {'a' * 1000}" for n in range(60)]
    async with plays(whole(b"abc", *lines)) as server:
        assert await exchange(transport, server) == b"abc"


async def test_what_has_arrived_can_be_taken_without_waiting(transport: Transport):
    gate = asyncio.Event()
    async with plays(CHUNKED, as_chunk(b"a"), Hangs(until=gate), as_chunk(b"b"), b"0\r\n\r\n") as server:
        response = await ask(transport, server)
        assert await response.read() == b"a"
        assert response.read_now() == b""
        gate.set()
        assert await response.read() == b"b"
        response.close()


# --- what is no answer -------------------------------------------------------------------------------------------


async def test_nobody_listens(transport: Transport):
    with pytest.raises(EndpointUnreachable):
        await transport.post(unused_url(), headers={}, body=b"")


@pytest.mark.parametrize("name", TRANSPORTS)
async def test_a_connection_that_is_not_accepted_in_time_is_a_timeout(name: str):
    transport = TRANSPORTS[name](0.1)
    loop = asyncio.get_running_loop()
    with socket.socket() as busy, socket.socket() as first, socket.socket() as second:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)  # one connection waits to be accepted, and Linux lets the next ones hang
        for other in (first, second):
            other.setblocking(False)
            with suppress(TimeoutError):
                await asyncio.wait_for(loop.sock_connect(other, busy.getsockname()), 0.1)
        with pytest.raises(EndpointTimeout) as raised:
            await transport.post(f"http://127.0.0.1:{busy.getsockname()[1]}/v1/x", headers={}, body=b"")
    await transport.aclose()
    assert (raised.value.phase, raised.value.limit_s) == ("connect", 0.1)


@pytest.mark.parametrize(
    "answer", [(Cuts(),), (Cuts(is_reset=True),), (b"HTTP/1.1 20", Cuts()), (b"HTTP/1.1 200 OK\r\na: b\r\n", Cuts())]
)
async def test_a_connection_that_breaks_before_the_headers_is_unreachable(
    transport: Transport, answer: tuple[Step, ...]
):
    async with plays(*answer) as server:
        with pytest.raises(EndpointUnreachable):
            await ask(transport, server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Hangs()),
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", Hangs()),
        (head("content-length: 1", "content-length: 2"), b"ab", Hangs()),
        (head("content-length: -1"), b"ab", Hangs()),
        (head("no colon here"), Hangs()),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * (MAX_HEADER_BYTES + 1000) + b"\r\n\r\n", Hangs()),
        (head(*(f"x-{n}: {'a' * 1000}" for n in range(90)), "content-length: 5"), Hangs()),
        (b"HTTP/1.1 200 OK\r\n", Floods(b"x-endless: abcdefgh\r\n" * 100, 10_000), Hangs()),
        (b"HTTP/1.1 200 OK\r\nx: ", Floods(b"a" * 1000, 100_000), Hangs()),
        (head("content-length: 7", "transfer-encoding: chunked") + as_chunk(b"ab") + b"0\r\n\r\n", Hangs()),
        (head("content-length: 7", "transfer-encoding: chunked"), as_chunk(b"ab"), b"0\r\n\r\n", Hangs()),
        (head("transfer-encoding: chunked", "content-length: 7"), as_chunk(b"ab"), b"0\r\n\r\n", Hangs()),
    ],
    ids=lambda answer: repr(answer[0][:80]),
)
async def test_what_is_not_http_is_refused_and_its_connection_closed(transport: Transport, answer: tuple[Step, ...]):
    async with asyncio.timeout(GONE_WITHIN_S), plays(*answer) as server:
        with pytest.raises((ReplyMalformed, StreamCut)):
            await exchange(transport, server)
        await server.last.closed.wait()
        assert server.last.sent_bytes < 4 * 2**20


@pytest.mark.parametrize(
    "answer",
    [
        (head("content-length: 4"), b"abc", Cuts()),
        (head("content-length: 4"), b"abc", Cuts(is_reset=True)),
        (CHUNKED, as_chunk(b"abc"), Cuts()),
        (CHUNKED, as_chunk(b"abc"), Cuts(is_reset=True)),
        (CHUNKED, as_chunk(b"abc"), b"0\r\n", Cuts()),
        (CHUNKED, b"5\r\nabc", Cuts()),
        (CHUNKED, as_chunk(b"abc"), b"xyz\r\n", Hangs()),
        (CHUNKED, as_chunk(b"abc"), b"-1\r\n", Hangs()),
        (CHUNKED, as_chunk(b"abc"), b"fffffffffffffffff\r\nx", Hangs()),
        (CHUNKED, b"3\r\nabcd\r\n", Hangs()),
        (CHUNKED, as_chunk(b"abc"), b"0\r\n", Floods(b"x-trailer: abcdefgh\r\n" * 100, 10_000), Hangs()),
    ],
    ids=repr,
)
async def test_a_body_that_breaks_is_a_cut_after_what_had_arrived(transport: Transport, answer: tuple[Step, ...]):
    received = bytearray()
    async with asyncio.timeout(GONE_WITHIN_S), plays(*answer) as server:
        # Malformed, if head and break came in one packet.
        with pytest.raises((StreamCut, ReplyMalformed)):
            await exchange(transport, server, into=received)
        await server.last.closed.wait()
    assert bytes(received[:3]) in {b"abc", b""}
    if isinstance(answer[-1], Cuts) and not answer[-1].is_reset:
        assert received == b"abc"


async def test_what_arrived_before_a_cut_is_read_although_the_cut_is_known(transport: Transport):
    async with plays(CHUNKED, as_chunk(b"abc"), Cuts()) as server:
        response = await ask(transport, server)
        await server.last.closed.wait()
        await asyncio.sleep(0.02)  # the client's side learns of the cut in its own time
        assert await response.read() == b"abc"
        for _ in range(2):
            with pytest.raises(StreamCut):
                await response.read()
        response.close()


# --- which connection --------------------------------------------------------------------------------------------


async def test_a_connection_is_used_again_after_a_complete_response(transport: Transport):
    async with plays_each((whole(b"a"),), (CHUNKED, as_chunk(b"b"), b"0\r\n\r\n"), (whole(b"c"),)) as server:
        assert [await exchange(transport, server) for _ in range(3)] == [b"a", b"b", b"c"]
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (whole(b"a", "connection: close"),),
        (head("connection: close"), b"a", Cuts()),
        (head("content-length: 1", version="1.0") + b"a",),
        (whole(b"a") + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",),
    ],
)
async def test_a_connection_that_may_not_be_used_again_is_not(transport: Transport, answer: tuple[Step, ...]):
    async with plays_each(answer, (whole(b"honest"),)) as server:
        assert await exchange(transport, server) == b"a"
        assert await exchange(transport, server) == b"honest"
    assert len(server.connections) == 2


async def test_what_comes_unasked_on_an_idle_connection_is_no_answer(transport: Transport):
    gate = asyncio.Event()
    async with plays_each((whole(b"a"), Hangs(until=gate), whole(b"forged")), (whole(b"b"),)) as server:
        assert await exchange(transport, server) == b"a"
        gate.set()
        await asyncio.sleep(0.05)  # it arrives in its own time
        assert await exchange(transport, server) == b"b"
    assert len(server.connections) == 2


async def test_requests_at_the_same_time_have_connections_of_their_own(transport: Transport):
    gate = asyncio.Event()

    def play(received: Received) -> tuple[Step, ...]:
        return (CHUNKED, as_chunk(received.body), Hangs(until=gate), b"0\r\n\r\n")

    async with PlayServer(play) as server:
        open_ones = [await transport.post(server.url, headers={}, body=b"%d" % n) for n in range(3)]
        gate.set()
        assert [await rest(response) for response in open_ones] == [b"0", b"1", b"2"]
    assert len(server.connections) == 3


async def test_a_connection_that_died_idle_costs_nothing(transport: Transport):
    async with plays(whole(b"a")) as server:
        await exchange(transport, server)
        server.close_idle()
        assert await exchange(transport, server) == b"a"
    assert len(server.connections) == 2


@pytest.mark.parametrize("death", [Cuts(), Cuts(is_reset=True)])
async def test_a_request_on_a_connection_that_dies_at_that_moment_is_sent_once_more(transport: Transport, death: Cuts):
    async with plays_each((whole(b"a"),), (death,), (whole(b"b"),)) as server:
        assert [await exchange(transport, server) for _ in range(2)] == [b"a", b"b"]
    assert (len(server.connections), len(server.requests)) == (2, 3)


@pytest.mark.parametrize("death", [(Cuts(),), (Cuts(is_reset=True),)])
async def test_it_is_sent_once_more_only_once(transport: Transport, death: tuple[Step, ...]):
    async with plays_each((whole(b"a"),), death, death) as server:
        await exchange(transport, server)
        with pytest.raises(EndpointUnreachable):
            await exchange(transport, server)
    assert len(server.requests) == 3


async def test_a_request_whose_answer_had_begun_is_not_sent_again(transport: Transport):
    async with plays_each((whole(b"a"),), (b"HTTP/1.1 200 OK\r\nx: 1\r\n", Cuts())) as server:
        await exchange(transport, server)
        with pytest.raises(BackendError):
            await exchange(transport, server)
    assert len(server.requests) == 2


# --- letting go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [(Hangs(),), (b"HTTP/1.1 200 OK\r\n", Hangs())])
async def test_cancelling_a_post_closes_its_connection(transport: Transport, answer: tuple[Step, ...]):
    async with plays(*answer) as server, asyncio.TaskGroup() as group:
        asking = group.create_task(ask(transport, server))
        await server.request()
        asking.cancel()
        await asyncio.wait_for(server.last.closed.wait(), GONE_WITHIN_S)


async def test_a_read_that_is_cancelled_can_be_repeated_or_given_up(transport: Transport):
    gate = asyncio.Event()
    async with plays(CHUNKED, Hangs(until=gate), as_chunk(b"a"), Hangs()) as server:
        response = await ask(transport, server)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(response.read(), 0.02)
        response.close()
        gate.set()
        await asyncio.wait_for(server.last.closed.wait(), GONE_WITHIN_S)


@pytest.mark.parametrize("answer", [(head("content-length: 9"), b"abc", Hangs()), (CHUNKED, as_chunk(b"abc"), Hangs())])
async def test_closing_before_the_end_closes_the_connection(transport: Transport, answer: tuple[Step, ...]):
    async with plays(*answer) as server:
        response = await ask(transport, server)
        response.close()
        response.close()
        await asyncio.wait_for(server.last.closed.wait(), GONE_WITHIN_S)


async def test_closing_a_transport_closes_its_connections_and_can_be_repeated(transport: Transport):
    async with plays(whole(b"a")) as server:
        await exchange(transport, server)
        await transport.aclose()
        await transport.aclose()
        await asyncio.wait_for(server.last.closed.wait(), GONE_WITHIN_S)


# --- back-pressure -----------------------------------------------------------------------------------------------


async def test_a_reader_that_does_not_read_stops_the_sender(transport: Transport):
    piece, times = b"x" * 2**16, 1600
    async with plays(head(f"content-length: {len(piece) * times}"), Floods(piece, times)) as server:
        response = await ask(transport, server)
        sent = -1
        while sent != server.last.sent_bytes:  # until it stands still
            sent = server.last.sent_bytes
            await asyncio.sleep(0.1)
        assert sent < 24 * 2**20
        total = 0
        while part := await response.read():
            total += len(part)
        assert total == len(piece) * times
        response.close()
