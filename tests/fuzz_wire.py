"""Random answers, valid and broken, for the wire transport; tests/backends/test_wire.py draws some, this module many.

    python -m tests.fuzz_wire --seconds 120 --seed 1

First without sockets: a connection is fed the pieces by hand, so that every split is possible. Then over loopback on
uvloop, with connections that are shared by all requests: an answer that belongs to another request ends the run.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

import uvloop

from backends.errors import BackendError, EndpointUnreachable, ReplyMalformed, StreamCut
from backends.wire import WireTransport
from backends.wire_connection import Connection
from tests.upstream import Received
from tests.wall.server import Cuts, PlayServer, Step

HANGS_AFTER_S = 60.0
"""Every answer here ends: what takes longer than this on a busy machine waits for ever."""

_TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"0", b"ffffffffffffffff", b"-1", b"\r\n\r\n", b"0\r\n\r\n"),
    *(b"content-length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"connection: close\r\n", b"upgrade: h2c\r\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 ", b"HTTP/2.0 ", b"5;a=b\r\n", b" x\r\n"),
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A valid answer and what it says; `keeps` tells whether its connection may be used again."""

    raw: bytes
    status: int
    body: bytes
    keeps: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one exchange. Without a status there was no head; `is_kept`: the connection could be used again."""

    status: int
    body: bytes
    failure: type[BackendError] | None
    is_kept: bool


def valid(random: Random, body: bytes | None = None) -> Answer:
    """Return a valid answer, with the given body or a random one."""
    framing = random.choice(("length", "chunked", "close"))
    status = random.choice((200, 200, 201, 302, 400, 429, 500, 503))
    if body is None:
        body = random.randbytes(random.choice((0, 1, 2, 10, 300, 5000)))
    lines = [b"x-%d:%b%b" % (n, b" " * random.randrange(3), b"v" * random.randrange(40)) for n in range(3)]
    version, keeps = b"1.1", framing != "close"
    if framing == "length":
        lines.append(_cased(random, b"content-length") + b": %d" % len(body))
        if random.random() < 0.1:
            version, keeps = b"1.0", False
    elif framing == "chunked":
        lines.append(_cased(random, b"transfer-encoding") + b": chunked")
    if keeps and random.random() < 0.2:
        lines.append(b"connection: close")
        keeps = False
    random.shuffle(lines)
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" if random.random() < 0.1 else b""
    reason = random.choice((b" OK", b" Not quite", b"", b" "))
    start = b"HTTP/%b %d%b\r\n" % (version, status, reason)
    framed = _chunked(random, body) if framing == "chunked" else body
    raw = interim + start + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + framed
    return Answer(raw=raw, status=status, body=body, keeps=keeps)


def broken(random: Random, body: bytes | None = None) -> bytes:
    """Return an answer that was damaged in a few places, or no answer at all."""
    if random.random() < 0.1:
        return random.randbytes(random.randrange(1, 200))
    raw = valid(random, body).raw
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(raw) + 1) if random.random() < 0.5 else random.randrange(min(len(raw), 150) + 1)
        length = random.choice((1, 1, 2, 20))
        match random.randrange(5):
            case 0:
                raw = raw[:at] + random.randbytes(1) + raw[at + 1 :]
            case 1:
                raw = raw[:at] + raw[at + length :]
            case 2:
                raw = raw[:at] + random.choice(_TOKENS) + raw[at:]
            case 3:
                raw = raw[:at] + raw[at : at + length] + raw[at:]
            case _:
                raw = raw[:at] if random.random() < 0.3 else raw
    return raw or b"x"


def pieces(random: Random, raw: bytes) -> list[bytes]:
    """Return the bytes cut at random places."""
    if random.random() < 0.1 and len(raw) < 400:
        return [bytes([byte]) for byte in raw]
    cuts = sorted(random.randrange(len(raw) + 1) for _ in range(random.randrange(6)))
    return [part for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if (part := raw[start:end])]


async def feed(parts: Sequence[bytes], *, reset: Exception | None = None) -> Outcome:
    """Return what a connection makes of an answer that comes in these parts and is followed by the connection's end."""
    loop = asyncio.get_running_loop()
    kept: list[Connection] = []
    connection = Connection(loop, on_idle=kept.append, on_lost=lambda _: None)
    wire = _Wire(connection)
    connection.connection_made(cast("asyncio.Transport", wire))

    def arrive() -> None:
        for part in parts:
            if not wire.is_lost:
                connection.data_received(part)
        is_kept.append(bool(kept) and not wire.is_lost)
        wire.lose(reset)

    is_kept: list[bool] = []
    loop.call_soon(arrive)
    status, body, failure = 0, bytearray(), None
    try:
        async with asyncio.timeout(HANGS_AFTER_S):
            response = await connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"")
            if response is None:
                raise EndpointUnreachable("not a byte")
            status = response.status
            while part := await response.read():
                body += part
    except BackendError as error:
        failure = type(error)
    return Outcome(status=status, body=bytes(body), failure=failure, is_kept=is_kept[0])


