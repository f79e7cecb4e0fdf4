"""The seam's HTTP/1.1 client of our own: asyncio protocols, httptools' parser, and a pool of kept connections.

It does what a relay needs and no more: POST with a whole body, one response, no redirects, no cookies, no proxies, no
decompression. One connection is in `backends.wire_connection`. It runs on uvloop and on asyncio's own loop.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import aiohappyeyeballs

from backends.connecting import MOST_AT_ONCE, Patience
from backends.errors import EndpointTimeout, EndpointUnreachable
from backends.transport import NONE_OWN
from backends.wire_connection import Connection, WireResponse

_KEEP_ALIVE_S = 4.0
"""vLLM's uvicorn and llama.cpp close idle connections after 5 s: a request sent at that moment would be lost."""

_MAX_IDLE = 512
"""Connections kept for one origin; more were open at once than are worth keeping for four seconds."""

_NEXT_ADDRESS_S = 0.25
"""How long one address of a name is tried alone. Source: RFC 8305, section 5, "Connection Attempt Delay"."""

_MAX_TARGETS = 4096
"""Addresses whose parsed form is remembered; a policy has a handful."""


@dataclass(slots=True, kw_only=True)
class _Origin:
    """Where connections go, and those that wait there for a request, the latest used last.

    `turns` is taken by who makes a connection; waiting for it is no time of the network's.
    """

    host: str
    port: int
    is_tls: bool
    idle: deque[Connection] = field(default_factory=deque)
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_AT_ONCE))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where a URL leads, and how requests for it with these headers begin."""

    origin: _Origin
    headers: Mapping[str, str]
    start: bytes


class WireTransport:
    """Implements `Transport`. Made inside a running event loop.

    Args:
        connect_s: how long a connection may take to be made, in seconds: name, TCP and TLS together.
        trusted_ca: a PEM file of authorities that are trusted beside the system's; certificates are always verified.
    """

    def __init__(self, *, connect_s: float, trusted_ca: Path | None = None) -> None:
        self._connect_s = connect_s
        self._trusted_ca = trusted_ca
        self._loop = asyncio.get_running_loop()
        self._tls: ssl.SSLContext | None = None
        self._targets: dict[str, _Target] = {}
        self._origins: dict[tuple[str, int, bool], _Origin] = {}
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._is_closed = False

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, own: Mapping[str, str] = NONE_OWN
    ) -> WireResponse:
        """Send a request; see `Transport.post`."""
        target = self._targets.get(url)
        if target is None or target.headers is not headers:
            target = self._target(url, headers)
        origin = target.origin
        lines = b"".join([_line(name, value) for name, value in own.items()])
        head = b"%b%bcontent-length: %d\r\n\r\n" % (target.start, lines, len(body))
        connection = self._take(origin)
        if connection is not None and (response := await connection.ask(head, body)) is not None:
            return response
        async with origin.turns:
            # A dead connection is seldom alone: the second try goes where none can have been waiting.
            connection = await self._connect(origin)
        response = await connection.ask(head, body)
        if response is None:
            raise EndpointUnreachable("the upstream closed the connection without an answer")
        return response

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in self._open:
            connection.abort("the gateway closes")
        if self._open:
            self._emptied = self._emptied or self._loop.create_future()
            await asyncio.shield(self._emptied)

    def _target(self, url: str, headers: Mapping[str, str]) -> _Target:
        """Return where a URL leads and how a request for it begins.

        Raises:
            ValueError: a header would be read as something else.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or not _is_plain(url):
            raise ValueError("expected an absolute address (http or https) of visible ASCII, without a user")
        is_tls = parts.scheme == "https"
        place = (parts.hostname, parts.port or (443 if is_tls else 80), is_tls)
        origin = self._origins.setdefault(place, _Origin(host=place[0], port=place[1], is_tls=is_tls))
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        start = f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\n".encode("ascii")
        lines = b"".join([_line(name, value) for name, value in headers.items()])
        target = _Target(origin=origin, headers=headers, start=start + lines)
        if len(self._targets) >= _MAX_TARGETS:
            self._targets.clear()
        self._targets[url] = target
        return target

    # --- connections ---

    def _take(self, origin: _Origin) -> Connection | None:
        """Return a kept connection, the latest used; those that have waited too long are closed."""
        idle = origin.idle
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                if self._loop.time() - connection.idle_since < _KEEP_ALIVE_S and connection.is_silent():
                    return connection
                connection.abort("idle for too long, or not silent")
        return None

    async def _connect(self, origin: _Origin) -> Connection:
        if self._is_closed:
            raise EndpointUnreachable("the gateway is closing")

        def keep(connection: Connection) -> None:
            self._keep(origin, connection)

        def forget(connection: Connection) -> None:
            self._forget(origin, connection)

        connection = Connection(self._loop, on_idle=keep, on_lost=forget)
        try:
            with Patience(self._connect_s):
                await self._loop.create_connection(
                    # Cast: `asyncio.Protocol` as a base would need `typing.override`, which Python 3.11 lacks.
                    lambda: cast("asyncio.Protocol", connection),
                    sock=await self._open_socket(origin),
                    ssl=self._context() if origin.is_tls else None,
                    server_hostname=origin.host if origin.is_tls else None,
                )
        except TimeoutError as error:
            raise EndpointTimeout("connect", self._connect_s) from error
        # A name that cannot be encoded is a name that nobody has.
        except (OSError, UnicodeError) as error:
            raise EndpointUnreachable(f"no connection to the upstream: {type(error).__name__}") from error
        if self._is_closed:
            connection.abort("the gateway closes")
            raise EndpointUnreachable("the gateway is closing")
        # One that is lost already has been forgotten: whoever remembered it would wait for its end for ever.
        if not connection.is_usable:
            raise EndpointUnreachable("the upstream closed the connection without an answer")
        self._open.add(connection)
        return connection

    async def _open_socket(self, origin: _Origin) -> socket.socket:
        addresses = await self._loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        return await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, loop=self._loop
        )

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            if self._trusted_ca is not None:
                self._tls.load_verify_locations(self._trusted_ca)
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def _keep(self, origin: _Origin, connection: Connection) -> None:
        if self._is_closed or len(origin.idle) >= _MAX_IDLE:
            connection.abort("kept enough")
            return
        origin.idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_KEEP_ALIVE_S, self._close_idle)

    def _forget(self, origin: _Origin, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in origin.idle:
            origin.idle.remove(connection)
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)

    def _close_idle(self) -> None:
        """Close what has waited too long, and come again as long as anything waits."""
        self._sweep = None
        oldest = self._loop.time() - _KEEP_ALIVE_S
        for origin in self._origins.values():
            while origin.idle and origin.idle[0].idle_since <= oldest:
                origin.idle.popleft().abort("idle for too long")
        if any(origin.idle for origin in self._origins.values()):
            self._sweep = self._loop.call_later(_KEEP_ALIVE_S / 4, self._close_idle)


def _line(name: str, value: str) -> bytes:
    # `isprintable` leaves no line end, no NUL and, with ASCII, nothing that two readers could read differently.
    if not (value.isascii() and value.isprintable() and name.isascii() and name.replace("-", "").isalnum()):
        raise ValueError(f"the header {name!r} cannot be sent: expected printable ASCII")
    return f"{name}: {value}\r\n".encode("ascii")


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and " " not in url and "#" not in url
