"""The seam's HTTP/1.1 client on aiohttp.

With it the design's prototypes did 20 times as many requests a core as with FastAPI and httpx.
What it does not do by itself and the contract asks for:
- a POST on a kept connection that had died is sent once more;
- header sections are limited as a whole, and a Content-Length beside chunked coding is refused;
- what had arrived before a connection broke is read before the break is told;
- a broken framing ends a body: aiohttp closes the connection and tells nobody (LiteLLM's requests hang on that);
- a kept connection on which something came that nobody asked for is closed: aiohttp takes it for the next answer.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from typing_extensions import override

from backends.connecting import MOST_AT_ONCE, Patience
from backends.errors import EndpointTimeout, EndpointUnreachable, ReplyMalformed, StreamCut
from backends.transport import MAX_HEADER_BYTES, NONE_OWN

_KEEP_ALIVE_S = 4
"""vLLM's uvicorn and llama.cpp close idle connections after 5 s: a request sent at that moment would be lost."""

_PIECE_BYTES = 2**20
"""aiohttp sends bytes in one piece, during which nothing else moves, and warns of it when they are more than this."""

_BUFFER_BYTES = 2**17
"""aiohttp stops reading from the socket at twice this. A busy stream comes in pieces of up to 64 kB."""


class AiohttpTransport:
    """Implements `Transport`. Made inside a running event loop.

    Args:
        connect_s: how long a connection may take to be made, in seconds.
    """

    def __init__(self, *, connect_s: float) -> None:
        self._connect_s = connect_s
        self._kept = _open_session(connect_s, is_kept=True)
        # A dead connection is seldom alone: the second try goes where none can have been waiting.
        self._fresh = _open_session(connect_s, is_kept=False)
        self._losses = _Losses()

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, own: Mapping[str, str] = NONE_OWN
    ) -> AiohttpResponse:
        """Send a request; see `Transport.post`."""
        headers = {**headers, **own}
        sending = _Sending()
        try:
            response = await _send(self._kept, url, headers, body, sending)
        except aiohttp.ConnectionTimeoutError as error:
            raise EndpointTimeout("connect", self._connect_s) from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not sending.is_reused or _has_begun(error):
                raise _unreachable(error) from error
            response = await self._send_afresh(url, headers, body)
        except aiohttp.ClientResponseError as error:
            raise ReplyMalformed("what the upstream sent is not HTTP, or its headers are too large") from error
        except aiohttp.ClientError as error:
            raise _unreachable(error) from error
        _check_head(response)
        self._losses.watch(response)
        return AiohttpResponse(response)

    async def aclose(self) -> None:
        """Close every connection; idempotent."""
        await self._kept.close()
        await self._fresh.close()

    async def _send_afresh(self, url: str, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        try:
            return await _send(self._fresh, url, headers, body, _Sending())
        except aiohttp.ConnectionTimeoutError as error:
            raise EndpointTimeout("connect", self._connect_s) from error
        except aiohttp.ClientResponseError as error:
            raise ReplyMalformed("what the upstream sent is not HTTP, or its headers are too large") from error
        except aiohttp.ClientError as error:
            raise _unreachable(error) from error


class AiohttpResponse:
    """Implements `Response`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._content = response.content
        self._is_closed = False

    @property
    def status(self) -> int:
        """The status code."""
        return self._response.status

    @property
    def is_delimited(self) -> bool:
        """Whether the body's framing tells its end."""
        headers = self._response.headers
        return "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()

    def header(self, name: str) -> str | None:
        """Return the first value of a header; `name` in lower case."""
        return self._response.headers.get(name)

    async def read(self) -> bytes:
        """Return what has arrived; see `Response.read`."""
        if received := self.read_now():
            return received
        if self._is_closed:
            raise StreamCut("the response was closed before its end")
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, ConnectionError) as error:
            raise StreamCut("the connection to the upstream broke") from error

    def read_now(self) -> bytes:
        """Return what has arrived without waiting."""
        # The public way raises a break of the connection before it gives what had come: tokens would be lost.
        return self._content._read_nowait(-1) if self._content.total_bytes else b""

    def tap(self, take: Callable[[bytes], bool]) -> None:
        """Leave everything to `read`: aiohttp's buffer tells nobody what comes."""

    def close(self) -> None:
        """Let the connection go."""
        if not self._content.at_eof():
            self._is_closed = True
            self._response.close()


