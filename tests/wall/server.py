"""An upstream that does exactly what a test writes down: bytes, silence, cuts, floods, on raw asyncio streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from tests.listener import Listener
from tests.upstream import Received

_FLOOD_PIECE_BYTES = 2**16


@dataclass(frozen=True)
class Hangs:
    """Says nothing more; goes on when `until` is set, or ends when the client is gone."""

    until: asyncio.Event | None = None


@dataclass(frozen=True)
class Cuts:
    """Closes the connection; with a reset when `is_reset`."""

    is_reset: bool = False


@dataclass(frozen=True)
class Floods:
    """Sends `piece` again and again, `times` times, as fast as it is read."""

    piece: bytes
    times: int


Step: TypeAlias = bytes | Hangs | Cuts | Floods
Play: TypeAlias = Sequence[Step]


def as_chunk(data: bytes) -> bytes:
    """Return data as one chunk of chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def head(*lines: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    """Return a status line and header lines."""
    return "\r\n".join([f"HTTP/{version} {status}", *lines, "", ""]).encode("latin-1")


def whole(body: bytes, *lines: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """Return a complete response with its length."""
    return head(f"content-type: {content_type}", f"content-length: {len(body)}", *lines, status=status) + body


@dataclass(kw_only=True)
class Connection:
    """One accepted connection. `closed` is set when its peer is gone, or when it was closed here."""

    closed: asyncio.Event = field(default_factory=asyncio.Event)
    sent_bytes: int = 0
    requests: int = 0


class PlayServer:
    """A server to be entered with `async with`.

    Args:
        play: what to do for a request, given that request; an exhausted play leaves the connection open for the next.
    """

    def __init__(self, play: Callable[[Received], Play]) -> None:
        self.play = play
        self.requests: list[Received] = []
        self.connections: list[Connection] = []
        self._arrived = asyncio.Condition()
        self._listener = Listener(self._talk, limit=2**20)

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self._listener.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening, close what is open and wait for it."""
        await self._listener.close()

    @property
    def url(self) -> str:
        """The base address for a policy."""
        return f"{self._listener.origin}/v1"

    @property
    def last(self) -> Connection:
        """The connection that was accepted last."""
        return self.connections[-1]

    def close_idle(self) -> None:
        """Close every connection, as a server does with those that were silent for long."""
        self._listener.close_idle()

    async def request(self, number: int = 1) -> Received:
        """Wait for the number-th request (from 1) and return it."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= number)
        return self.requests[number - 1]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection()
        self.connections.append(connection)
        try:
            while await self._one(reader, writer, connection):
                pass
        finally:
            writer.close()
            connection.closed.set()
            for received in self.requests:
                if received.connection == id(connection) and not received.closed.is_set():
                    received.closed_at = asyncio.get_running_loop().time()
                    received.closed.set()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        received = Received(method=method, path=path, headers=headers, body=body, connection=id(connection))
        connection.requests += 1
        async with self._arrived:
            self.requests.append(received)
            self._arrived.notify_all()
        return await _perform(self.play(received), reader, writer, connection)


async def _perform(
    play: Play, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection
) -> bool:
    """Do what a play says; tell whether the connection may carry another request."""
    for step in play:
        match step:
            case bytes():
                await _send(step, writer, connection)
            case Hangs(until=None):
                await _gone(reader)
                return False
            case Hangs(until=asyncio.Event() as gate):
                await gate.wait()
            case Cuts(is_reset=is_reset):
                if is_reset:
                    writer.transport.abort()
                return False
            case Floods(piece=piece, times=times):
                for _ in range(times):
                    await _send(piece, writer, connection)
    return True


async def _gone(reader: asyncio.StreamReader) -> None:
    while await reader.read(_FLOOD_PIECE_BYTES):
        pass


async def _send(data: bytes, writer: asyncio.StreamWriter, connection: Connection) -> None:
    writer.write(data)
    await writer.drain()
    connection.sent_bytes += len(data)
    # Each step is a packet of its own: the event loop sends at once what the socket takes, and its peer gets a turn.
    await asyncio.sleep(0)
