"""What the front door makes of raw bytes: framing, limits, slow senders and readers, hang-ups, pipelining."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import re
import socket
import struct
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.served.world import Served, a_policy, serving
from tests.upstream import Answers, Says, Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves most of these

CHAT = b"/v1/chat/completions"
BODY = b'{"model":"plain","messages":[{"role":"user","content":"count"}]}'
HIDDEN = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
"""A second request whose answer must not come: it says "ready"."""

SCRIPT = {
    "count": says("one two three"),
    "gated": Says(stall_after=1),
    "large": Says(tokens=("x" * 20_000,) * 1_000, stall_after=1_000),
    "whole": Answers(body=json.dumps({"choices": [{"index": 0, "message": {"content": "y" * 20_000_000}}]}).encode()),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(SCRIPT) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("front"), a_policy([upstream.url])) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A gateway that waits for nobody."""
    timeouts = {"request_s": 0.2, "total_s": 1.0, "first_byte_s": 1.0, "idle_s": 1.0, "connect_s": 1.0}
    limits = {"max_body_bytes": 100_000}
    policy = a_policy([upstream.url], timeouts=timeouts, limits=limits)
    async with serving(tmp_path_factory.mktemp("hasty"), policy) as served:
        yield served


async def connect(gateway: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = gateway.origin.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(gateway: Served, sent: bytes) -> bytes:
    """Send bytes, and return all that comes until the gateway closes the connection."""
    reader, writer = await connect(gateway)
    writer.write(sent)
    async with asyncio.timeout(10):
        received = await reader.read(-1)
    writer.close()
    return received


def head(
    gateway: Served, *lines: bytes, target: bytes = CHAT, method: bytes = b"POST", version: bytes = b"1.1"
) -> bytes:
    key = gateway.secrets["acme"].encode()
    first = b"%b %b HTTP/%b\r\nhost: x\r\nauthorization: Bearer %b\r\n" % (method, target, version, key)
    return first + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def whole(gateway: Served, *lines: bytes, body: bytes = BODY, target: bytes = CHAT, version: bytes = b"1.1") -> bytes:
    return head(gateway, b"content-length: %d" % len(body), *lines, target=target, version=version) + body


def asking(text: str, **fields: object) -> bytes:
    return json.dumps({"model": "plain", "messages": [{"role": "user", "content": text}], **fields}).encode()


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize("target", [CHAT, b"/health", b"/v1/models"])
@pytest.mark.parametrize(
    "lines",
    [
        [b"content-length: 5", b"transfer-encoding: chunked"],
        [b"transfer-encoding: chunked", b"content-length: 5"],
        [b"content-length: 5", b"content-length: 6"],
        [b"content-length: 5", b"content-length: 5"],
        [b"content-length: 5, 5"],
        [b"content-length: +5"],
        [b"content-length: -1"],
        [b"content-length: 0x5"],
        [b"content-length: 99999999999999999999999999"],
        [b"transfer-encoding: gzip, chunked"],
        [b"transfer-encoding: chunked, identity"],
        [b"transfer-encoding: xchunked"],
        [b"transfer-encoding: chunked", b"transfer-encoding: chunked"],
        [b"transfer-encoding : chunked"],
        [b"content-length\x00: 5"],
        [b"host: another", b"content-length: 0"],
    ],
)
async def test_a_request_with_two_ends_is_refused_and_what_is_hidden_in_it_is_not_served(
    gateway: Served, lines: list[bytes], target: bytes
):
    answer = await exchange(gateway, head(gateway, *lines, target=target) + b"0\r\n\r\n" + HIDDEN)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 "))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"ready"' not in answer


@pytest.mark.parametrize("size", [b"zz", b"-1", b"5;x\n", b"fffffffffffffffff", b"", b" 5", b"0x5"])
async def test_a_chunk_size_that_is_none_is_refused_and_the_connection_closed(gateway: Served, size: bytes):
    answer = await exchange(gateway, head(gateway, b"transfer-encoding: chunked") + size + b"\r\nhello\r\n" + HIDDEN)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "malformed_request"


@pytest.mark.parametrize(
    "framing",
    [
        b"5;" + b"x" * 900_000,
        b"5\r\nhello\r\n0\r\nx: " + b"y" * 900_000,
        b"5\r\nhello\r\n0\r\n" + b"x: y\r\n" * 150_000,
    ],
    ids=["extension", "trailer", "trailers"],
)
async def test_framing_without_end_is_cut_off(gateway: Served, framing: bytes):
    answer = await exchange(gateway, head(gateway, b"transfer-encoding: chunked") + framing)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"nearly all framing" in answer


async def test_nobody_fills_the_memory_by_a_page_that_reads_a_body_before_the_key(gateway: Served):
    target, chunk = b"/admin/cache/invalidate", b"10000\r\n" + b" " * 65_536 + b"\r\n"
    first = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" % target
    sent = first + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 100
    answer = await exchange(gateway, sent)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"


async def test_a_body_in_chunks_of_one_byte_is_read(gateway: Served):
    body = BODY + b" " * 200_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    sent = head(gateway, b"connection: close", b"transfer-encoding: chunked") + chunks + b"0\r\n\r\n"
    assert (await exchange(gateway, sent)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("start", [b"HTTP/2.0", b"HTTP/0.9", b""])
async def test_another_version_of_http_is_refused(gateway: Served, start: bytes):
    sent = whole(gateway).replace(b"HTTP/1.1", start, 1)
    assert (await exchange(gateway, sent)).startswith(b"HTTP/1.1 400 ")


async def test_a_refusal_reaches_a_client_that_is_still_sending(gateway: Served):
    sent = whole(gateway, b"connection: close", target=b"/v1/responses", body=b"x" * 3_000_000)
    assert (await exchange(gateway, sent)).startswith(b"HTTP/1.1 404 ")


async def test_chunked_coding_of_http_1_0_is_refused(gateway: Served):
    answer = await exchange(gateway, head(gateway, b"transfer-encoding: chunked", version=b"1.0") + CHUNKED + HIDDEN)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_trailer_is_no_header(gateway: Served):
    key = gateway.secrets["acme"].encode()
    start = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n" % CHAT
    trailer = b"authorization: Bearer %b\r\n\r\n" % key
    answer = await exchange(gateway, start + CHUNKED.removesuffix(b"\r\n") + trailer)
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_chunks_and_old_clients_are_served(gateway: Served, version: bytes):
    sent = whole(gateway, b"connection: close", body=asking("count", stream=True), version=version)
    answer = await exchange(gateway, sent)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (b"transfer-encoding: chunked" in answer) == (version == b"1.1")
    assert answer.endswith(b"data: [DONE]\n\n" + (b"\r\n0\r\n\r\n" if version == b"1.1" else b""))


async def test_a_chunked_request_is_read(gateway: Served):
    answer = await exchange(gateway, head(gateway, b"connection: close", b"transfer-encoding: chunked") + CHUNKED)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_pipelined_requests_are_answered_in_order(gateway: Served):
    sent = whole(gateway) + whole(gateway, body=b"{") + HIDDEN + whole(gateway, b"connection: close")
    answer = await exchange(gateway, sent)
    parts = answer.split(b"HTTP/1.1 ")[1:]
    assert [part[:3] for part in parts] == [b"200", b"400", b"200", b"200"]
    assert b'"ready"' in parts[2]


async def test_rubbish_after_a_request_does_not_touch_its_answer(gateway: Served):
    answer = await exchange(gateway, whole(gateway, body=asking("count", stream=True)) + b"\x00\x01rubbish\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_client_may_ask_before_it_sends(gateway: Served):
    reader, writer = await connect(gateway)
    lines = (b"expect: 100-continue", b"connection: close", b"content-length: %d" % len(BODY))
    writer.write(head(gateway, *lines))
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_an_old_client_is_not_told_to_continue(gateway: Served):
    answer = await exchange(gateway, whole(gateway, b"expect: 100-continue", version=b"1.0"))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_an_offer_of_another_protocol_is_ignored_as_javas_client_needs(gateway: Served, protocol: bytes):
    lines = (b"connection: upgrade, http2-settings", b"upgrade: " + protocol, b"http2-settings: AAMAAABkAAQAAP__")
    chunked = head(gateway, *lines, b"transfer-encoding: chunked") + CHUNKED
    answer = await exchange(gateway, whole(gateway, *lines) + chunked + whole(gateway, b"connection: close"))
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200"] * 3


async def test_a_client_that_asks_first_is_not_asked_for_a_body_that_no_key_opens(gateway: Served):
    first = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-wrong\r\n"
    answer = await exchange(gateway, first + b"expect: 100-continue\r\ncontent-length: 9\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("size", [100_000, 1_500_000])
async def test_a_large_body_without_a_key_is_refused_before_it_is_there(gateway: Served, size: int):
    first = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-wrong\r\n"
    answer = await exchange(gateway, first + b"content-length: 15000000\r\n\r\n" + b"x" * size)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert gateway.opened.commons.room.taken_bytes == 0


@pytest.mark.parametrize("sent", [b"x" * 500_000, b""], ids=["within its body", "answered"])
async def test_what_a_client_sent_is_let_go_with_its_connection(gateway: Served, sent: bytes):
    gc.disable()  # which comes late where few objects hold many bytes
    try:
        before = set(gateway.server.server_state.connections)
        reader, writer = await connect(gateway)
        writer.write(head(gateway, b"content-length: 1000000") + sent if sent else whole(gateway))
        await (writer.drain() if sent else answer(reader))
        async with asyncio.timeout(10):
            while not (met := gateway.server.server_state.connections - before):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            connection = weakref.ref(met.pop())
            writer.close()
            while connection() is not None:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
    finally:
        gc.enable()


async def test_who_asks_for_a_head_gets_no_body(gateway: Served):
    refused = await exchange(gateway, head(gateway, method=b"HEAD"))
    healthy = await exchange(gateway, head(gateway, b"connection: close", method=b"HEAD", target=b"/health"))
    assert refused.startswith(b"HTTP/1.1 405 ")
    assert healthy.startswith(b"HTTP/1.1 200 ")
    assert refused.endswith(b"\r\n\r\n")
    assert healthy.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "first", [b"", b"\x00", b"FOO", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET"]
)
async def test_what_is_no_request_is_refused_or_ended(hasty: Served, first: bytes):
    answer = await exchange(hasty, first)
    assert answer[9:12] in {b"400", b"408", b""}


async def test_nobody_is_tunnelled(gateway: Served):
    answer = await exchange(gateway, b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n" + HIDDEN)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (CHAT + b"?api-version=2026-01-01", 200),
        (b"http://elsewhere.example" + CHAT, 200),
        (b"/v1%2fchat/completions", 404),
        (b"/v1/chat%2Fcompletions", 404),
        (b"//v1/chat/completions", 404),
        (b"/v1//chat/completions", 404),
        (b"/v1/chat/completions/", 404),
        (b"/v1/../v1/chat/completions", 404),
        (b"/v1/chat/../../admin/status", 404),
        (b"/admin/status/../../v1/chat/completions", 404),
        (b"/v1/chat/completions%00", 404),
        (b"/v1/chat/completions;x", 404),
        (b"*", 404),
        (b"elsewhere:80", 400),
        (b"http://%", 400),
    ],
)
async def test_only_the_very_path_opens_a_data_path(gateway: Served, upstream: Upstream, target: bytes, status: int):
    upstream.requests.clear()
    answer = await exchange(gateway, whole(gateway, b"connection: close", target=target))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert len(upstream.requests) == (status == 200)


@pytest.mark.parametrize(
    "target",
    [b"/admin/status", b"//admin/status", b"/%61dmin/status", b"/v1/../admin/status", b"http://x/admin/status"],
)
async def test_no_spelling_of_the_admin_page_opens_it_without_its_key(gateway: Served, target: bytes):
    answer = await exchange(gateway, head(gateway, b"connection: close", target=target, method=b"GET"))
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 404 ", b"HTTP/1.1 400 "))
    assert b"policy_digest" not in answer


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"POST /v1/" + b"x" * 9_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414, "not_found"),
        (b"POST /v1/" + b"x" * 100_000, 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nhost: x\r\na: " + b"x" * 70_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nhost: x\r\na: " + b"x" * 70_000, 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
    ],
)
async def test_a_head_without_measure_is_refused(gateway: Served, sent: bytes, status: int, code: str):
    answer = await exchange(gateway, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == code


@pytest.mark.parametrize("coding", [b"gzip", b"identity, br"])
async def test_a_coded_body_is_refused_and_nothing_is_bought(gateway: Served, upstream: Upstream, coding: bytes):
    asked = len(upstream.requests)
    answer = await exchange(gateway, whole(gateway, b"Content-Encoding: " + coding, body=gzip.compress(BODY)))
    told, _, body = answer.partition(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 415 ")
    assert b"\r\naccept-encoding: identity" in told
    assert json.loads(body)["error"]["code"] == "unsupported_content_encoding"
    assert len(upstream.requests) == asked


async def test_a_body_that_says_it_is_not_coded_is_served(gateway: Served):
    answer = await exchange(gateway, whole(gateway, b"content-encoding: identity", b"connection: close"))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("status", "sent"),
    [
        (200, b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        (200, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        (401, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        (401, b"GET /admin/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        (404, b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        (400, b"rubbish\r\n\r\n"),
        (400, b"GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n"),
        (405, b"GET /v1/embeddings HTTP/1.1\r\nhost: x\r\n\r\n"),
        (408, b"POST /v1/models HTTP/1.1\r\nhost: x\r\n"),
        (413, b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n"),
        (431, b"GET /health HTTP/1.1\r\nhost: x\r\na: " + b"x" * 70_000),
    ],
)
async def test_every_answer_has_an_id(hasty: Served, status: int, sent: bytes):
    answers = [await exchange(hasty, sent) for _ in range(2)]
    ids = {re.findall(rb"\r\nx-request-id: (req-[0-9a-f]{32})\r\n", answer)[0] for answer in answers}
    assert {answer.split(b" ")[1] for answer in answers} == {b"%d" % status}
    assert len(ids) == 2


async def test_a_large_body_beside_a_small_head_is_no_large_head(gateway: Served):
    answer = await exchange(gateway, whole(gateway, b"connection: close", body=BODY + b" " * 200_000))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "beginning",
    [
        b"POST /v1/ch",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
async def test_a_request_that_trickles_in_is_ended(hasty: Served, beginning: bytes):
    answer = await exchange(hasty, beginning)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"timeouts.request_s" in answer


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_on_which_nothing_is_said_is_closed(hasty: Served, sent: bytes):
    assert await exchange(hasty, sent) == b""


async def test_a_slow_second_request_does_not_disturb_the_first_ones_answer(hasty: Served):
    sent = whole(hasty, body=asking("gated", stream=True)) + b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
    answer = await exchange(hasty, sent)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b'"timeout"' in answer  # of the first, by total_s


async def test_a_refused_body_is_booked_when_its_path_is_known(hasty: Served):
    answer = await exchange(hasty, head(hasty, b"content-length: 60000000") + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    name = answer.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    await asyncio.to_thread(hasty.opened.ledger.flush, 5.0)
    (row,) = [row for row in (await hasty.rows()).requests if row["request_id"] == name]
    assert (row["status"], row["error_code"], row["tenant"]) == (413, "request_too_large", "")


def stop_reading(gateway: Served, sent: bytes) -> socket.socket:
    """Send a request on a socket that takes little, and never read."""
    host, port = gateway.origin.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(sent)
    return client


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_never_reads_is_ended_by_the_deadline_and_booked(hasty: Served, stream: bool):
    before = len((await hasty.rows(0)).requests)
    client = stop_reading(hasty, whole(hasty, body=asking("large" if stream else "whole", stream=stream)))
    rows = await hasty.rows(before + 1)
    client.close()
    assert (rows.requests[-1]["status"], rows.requests[-1]["error_code"]) == (504, "timeout")


async def test_a_client_that_does_not_read_stops_the_upstream(tmp_path: Path):
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 50_000)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(event)
                await writer.drain()
                sent += len(event)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    timeouts = {"total_s": 1.5, "first_byte_s": 1.0, "idle_s": 1.5, "connect_s": 1.0}
    async with server, serving(tmp_path, a_policy([url], timeouts=timeouts)) as served:
        client = stop_reading(served, whole(served, body=asking("endless", stream=True)))
        rows = await served.rows(1)
        client.close()
    assert sent < 20_000_000  # kernel buffers on two connections, and ours
    assert (rows.requests[0]["status"], rows.requests[0]["error_code"]) == (504, "timeout")
    assert rows.charges[0]["kind"] == "cancelled"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_frees_the_upstream_at_once(gateway: Served, upstream: Upstream, stream: bool):
    # The best of three: a busy machine may be late, a gateway that waits for something is late every time.
    assert min([await freed_after(gateway, upstream, stream) for _ in range(3)]) < 0.1


async def freed_after(gateway: Served, upstream: Upstream, stream: bool) -> float:
    """Ask, reset the connection, and return how many seconds later the upstream is free."""
    upstream.requests.clear()
    reader, writer = await connect(gateway)
    writer.write(whole(gateway, body=asking("gated", stream=stream)))
    received = await upstream.request()
    if stream:
        await reader.readuntil(b"data: ")
    left_at = asyncio.get_running_loop().time()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    async with asyncio.timeout(5):
        await received.closed.wait()
    return received.closed_at - left_at


async def test_a_client_that_leaves_in_the_moment_of_asking_is_booked(tmp_path: Path, upstream: Upstream):
    async with serving(tmp_path, a_policy([upstream.url])) as served:
        for _ in range(20):
            _, writer = await connect(served)
            writer.write(whole(served, body=asking("count")))
            await writer.drain()
            writer.close()
        rows = await served.rows(20)
    assert {row["tenant"] for row in rows.requests} == {"acme"}


async def test_hop_by_hop_headers_go_no_further(gateway: Served, upstream: Upstream):
    lines = (b"connection: close, x-mine", b"x-mine: 1", b"te: trailers", b"keep-alive: timeout=5", b"trailer: x")
    await exchange(gateway, whole(gateway, *lines))
    assert not {"x-mine", "te", "keep-alive", "trailer", "connection"} & set(upstream.last.headers)


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer with a length; return its status line and body."""
    async with asyncio.timeout(10):
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        size = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:"))
        return lines[0] + await reader.readexactly(size)


@pytest.mark.parametrize("cut", [0, 1, len(BODY) - 1, len(BODY)])
async def test_a_head_that_is_known_may_come_before_its_body(gateway: Served, cut: int):
    reader, writer = await connect(gateway)
    for _ in range(3):
        sent = whole(gateway)
        place = len(sent) - len(BODY) + cut
        for part in (sent[:place], sent[place:]):
            writer.write(part)
            await asyncio.sleep(0)
        assert b" 200 OK" in (got := await answer(reader))
        assert b"one two three" in got
    writer.close()


async def test_requests_with_known_heads_are_answered_in_order_when_they_come_together(gateway: Served):
    reader, writer = await connect(gateway)
    writer.write(whole(gateway))
    await answer(reader)
    writer.write(whole(gateway) + whole(gateway, body=b"{}") + whole(gateway))
    statuses = [(await answer(reader))[:12] for _ in range(3)]
    writer.close()
    assert statuses == [b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 200"]


async def test_what_follows_a_body_whose_head_was_known_is_the_next_request(gateway: Served):
    reader, writer = await connect(gateway)
    writer.write(whole(gateway))
    await answer(reader)
    sent = whole(gateway)
    writer.write(sent[:-5])
    for _ in range(5):  # turns of the loop, which is the gateway's too
        await asyncio.sleep(0)
    writer.write(sent[-5:] + b"GET /health/liveness HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b" 200 OK" in await answer(reader)
    assert b"HTTP/1.1 200" in await reader.read(-1)
    writer.close()


async def test_a_body_that_trickles_in_behind_a_known_head_is_ended(hasty: Served):
    reader, writer = await connect(hasty)
    writer.write(whole(hasty))
    await answer(reader)
    writer.write(whole(hasty)[:-5])
    assert b"HTTP/1.1 408" in await answer(reader)
    assert await reader.read(-1) == b""
    writer.close()


async def test_a_body_over_the_limit_behind_a_known_head_is_refused(hasty: Served):
    reader, writer = await connect(hasty)
    writer.write(whole(hasty))
    await answer(reader)
    writer.write(head(hasty, b"content-length: 100001") + b"x" * 100_001)
    assert b"HTTP/1.1 413" in await answer(reader)
    writer.close()