def check_broken(whole: Outcome, split: Outcome) -> None:
    """Assert what holds for any bytes at all, read in one part and in several."""
    for outcome in (whole, split):
        expected = {ReplyMalformed, EndpointUnreachable} if not outcome.status else {StreamCut, None}
        assert outcome.failure in expected, outcome
        assert outcome.failure is None or not outcome.is_kept, outcome
    assert (whole.status, whole.body, whole.failure) == (split.status, split.body, split.failure)


class _Wire:
    """The socket below a connection that is fed by hand."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.is_lost = False

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_lost

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        # As event loops do: later, and once.
        if not self.is_lost:
            self.is_lost = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def lose(self, reset: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._connection.connection_lost(reset)


def _cased(random: Random, name: bytes) -> bytes:
    return random.choice((name, name.title(), name.upper()))


def _chunked(random: Random, body: bytes) -> bytes:
    framed = b"".join(
        b"%x%b\r\n%b\r\n" % (len(part), random.choice((b"", b"", b";a=b")), part) for part in pieces(random, body)
    )
    return framed + b"0\r\n" + random.choice((b"", b"x-trailer: 1\r\n")) + b"\r\n"


# --- the long run ------------------------------------------------------------------------------------------------


async def fuzz_parser(random: Random, until: float) -> collections.Counter[str]:
    """Feed connections by hand until a time of `time.monotonic`; count what came of it."""
    found: collections.Counter[str] = collections.Counter()
    while time.monotonic() < until:
        answer = valid(random)
        outcome = await feed(pieces(random, answer.raw))
        assert (outcome.status, outcome.body, outcome.failure) == (answer.status, answer.body, None), answer
        assert outcome.is_kept == answer.keeps, answer
        found["valid"] += 1
        raw = broken(random)
        whole, split = await feed([raw]), await feed(pieces(random, raw))
        check_broken(whole, split)
        found[f"broken: {whole.failure.__name__ if whole.failure else 'readable all the same'}"] += 1
    return found


async def fuzz_sockets(random: Random, until: float) -> collections.Counter[str]:
    """Ask servers that answer validly, brokenly or not at all until a time; count what came of it."""
    found: collections.Counter[str] = collections.Counter()
    while time.monotonic() < until:
        await _fuzz_server(random, found)
    return found


async def _fuzz_server(random: Random, found: collections.Counter[str]) -> None:
    transport = WireTransport(connect_s=HANGS_AFTER_S)

    def play(received: Received) -> Sequence[Step]:
        marker = received.body[:40]
        if received.path == "/v1/valid":
            answer = valid(random, marker)
            return [*pieces(random, answer.raw), *([] if answer.keeps else [Cuts()])]
        return [*pieces(random, broken(random, marker)), Cuts(is_reset=random.random() < 0.3)]

    async def ask(worker: int) -> None:
        for number in range(25):
            kind = random.choice(("valid", "broken"))
            marker = (b"%08d-%08d" % (worker, number)).ljust(40, b".")
            found[f"{kind}: {await _exchange(transport, f'{server.url}/{kind}', kind, marker)}"] += 1

    async with PlayServer(play) as server:
        async with asyncio.TaskGroup() as group:
            for worker in range(20):
                group.create_task(ask(worker))
        await transport.aclose()
        async with asyncio.timeout(HANGS_AFTER_S):
            for connection in server.connections:
                await connection.closed.wait()
        found["connections"] += len(server.connections)


async def _exchange(transport: WireTransport, url: str, kind: str, marker: bytes) -> str:
    """Ask once; return what came of it."""
    body = bytearray()
    try:
        async with asyncio.timeout(HANGS_AFTER_S):
            # More than one write, so that answers come while the request is still being sent.
            sent = marker if kind == "valid" else marker.ljust(90_000)
            response = await transport.post(url, headers={"x-kind": kind}, body=sent)
            try:
                while part := await response.read():
                    body += part
            finally:
                response.close()
    except BackendError as error:
        return type(error).__name__
    if kind == "valid" and bytes(body) != marker:
        raise AssertionError(f"another's answer: {bytes(body[:80])!r} for {marker!r}")
    return "complete"


def main() -> None:
    """Run for as long as was asked; fail at the first law that does not hold."""
    parser = argparse.ArgumentParser(description="Fuzz the wire transport.")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for fuzz in (fuzz_parser, fuzz_sockets):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            random = Random(options.seed)  # noqa: S311 (a run must be repeatable)
            found = runner.run(fuzz(random, time.monotonic() + options.seconds / 2))
        lines = [f"{fuzz.__name__}, seed {options.seed}:"]
        lines += [f"  {times:9,}  {outcome}" for outcome, times in sorted(found.items())]
        sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
