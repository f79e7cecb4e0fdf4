"""The wire transport beyond the contract: any bytes in any pieces, TLS, what is sent, what is kept.

The contract itself is tests/contracts/test_transport.py.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import EndpointTimeout, EndpointUnreachable, ReplyMalformed, StreamCut
from backends.wire import WireTransport
from tests.fuzz_wire import broken, check_broken, feed, pieces, valid
from tests.wall.server import Hangs, PlayServer, as_chunk, head, whole

GONE_WITHIN_S = 5.0
RANDOMS = st.randoms(use_true_random=True)
CHUNKED = head("transfer-encoding: chunked")


@pytest.fixture
async def transport() -> AsyncIterator[WireTransport]:
    opened = WireTransport(connect_s=5)
    yield opened
    await opened.aclose()


async def ask(transport: WireTransport, url: str, body: bytes = b"question") -> bytes:
    response = await transport.post(url, headers={}, body=body)
    try:
        parts = []
        while part := await response.read():
            parts.append(part)
        return b"".join(parts)
    finally:
        response.close()


# --- any bytes ---------------------------------------------------------------------------------------------------


@given(RANDOMS)
async def test_a_valid_answer_is_read_equal_in_any_pieces(random: Random):
    answer = valid(random)
    outcome = await feed(pieces(random, answer.raw))
    assert (outcome.status, outcome.body, outcome.failure) == (answer.status, answer.body, None)
    assert outcome.is_kept == answer.keeps


@given(RANDOMS)
async def test_a_broken_answer_ends_in_one_error_whatever_its_pieces(random: Random):
    raw = broken(random)
    check_broken(await feed([raw]), await feed(pieces(random, raw)))


@given(RANDOMS, st.binary(min_size=1).filter(lambda surplus: not surplus.startswith((b"\r", b"\n"))))
async def test_surplus_bytes_leave_the_answer_and_end_the_connection(random: Random, surplus: bytes):
    answer = valid(random)
    outcome = await feed(pieces(random, answer.raw + surplus))
    if answer.raw.endswith(answer.body) and outcome.body != answer.body:
        assert outcome.body == answer.body + surplus  # only the connection's end delimits it
    assert (outcome.status, outcome.is_kept) == (answer.status, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"RTSP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n folded\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 OK\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
        head("content-length: 1", "content-length: 1") + b"a",
        head("content-length: 1, 1") + b"a",
        head("content-length: +1") + b"a",
        head("transfer-encoding: gzip, chunked") + b"0\r\n\r\n",
        head("transfer-encoding: chunked, gzip") + b"0\r\n\r\n",
        head("transfer-encoding: gzip") + b"abc",
        head("transfer-encoding: identity") + b"abc",
        head("transfer-encoding: chunked", "transfer-encoding: chunked") + b"0\r\n\r\n",
        head("transfer-encoding: chunked", version="1.0") + b"0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
    ],
    ids=lambda raw: repr(raw[:70]),
)
async def test_a_head_that_two_readers_could_read_differently_is_refused(raw: bytes):
    outcome = await feed([raw])
    assert (outcome.status, outcome.failure, outcome.is_kept) == (0, ReplyMalformed, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"3\nabc\n0\n\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"0\r\n" * 2,
    ],
)
async def test_lenient_chunks_are_a_cut(raw: bytes):
    outcome = await feed([CHUNKED, raw])
    assert (outcome.failure, outcome.is_kept) == (StreamCut, False)


async def test_a_reset_is_never_the_end_of_a_body():
    outcome = await feed([head("connection: close"), b"abc"], reset=ConnectionResetError())
    assert (outcome.body, outcome.failure) == (b"abc", StreamCut)


# --- what is sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{"x": "a\r\nb: c"}, {"x": "a\nb"}, {"x": "a\x00"}, {"x": "\u010a"}, {"x\r\ny": "a"}, {"x y": "a"}]
)
async def test_a_header_that_would_be_read_as_two_is_never_sent(transport: WireTransport, headers: dict[str, str]):
    async with PlayServer(lambda _: [whole(b"{}")]) as server:
        with pytest.raises(ValueError, match="header"):
            await transport.post(server.url, headers=headers, body=b"")
        with pytest.raises(ValueError, match="header"):
            await transport.post(server.url, headers={}, body=b"", own=headers)
    assert server.connections == []


@pytest.mark.parametrize(
    "url", ["http://a/b c", "http://a/\r\nx", "http://u:p@a/", "ftp://a/", "/a", "http://", "http://a/\u00e9"]
)
async def test_an_address_that_is_none_is_never_asked(transport: WireTransport, url: str):
    with pytest.raises(ValueError, match="address"):
        await transport.post(url, headers={}, body=b"")


async def test_an_answer_to_half_a_request_is_read_and_its_connection_closed(transport: WireTransport):
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(whole(b"too large", status="413 X"))
        while await reader.read(2**20):
            pass
        closed.set()
        writer.close()

    closed = asyncio.Event()
    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=2**10)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert await ask(transport, url, bytes(30 * 2**20)) == b"too large"
        await asyncio.wait_for(closed.wait(), GONE_WITHIN_S)


# --- what is kept ------------------------------------------------------------------------------------------------


async def test_what_comes_on_an_idle_connection_is_no_answer(transport: WireTransport):
    gate = asyncio.Event()
    plays = [[whole(b"honest")], [whole(b"honest"), Hangs(until=gate), whole(b"forged"), Hangs()]]
    async with PlayServer(lambda _: plays.pop()) as server:
        assert await ask(transport, server.url) == b"honest"
        gate.set()
        await asyncio.wait_for(server.last.closed.wait(), GONE_WITHIN_S)
        assert await ask(transport, server.url) == b"honest"
        assert len(server.connections) == 2


async def test_a_connection_that_ended_unseen_is_not_asked(transport: WireTransport):
    async with PlayServer(lambda _: [whole(b"a")]) as server:
        await ask(transport, server.url)
        server.close_idle()
        await server.last.closed.wait()
        await ask(transport, server.url)
    assert len(server.requests) == 2


async def test_closing_the_transport_ends_what_is_being_read(transport: WireTransport):
    async with PlayServer(lambda _: [CHUNKED, as_chunk(b"a"), Hangs()]) as server:
        response = await transport.post(server.url, headers={}, body=b"")
        assert await response.read() == b"a"
        await transport.aclose()
        with pytest.raises(StreamCut):
            await response.read()
        with pytest.raises(EndpointUnreachable):
            await ask(transport, server.url)


async def test_closing_the_transport_ends_what_is_being_connected(transport: WireTransport):
    async def is_refused() -> None:
        with pytest.raises(EndpointUnreachable):
            await ask(transport, server.url)

    async with PlayServer(lambda _: [whole(b"a")]) as server:
        async with asyncio.TaskGroup() as group:
            group.create_task(is_refused())
            await asyncio.sleep(0)  # it resolves the name
            await transport.aclose()
        await transport.aclose()
    assert server.requests == []


async def test_a_host_that_does_not_answer_is_a_timeout():
    transport = WireTransport(connect_s=0.05)
    async with PlayServer(lambda _: []) as server:
        with pytest.raises(EndpointTimeout) as raised:  # no TLS will ever be spoken there
            await transport.post(server.url.replace("http", "https"), headers={}, body=b"")
    assert raised.value.phase == "connect"
    await transport.aclose()


# --- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an authority that certifies itself as `localhost`; the folder has cert.pem and key.pem."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extensions = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *extensions], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
async def tls_port(authority: Path) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                length = int(request.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(whole(b"%d of %d" % (length, id(writer))))
        except asyncio.IncompleteReadError:
            writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def test_tls_is_spoken_with_whom_the_certificate_names(authority: Path, tls_port: int):
    transport = WireTransport(connect_s=5, trusted_ca=authority / "cert.pem")
    answers = [await ask(transport, f"https://localhost:{tls_port}/", bytes(2**20)) for _ in range(3)]
    await transport.aclose()
    assert answers[0].startswith(b"1048576 of ")
    assert len(set(answers)) == 1  # one connection


@pytest.mark.parametrize(("host", "trusts"), [("localhost", False), ("127.0.0.1", True)])
async def test_tls_with_anyone_else_is_refused(authority: Path, tls_port: int, host: str, trusts: bool):
    transport = WireTransport(connect_s=5, trusted_ca=authority / "cert.pem" if trusts else None)
    with pytest.raises(EndpointUnreachable):
        await ask(transport, f"https://{host}:{tls_port}/")
    await transport.aclose()