class _Connector(aiohttp.TCPConnector):
    """Gives out kept connections only while they are silent, and makes new ones with patience and in turn.

    Args:
        connect_s: how long the network may take for a connection; the rest is aiohttp's.
    """

    def __init__(self, *, connect_s: float, force_close: bool, keepalive_timeout: float | None = None) -> None:
        if force_close:
            super().__init__(limit=0, force_close=True)
        else:
            super().__init__(limit=0, keepalive_timeout=keepalive_timeout)
        self._connect_s = connect_s
        self._turns: dict[ConnectionKey, asyncio.Semaphore] = {}

    @override
    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        async with self._turns.setdefault(req.connection_key, asyncio.Semaphore(MOST_AT_ONCE)):
            try:
                with Patience(self._connect_s):
                    return await super()._create_connection(req, traces, timeout)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError from error

    @override
    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class _Losses:
    """Ends a body whose connection is lost without a word to the body."""

    def __init__(self) -> None:
        # One entry a connection, not a response: a busy connection lives for ever.
        self._bodies: WeakKeyDictionary[asyncio.Future[None], aiohttp.StreamReader] = WeakKeyDictionary()

    def watch(self, response: aiohttp.ClientResponse) -> None:
        """Watch over a response's body; its connection carries no other until it is read."""
        protocol = response.connection.protocol if response.connection is not None else None
        closed = protocol.closed if protocol is not None else None
        if closed is None:
            return  # the whole body is here
        if closed not in self._bodies:
            closed.add_done_callback(self._end)
        self._bodies[closed] = response.content

    def _end(self, closed: asyncio.Future[None]) -> None:
        body = self._bodies.pop(closed)
        error = None if closed.cancelled() else closed.exception()
        if not body.is_eof() and body.exception() is None:
            body.set_exception(error or aiohttp.ClientPayloadError("the framing of the body is broken"))


class _Sending:
    """What aiohttp's tracing tells of one request."""

    is_reused = False


def _open_session(connect_s: float, *, is_kept: bool) -> aiohttp.ClientSession:
    async def note_reuse(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.is_reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(note_reuse)
    # aiohttp's connector limit would be a second, hidden queue. Deadlines but for connecting are the backends' own.
    keep_s = _KEEP_ALIVE_S if is_kept else None
    connector = _Connector(connect_s=connect_s, force_close=not is_kept, keepalive_timeout=keep_s)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        auto_decompress=False,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        read_bufsize=_BUFFER_BYTES,
        trace_configs=[trace],
    )


async def _send(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], body: bytes, sending: _Sending
) -> aiohttp.ClientResponse:
    return await session.post(
        url,
        data=body if len(body) <= _PIECE_BYTES else io.BytesIO(body),
        headers=headers,
        allow_redirects=False,
        trace_request_ctx=sending,
    )


def _has_begun(error: Exception) -> bool:
    """Tell whether some of an answer had come: aiohttp then gives it in place of the message."""
    return not isinstance(getattr(error, "message", ""), str)


def _unreachable(error: Exception) -> EndpointUnreachable:
    return EndpointUnreachable(f"no answer from the upstream: {type(error).__name__}")


def _check_head(response: aiohttp.ClientResponse) -> None:
    """Refuse what two readers could take for different answers, and what is larger than any honest header section.

    Raises:
        ReplyMalformed: the connection is closed.
    """
    size = sum(len(name) + len(value) + 4 for name, value in response.raw_headers)
    if size > MAX_HEADER_BYTES:
        response.close()
        raise ReplyMalformed(f"the upstream's headers are larger than {MAX_HEADER_BYTES} bytes")
    # RFC 9112, section 6.1: such a message may be an attempt at smuggling.
    if "transfer-encoding" in response.headers and "content-length" in response.headers:
        response.close()
        raise ReplyMalformed("the upstream's answer has a Content-Length and a Transfer-Encoding")
