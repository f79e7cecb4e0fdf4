"""One connection of the wire transport: a request out, one response in, bytes only.

Rules:
- httptools (llhttp, every leniency off) frames. It refuses what is ambiguous by itself: a Content-Length beside chunked
  coding, two Content-Lengths, bare line feeds, folded headers, chunk sizes that are none. What it lets pass is refused
  here: any transfer coding but one `chunked`, chunked coding in HTTP/1.0, versions and protocols other than HTTP/1.x.
- Bytes that nobody asked for (after the end of a response, on an idle connection) close the connection: whoever read
  them as an answer would give one client's answer to another.
- What had arrived before a fault is read before the fault is raised.
- When data is there, nothing is awaited: one future a wait, no task and no timer in this file.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from backends.errors import BackendError, EndpointUnreachable, ReplyMalformed, StreamCut
from backends.transport import MAX_HEADER_BYTES

HIGH_WATER_BYTES = 2**18
"""What may wait for its reader before the sender is stopped; one read of the socket (256 kB) may come on top."""

_ONE_WRITE_BYTES = 2**16
"""Up to this size a body is copied behind its head: one write costs less than two."""

_PIECE_BYTES = 2**18
"""Larger bodies are handed over in such pieces, each when the one before has left: what is in flight stays small."""


_OVER_LIMIT = f"more than {MAX_HEADER_BYTES} bytes of headers or framing"


class _NotHttp(Exception):
    """What the parser lets pass and we do not."""


class WireResponse:
    """Implements `Response`."""

    __slots__ = (
        "_connection",
        "_failure",
        "_headers",
        "_loop",
        "_parts",
        "_tap",
        "_waiter",
        "is_delimited",
        "size",
        "status",
    )

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.is_delimited = False
        self.size = 0
        self._connection: Connection | None = connection
        self._loop = loop
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._failure: BackendError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._tap: Callable[[bytes], bool] | None = None

    def header(self, name: str) -> str | None:
        """Return the first value of a header; `name` in lower case."""
        wanted = name.encode("latin-1")
        for key, value in self._headers:
            if len(key) == len(wanted) and key.lower() == wanted:
                return value.strip(b" \t").decode("latin-1")
        return None

    async def read(self) -> bytes:
        """Return what has arrived; see `Response.read`."""
        if not self._parts:
            if self._failure is not None:
                raise self._failure
            if self._connection is None:
                return b""
            await self.happening()
            if not self._parts and self._failure is not None:
                raise self._failure
        return self.read_now()

    def read_now(self) -> bytes:
        """Return what has arrived without waiting."""
        parts = self._parts
        if not parts:
            return b""
        received = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.size = 0
        connection = self._connection
        if connection is not None and connection.is_held:
            connection.resume()
        return received

    def tap(self, take: Callable[[bytes], bool]) -> None:
        """Let `take` have what a waiting `read` would be woken for; see `Response.tap`."""
        self._tap = take

    def close(self) -> None:
        """Let the connection go: it is kept already if the response is complete, else it is closed at once."""
        if self._connection is not None:
            self._connection.abort("the response was closed before its end")

    def happening(self) -> asyncio.Future[None]:
        """Return what is done when the head, some of the body, the end or a failure has come."""
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("a response has one reader")
        self._waiter = self._loop.create_future()
        return self._waiter

    # What follows is the connection's to call.

    def begin(self, status: int, headers: list[tuple[bytes, bytes]], *, is_delimited: bool) -> None:
        """Take the head."""
        self.status = status
        self.is_delimited = is_delimited
        self._headers = headers
        self._wake()

    def push(self, received: bytes) -> None:
        """Take some of the body."""
        tap, waiter = self._tap, self._waiter
        # Only past a reader that waits: one that is woken, or busy with what came before, shall have this after it.
        if tap is not None and waiter is not None and not waiter.done() and tap(received):
            return
        self._parts.append(received)
        self.size += len(received)
        self._wake()

    def end(self, failure: BackendError | None) -> None:
        """Take the end of the body, or what came in its place."""
        self._connection = None
        self._failure = failure
        self._wake()

    def raise_failure(self) -> None:
        """Raise what came in place of the head."""
        if self._failure is not None:
            raise self._failure

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Connection:
    """A connection to one origin, which carries one exchange at a time; has the methods of an `asyncio.Protocol`.

    Args:
        on_idle: called when a response is complete and the connection can carry another request.
        on_lost: called once, when the connection is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.idle_since = 0.0
        self._loop = loop
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._response: WireResponse | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        # The parser calls the list itself: a frame of Python per chunk would cost more than the chunk.
        self.on_body = self._body.append
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._poll: select.poll | None = None
        self._unsent = memoryview(b"")
        self._framing_bytes = 0
        self._is_complete = False
        self._is_kept = False
        self.is_held = False
        self._is_write_paused = False

    # --- what the transport above calls ---

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def is_silent(self) -> bool:
        """Tell whether an idle connection has nothing to say, as far as the kernel knows.

        A system call, and worth it: an end that has come would cost the request a second sending, and bytes that nobody
        asked for would be read as its answer.
        """
        if self._transport is None:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    async def ask(self, head: bytes, body: bytes) -> WireResponse | None:
        """Send a request and return its response once its head is there, None if the connection ended without a byte.

        Raises:
            EndpointUnreachable: it ended within the head.
            ReplyMalformed: what came is no head.
        """
        transport = self._transport
        if transport is None or self._response is not None:
            raise RuntimeError("a connection carries one exchange at a time")
        self._framing_bytes = 0
        self._headers = []
        self._is_complete = False
        response = self._response = WireResponse(self, self._loop)
        if len(body) <= _ONE_WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            self._unsent = memoryview(body)
            self._send()
        try:
            await response.happening()
        except asyncio.CancelledError:
            response.close()
            raise
        if not response.status:
            if not self._framing_bytes:
                return None
            response.raise_failure()
        return response

    def resume(self) -> None:
        """Read on: the reader has taken what there was."""
        if self.is_held and self._transport is not None:
            self.is_held = False
            self._transport.resume_reading()

    def abort(self, reason: str) -> None:
        """Close at once; a response that is not complete is cut."""
        self._break(reason, before_head=EndpointUnreachable)

    # --- what the event loop calls ---

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Remember the socket."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse what has come and hand it on in one piece."""
        response, parser = self._response, self._parser
        if response is None or parser is None:
            self.abort("the upstream sent what nobody asked for")
            return
        fault = None
        framing = self._framing_bytes
        self._framing_bytes = framing + len(data)
        # llhttp speaks RTSP, too, and skips empty lines.
        if not response.status and not framing and not data.startswith(b"H"):
            self._break("the upstream's answer does not begin with a status line", before_head=ReplyMalformed)
            return
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            fault = f"the upstream's answer is not HTTP/1.1: {error.__context__ or error}"
        body = self._body
        if body:
            self._framing_bytes = 0
            response.push(body[0] if len(body) == 1 else b"".join(body))
            body.clear()
        elif self._framing_bytes > MAX_HEADER_BYTES:
            fault = fault or _OVER_LIMIT
        if self._is_complete:
            self._complete(response, is_clean=fault is None)
        elif fault is not None:
            self._break(fault, before_head=ReplyMalformed)
        elif response.size >= HIGH_WATER_BYTES and not self.is_held and self._transport is not None:
            self.is_held = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Let the connection close: a server that has said all will not read more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the response that nothing more comes, which is the end of one that has no other."""
        response = self._response
        if response is not None and response.status and not response.is_delimited and exc is None:
            self._complete(response, is_clean=False)
        else:
            self._break("the upstream closed the connection", before_head=EndpointUnreachable)
        self._transport = None
        self._parser = None  # it holds this object's methods
        self._on_lost(self)

    def pause_writing(self) -> None:
        """Send no more until what was sent has left."""
        self._is_write_paused = True

    def resume_writing(self) -> None:
        """Send on."""
        self._is_write_paused = False
        self._send()

    # --- what the parser calls ---

    def on_message_begin(self) -> None:
        """Refuse a second answer."""
        if self._is_complete:
            raise _NotHttp("more came than was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, or a trailer that nobody will read."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head and give it to the response; an interim answer (100, 103) is forgotten."""
        if self._response is None or self._parser is None:
            raise _NotHttp("nobody asked")
        status, headers, self._headers = self._parser.get_status_code(), self._headers, []
        if status < 200:
            if status < 100 or status == 101:
                raise _NotHttp(f"status {status} was not asked for")
            return
        is_large = self._framing_bytes > MAX_HEADER_BYTES  # of all that came, so the head itself is to be measured
        is_delimited = _check_head(headers, self._parser.get_http_version(), is_large=is_large) or status in {204, 304}
        self._response.begin(status, headers, is_delimited=is_delimited)

    def on_message_complete(self) -> None:
        """Note the end of the answer, if it is not an interim one's."""
        if self._response is not None and self._response.status and self._parser is not None:
            self._is_complete = True
            self._is_kept = self._parser.should_keep_alive()

    # --- what all of these share ---

    def _send(self) -> None:
        """Hand over the body until the socket has enough."""
        while self._unsent and not self._is_write_paused and self._transport is not None:
            piece, self._unsent = self._unsent[:_PIECE_BYTES], self._unsent[_PIECE_BYTES:]
            self._transport.write(piece)

    def _complete(self, response: WireResponse, *, is_clean: bool) -> None:
        """End a complete response, and keep the connection if nothing speaks against it."""
        self._response = None
        response.end(None)
        # An answer to a request that is still being sent says that the rest is not wanted.
        is_sent = not self._unsent and not self._is_write_paused
        if is_clean and self._is_kept and is_sent and self.is_usable:
            self.resume()
            self.idle_since = self._loop.time()
            self._on_idle(self)
        else:
            self._drop()

    def _break(self, reason: str, *, before_head: type[BackendError]) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.end(StreamCut(reason) if response.status else before_head(reason))
        self._drop()

    def _drop(self) -> None:
        self._unsent = memoryview(b"")
        if self._transport is not None:
            self._transport.abort()


def _check_head(headers: list[tuple[bytes, bytes]], version: str, *, is_large: bool) -> bool:
    """Return whether the body's framing tells its end.

    Raises:
        _NotHttp: two readers could take the message for different ones, or it is too large.
    """
    if version not in {"1.0", "1.1"}:
        raise _NotHttp(f"version {version}")
    codings = 0
    has_length = False
    for name, value in headers:
        length = len(name)
        if length == 14 and name.lower() == b"content-length":
            has_length = True
        elif length == 17 and name.lower() == b"transfer-encoding":
            codings += 1
            # RFC 9112, section 6.1: another coding was not asked for, and HTTP/1.0 knows none.
            if value.strip(b" \t").lower() != b"chunked" or codings > 1 or version == "1.0":
                raise _NotHttp("a transfer coding other than one `chunked`, or one in HTTP/1.0")
    if is_large and sum(len(name) + len(value) + 4 for name, value in headers) > MAX_HEADER_BYTES:
        raise _NotHttp(_OVER_LIMIT)
    return has_length or codings == 1
