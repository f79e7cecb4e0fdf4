"""Large answers and slow readers: what an upstream sends is bounded by what the client takes, and by the limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tracemalloc
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from policies.schema import DEFAULT_MAX_ANSWER_BYTES
from tests.served.world import Served, a_policy, serving
from tests.transports import TRANSPORTS
from tests.wall.server import Floods, Hangs, PlayServer, as_chunk, head, whole
from tests.wall.words import ANSWER, CHUNKED, COUNT, DONE, END, FINISH, ROLE, TEXT, begun, chunk_of, event

PIECE = as_chunk(event(chunk_of({"content": "x" * 2**15})))
BUFFERS_BYTES = 24 * 2**20
"""What the kernel's socket buffers (up to 6 MB each way on Linux) and aiohttp's may hold together."""


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def serve(place: Path, upstream: PlayServer, transport: str | None = None) -> AbstractAsyncContextManager[Served]:
    policy = a_policy([upstream.url])
    return serving(place, policy if transport is None else policy | {"server": {"transport": transport}})


async def open_stream(gateway: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a stream on a connection that takes as little as a socket can."""
    host, port = gateway.origin.removeprefix("http://").split(":")
    body = json.dumps({"model": "plain", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    lines = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.secrets['acme']}\r\n"
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**13)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=raw, limit=2**12)
    writer.write(f"{lines}content-length: {len(body)}\r\n\r\n".encode() + body)
    return reader, writer


async def still(server: PlayServer) -> int:
    """Wait until the upstream cannot send any more, and return how much it has sent."""
    await server.request()
    sent = -1
    while sent != server.last.sent_bytes:
        sent = server.last.sent_bytes
        await asyncio.sleep(0.15)
    return sent


async def test_a_reader_that_does_not_read_stops_the_upstream_and_one_that_leaves_frees_it(
    tmp_path: Path, transport: str
):
    endless = (*begun(ROLE), Floods(PIECE, 10**6))
    async with PlayServer(lambda _: endless) as upstream, serve(tmp_path, upstream, transport) as gateway:
        _, writer = await open_stream(gateway)
        sent = await still(upstream)
        writer.transport.abort()
        await asyncio.wait_for(upstream.last.closed.wait(), 10)
        rows = await gateway.rows()
    assert sent < BUFFERS_BYTES
    assert [c["kind"] for c in rows.charges] == ["cancelled"]


async def test_a_slow_reader_gets_all_of_a_large_stream(tmp_path: Path, transport: str):
    pieces = 1000
    large = (*begun(ROLE), Floods(PIECE, pieces), *map(as_chunk, (FINISH, COUNT, DONE)), END)
    async with PlayServer(lambda _: large) as upstream, serve(tmp_path, upstream, transport) as gateway:
        reader, writer = await open_stream(gateway)
        assert await still(upstream) < BUFFERS_BYTES
        total, tail = 0, b""
        while not tail.endswith(b"0\r\n\r\n"):
            part = await reader.read(2**20)
            total, tail = total + len(part), (tail + part)[-64:]
        writer.close()
        rows = await gateway.rows()
    assert total > pieces * 2**15
    assert b"data: [DONE]\n\n" in tail
    assert [(c["kind"], c["output_tokens"]) for c in rows.charges] == [("answer", 3)]


async def test_a_stream_that_is_too_large_to_be_kept_is_not_cached(tmp_path: Path):
    large = (*begun(ROLE), Floods(PIECE, 33), *map(as_chunk, (FINISH, COUNT, DONE)), END)
    async with PlayServer(lambda _: large) as upstream, serve(tmp_path, upstream) as gateway:
        for _ in range(2):
            seen = await gateway.ask(model="cached", stream=True)
            assert (len(seen.text), seen.is_done) == (33 * 2**15, True)
            await gateway.stored()
    assert len(upstream.requests) == 2


async def test_a_whole_answer_of_100_megabytes_arrives(tmp_path: Path):
    pieces = 96
    before, after = ANSWER.split(TEXT.encode())
    size = len(before) + pieces * 2**20 + len(after)
    answer = (
        head("content-type: application/json", f"content-length: {size}") + before,
        Floods(b"x" * 2**20, pieces),
        after,
    )
    async with PlayServer(lambda _: answer) as upstream, serve(tmp_path, upstream) as gateway:
        seen = await gateway.ask()
        rows = await gateway.rows_of(seen)
    assert seen.status == 200
    assert seen.body.startswith(before + b"x" * pieces * 2**20)
    assert [c["output_tokens"] for c in rows.charges] == [3]


async def test_a_whole_answer_over_the_limit_is_cut_off_there(tmp_path: Path):
    piece = b"x" * 2**20
    for play in (
        (head("content-type: application/json"), Floods(piece, 10**4)),
        (CHUNKED.replace(b"text/event-stream", b"application/json"), Floods(as_chunk(piece), 10**4)),
    ):
        place = tmp_path / str(len(play[0]))
        place.mkdir()
        async with (
            PlayServer(lambda _, play=play: play) as upstream,
            serve(place, upstream) as gateway,
        ):
            seen = await gateway.ask()
            await asyncio.wait_for(upstream.last.closed.wait(), 10)
        assert (seen.status, seen.error["code"]) == (502, "upstream_error")
        assert upstream.last.sent_bytes < DEFAULT_MAX_ANSWER_BYTES + BUFFERS_BYTES


async def test_a_policys_own_limits_are_kept(tmp_path: Path):
    limits = {"max_answer_bytes": "2KB", "max_event_bytes": "1KB", "max_head_bytes": "1KB"}
    long = event(chunk_of({"content": "x" * 1_500}))
    plays = {"whole": (whole(ANSWER.replace(TEXT.encode(), b"x" * 2_500)),), "stream": (*begun(ROLE, long), END)}
    upstream = PlayServer(lambda received: plays[received.text])
    async with upstream, serving(tmp_path, a_policy([upstream.url], limits=limits)) as gateway:
        answer = await gateway.ask("whole")
        stream = await gateway.ask("stream", stream=True)
        refused = await gateway.ask("whole", headers={"x-long": "x" * 1_000})
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    assert "limits.max_answer_bytes" in answer.error["message"]
    assert (stream.chunks[-1]["error"]["code"], stream.is_cut) == ("upstream_error", True)
    assert "limits.max_event_bytes" in stream.chunks[-1]["error"]["message"]
    assert (refused.status, "limits.max_head_bytes" in refused.error["message"]) == (431, True)


# --- memory ---------------------------------------------------------------------------------------------------------

LARGE_BYTES = 24 * 2**20
SMALL_BYTES = 4 * 2**20
"""What all else may take meanwhile: buffers of sockets, pieces under way."""


async def peak_of(gateway: Served, body: bytes, *, is_chunked: bool = False) -> tuple[bytes, int]:
    """Send a request in pieces and read its answer in pieces; return the status line and the most bytes it took."""
    host, port = gateway.origin.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
    framing = "transfer-encoding: chunked" if is_chunked else f"content-length: {len(body)}"
    first = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    head = f"{first}authorization: Bearer {gateway.secrets['acme']}\r\n{framing}\r\n\r\n"
    if is_chunked:
        body = b"".join(as_chunk(body[n : n + 2**18]) for n in range(0, len(body), 2**18)) + END
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        writer.write(head.encode())
        with contextlib.suppress(ConnectionError):
            for place in range(0, len(body), 2**18):
                writer.write(body[place : place + 2**18])
                await writer.drain()
        status = await reader.readline()
        while not reader.at_eof() and await reader.read(2**16):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        writer.close()
    return status.strip(), peak - before


def question_of(size: int) -> bytes:
    return b'{"model":"plain","messages":[{"role":"user","content":"%b"}]}' % (b"y" * size)


async def test_a_large_answer_costs_twice_its_size(tmp_path: Path):
    before, after = ANSWER.split(TEXT.encode())
    size = len(before) + LARGE_BYTES + len(after)
    headers = head("content-type: application/json", f"content-length: {size}")
    large = (headers + before, Floods(b"x" * 2**16, LARGE_BYTES // 2**16), after)
    async with PlayServer(lambda _: large) as upstream, serve(tmp_path, upstream) as gateway:
        status, took = await peak_of(gateway, question_of(1))
    assert status == b"HTTP/1.1 200 OK"
    assert LARGE_BYTES < took < 2.2 * LARGE_BYTES + SMALL_BYTES


async def test_a_large_body_costs_three_times_its_size(tmp_path: Path):
    async def forget(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode()
        left = int(lines.partition("content-length: ")[2].partition("\r\n")[0])
        while left:
            left -= len(await reader.read(min(left, 2**16)))
        writer.write(whole(ANSWER, "connection: close"))
        writer.close()

    async with await asyncio.start_server(forget, "127.0.0.1", 0) as upstream:
        url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/v1"
        policy = a_policy([url], limits={"max_body_bytes": "100MB"})
        policy["models"]["large"]["context_tokens"] = 10**8
        async with serving(tmp_path, policy) as gateway:
            status, took = await peak_of(gateway, question_of(LARGE_BYTES))
    assert status == b"HTTP/1.1 200 OK"
    assert LARGE_BYTES < took < 3.2 * LARGE_BYTES + SMALL_BYTES


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_body_over_the_limit_costs_no_more_than_the_limit(tmp_path: Path, is_chunked: bool):
    async with PlayServer(lambda _: ()) as upstream, serve(tmp_path, upstream) as gateway:
        status, took = await peak_of(gateway, question_of(3 * LARGE_BYTES), is_chunked=is_chunked)
    assert status == b"HTTP/1.1 413 Request Entity Too Large"
    assert took < (1.2 * 20_000_000 if is_chunked else 0) + SMALL_BYTES
    assert not upstream.requests


async def test_large_bodies_and_answers_together_take_no_more_than_they_may(tmp_path: Path):
    limits = {"max_body_bytes": "3MB", "max_answer_bytes": "3MB", "max_buffered_bytes": "4MB"}
    gate = asyncio.Event()
    large, held = (whole(ANSWER.replace(TEXT.encode(), b"x" * 2_500_000)),), (Hangs(until=gate), whole(ANSWER))
    async with PlayServer(lambda received: held if len(received.body) > 10**6 else large) as upstream:
        policy = a_policy([upstream.url], limits=limits)
        policy["models"]["large"]["context_tokens"] = 10**8
        async with serving(tmp_path, policy) as gateway, asyncio.TaskGroup() as group:
            first = group.create_task(peak_of(gateway, question_of(2_500_000)))
            await upstream.request()
            second, _ = await peak_of(gateway, question_of(2_500_000))
            answer = await gateway.ask()
            gate.set()
            statuses = [(await first)[0][9:12], second[9:12]]
            again = await gateway.ask()
            rows = await gateway.rows_of(answer)
            left = gateway.opened.commons.room.taken_bytes
    assert (statuses, answer.status, again.status, left) == ([b"200", b"503"], 503, 200, 0)
    assert "limits.max_buffered_bytes" in answer.error["message"]
    assert [charge["kind"] for charge in rows.charges] == ["failed"]
