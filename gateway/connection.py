"""The front door: one client connection, a pinned subclass of uvicorn's HttpToolsProtocol that answers `/v1` itself.

It stands below ASGI for the data paths, since ASGI cannot abort a connection or speak to a client that does not read,
and hands all other paths to the ASGI application beside it. From uvicorn it has the parser, flow control, keep-alive,
pipelining and shutdown. Rules:
- a request whose end two readers could see in two places (a length beside chunked coding, two lengths, a broken chunk)
  is refused, and its connection is closed: what follows it is never read as a request;
- a path is compared as it came, byte for byte: `%2f`, `//` and `..` open no data path; Host decides nothing;
- a request is whole within `timeouts.request_s` of its first byte; header section, body and what frames the body
  have limits, and no more than `_KEYLESS_BYTES` of a body are kept for a key that does not open the path;
- an answer is begun when its request is whole, so whoever sends nothing costs no task;
- a client that hangs up cancels its answer in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import httptools
import msgspec
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from backends.deadlines import Deadlines
from backends.words import RequestId, Surface
from gateway.calls import HeaderInvalid, read_call
from gateway.cors import is_preflight
from gateway.errors import (
    BodyCoded,
    BodyTooLarge,
    HeadTooLarge,
    KeyRefused,
    NoRoom,
    NotServed,
    Problem,
    Refused,
    RequestMalformed,
    RequestTooSlow,
    places,
    problem_of,
)
from gateway.heads import Heads

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

    from backends.room import Share
    from gateway.calls import Call
    from gateway.pipeline import Gateway

_log = logging.getLogger("faregate")

_LINGER_S: Final = 2.0
"""How long a connection that is being closed may take to be read: closing on a client that still sends resets its
connection, and our answer with it; a client that does not read must not keep its connection for ever."""

_LOOK_S: Final = 0.05
"""How often a client is looked for whose next requests wait unread: its end would wait behind them."""

_HEADERS_LIMIT: Final = 128
_TARGET_LIMIT_BYTES: Final = 8 * 2**10

_COPY_LIMIT_BYTES: Final = 64 * 2**10
"""Larger bodies are not copied once more to be one piece with their framing."""

_FRAMING_BYTES: Final = 64 * 2**10
_FRAMING_SHARE: Final = 8
"""What may come of a request's body beside the body itself: this, and so many times the body. A chunk of one byte takes
five more; extensions and trailers have no length of their own, and the parser keeps a trailer it has not seen the end
of, or copies it again with every read."""

_KEYLESS_BYTES: Final = 64 * 2**10
"""What is kept of a body before its key is looked at: a thousand connections without one shall not take a gigabyte."""

_LARGE_BYTES: Final = 2**20
"""Larger bodies are kept in one piece that grows."""

_SURFACES: Final = {f"/v1/{surface.value}".encode(): surface for surface in Surface}


class Connection(HttpToolsProtocol):
    """One connection. uvicorn makes it: `uvicorn.Config(http=protocol_of(gateway, keep_alive_s=75))`."""

    gateway: Gateway
    """What answers requests that begin; set by `protocol_of`, and anew when the policy was changed."""

    heads: Heads
    waiting: Deadlines
    """For their next request: connections that were answered; both are those of all connections."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._take_over(self.gateway)
        self._answering: Exchange | None = None  # whose turn it is
        self._deadline: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._is_receiving = self._is_in_head = False
        self._head_bytes = self._raw_bytes = self._body_bytes = 0
        self._surface: Surface | None = None
        self._refusal: Refused | None = None
        self._is_deaf = False
        self._first = b""
        """What came first of a message, if it began with it: its head, perhaps one to remember."""
        self._missing = 0
        """What has not come of the body of a request whose head was known; the parser never sees that request."""
        self.due = 0.0

    def _take_over(self, gateway: Gateway) -> None:
        """Answer the next request by this gateway: a connection may outlive a policy."""
        self._answers_by = gateway
        policy = gateway.parts.policy
        self._request_s = policy.timeouts.request_s
        self._body_limit = policy.limits.max_body_bytes
        self._head_limit = policy.limits.max_head_bytes
        self.cors = gateway.cors

    # What the transport tells

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self._request_s, self._too_slow)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        if self._looking is not None:
            self._looking.cancel()
        if self._answering is not None:
            self._answering.hang_up()
        if isinstance(self.cycle, Exchange):
            if self.cycle is not self._answering:
                self.cycle.let_go()
            self.cycle = None  # uvicorn would tell it of the loss in its own way
        self._drop_waiting()
        super().connection_lost(exc)
        # What is a ring is freed when the collector comes, which may be after gigabytes of bodies.
        self._answering = None
        self.parser = None  # type: ignore[assignment]  # it holds this object's methods, and is fed no more

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        if self._missing:
            data = self._take_missing(data)
        elif not self._is_receiving:
            self._first = data
            data = self._take_known(data)
        if not data:
            return
        if self._is_in_head or not self._is_receiving:
            self._head_bytes += len(data)
        self._raw_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(self._refusal or RequestMalformed("the request is not valid HTTP/1.1"))
        else:
            if self._is_in_head and self._head_bytes > self._head_limit:
                self._refuse(HeadTooLarge(self._head_limit))
            elif self._is_in_body and self._raw_bytes > _FRAMING_BYTES + (_FRAMING_SHARE + 1) * self._body_bytes:
                self._refuse(RequestMalformed("the request's body is nearly all framing: chunk extensions or trailers"))
        self._watch()

    # What the parser tells

    @override
    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._is_receiving = self._is_in_head = True
        self._surface = None
        if self.gateway is not self._answers_by:
            self._take_over(self.gateway)

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # trailers come here as well, and are never headers: one could bring another key
            self.headers.append((name.lower(), value))

    @override
    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._raw_bytes = self._body_bytes = 0
        if self.parser.should_upgrade():
            return  # `_parse` goes on
        path = self.url.partition(b"?")[0] if self.url.startswith(b"/") else _path_of(self.url)
        self._surface = _SURFACES.get(path)
        self._check_head()
        is_asking = self.cors is not None and is_preflight(self.parser.get_method(), self.headers)
        if self._surface is None or is_asking:
            self._hand_over()
            return
        if self.parser.get_method() != b"POST":
            method = self.parser.get_method().decode("ascii", "replace")
            allow = ((b"allow", b"POST"),)
            self._stop(NotServed(f"{method} is not served at {path.decode()}; use POST", status=405, headers=allow))
        exchange = Exchange(
            self,
            self._surface,
            self.headers,
            may_chunk=(is_new := self.parser.get_http_version() == "1.1"),
            keep_alive=self.parser.should_keep_alive(),
        )
        earlier, self.cycle = self.cycle, cast("RequestResponseCycle", exchange)
        if earlier is None or earlier.response_complete:
            self._answering = exchange
            # RFC 9110, section 10.1.1: HTTP/1.0 has no such expectation.
            if is_new and any(name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers):
                self.check_key(exchange)
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        else:
            self.flow.pause_reading()
            if self._looking is None:
                self._looking = self.loop.call_later(_LOOK_S, self._look)
            self.pipeline.appendleft((cast("RequestResponseCycle", exchange), cast("ASGI3Application", self.app)))

    @override
    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if not isinstance(self.cycle, Exchange):
            super().on_body(body)
        elif self.cycle.take(body) > self._body_limit:
            self._stop(BodyTooLarge(self._body_limit))
        elif not self.cycle.has_room:
            self._stop(NoRoom(self.gateway.parts.room.limit_bytes))

    @override
    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._is_receiving = False
        self._head_bytes = 0
        first, self._first = self._first, b""
        if not isinstance(self.cycle, Exchange):
            super().on_message_complete()
            return
        self.cycle.is_whole = True
        if self.cycle is self._answering:
            self._answer(self.cycle, first)

    # What uvicorn tells

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if not isinstance(cycle, Exchange):
            self._answering = None
            super()._start_asgi_task(cycle, app)
            return
        self._answering = cycle
        if cycle.is_whole:
            self._answer(cycle)

    @override
    def on_response_complete(self) -> None:
        # uvicorn's own, but for the timer: one for all connections that wait, not one for each wait.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._keep_alive()

    @override
    def _unset_keepalive_if_required(self) -> None:
        self.waiting.remove(self)

    def expire(self) -> None:
        """Close: no next request has come in time."""
        self.timeout_keep_alive_handler()

    # Private

    def _keep_alive(self) -> None:
        self.waiting.remove(self)
        self.waiting.add(self)

    def _take_known(self, data: bytes) -> bytes:
        """Begin a request whose head was read before; return what is to be parsed: all of it, or nothing."""
        if self.gateway is not self._answers_by:
            self._take_over(self.gateway)
        before = self.cycle
        known = self.heads.find(data) if before is None or before.response_complete else None
        if known is None or known.length > min(self._body_limit, _KEYLESS_BYTES):
            return data  # whose key is looked at while it comes, which is the parser's way
        call, start, length = known
        missing = start + length - len(data)
        if missing < 0:
            return data  # the next request follows
        self._surface = call.surface
        self._answering = exchange = Exchange(self, call.surface, (), may_chunk=True, keep_alive=True)
        self.cycle = cast("RequestResponseCycle", exchange)
        exchange.known = call
        exchange.take(data[start:])
        if missing:
            self._missing, self._is_receiving = missing, True
            self._watch()
        else:
            self._stop_deadline()
            exchange.is_whole = True
            self._answer(exchange)
        return b""

    def _take_missing(self, data: bytes) -> bytes:
        """Go on with the body of such a request; return what follows it."""
        exchange, part = cast("Exchange", self.cycle), data[: self._missing]
        exchange.take(part)
        self._missing -= len(part)
        if not self._missing:
            self._is_receiving = False
            self._stop_deadline()
            exchange.is_whole = True
            self._answer(exchange)
        return data[len(part) :]

    def _parse(self, data: bytes) -> None:
        """Feed the parser. A request that offers another protocol is read as if it did not: none is spoken here.

        The parser takes such a request's body for the other protocol's, and Java's client offers h2c with each first
        request; so it is begun again without the offer.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_offer() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
            else:
                return

    def _without_offer(self) -> bytes:
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refusal = NotServed("CONNECT is not served here", status=405)
            raise httptools.HttpParserError
        kept = [header for header in self.headers if header[0] not in {b"upgrade", b"connection"}]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            kept.append((b"connection", b"close"))
        lines = b"".join(b"%b: %b\r\n" % header for header in kept)
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, self.url, lines)

    def _check_head(self) -> None:
        """Refuse a header section that is too large, or that says two things about where its request ends.

        Source: RFC 9112, sections 3.2 (Host) and 6.3 (length). llhttp sees most of it; this does not depend on that.
        """
        headers = self.headers
        if self._head_bytes > self._head_limit:  # of a packet that may hold a body too, so counted exactly
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
            if size > self._head_limit:
                self._stop(HeadTooLarge(self._head_limit))
        if len(headers) > _HEADERS_LIMIT:
            self._stop(HeadTooLarge(self._head_limit, headers=_HEADERS_LIMIT))
        if len(self.url) > _TARGET_LIMIT_BYTES:
            self._stop(NotServed(f"the request target is longer than {_TARGET_LIMIT_BYTES} bytes", status=414))
        version, names = self.parser.get_http_version(), [name for name, _ in headers]
        if version not in {"1.1", "1.0"}:
            self._stop(RequestMalformed(f"the request is of HTTP/{version}; HTTP/1.1 and 1.0 are served here"))
        self._check_length(names, version)
        if names.count(b"host") != 1 and version == "1.1":
            self._stop(RequestMalformed("the request needs one Host header"))
        if b"content-encoding" in names:
            self._check_coding()

    def _check_length(self, names: list[bytes], version: str) -> None:
        headers = self.headers
        lengths, codings = names.count(b"content-length"), names.count(b"transfer-encoding")
        if lengths + codings > 1:
            self._stop(RequestMalformed("the request states its length more than once"))
        if codings:
            coding = next(value for name, value in headers if name == b"transfer-encoding")
            if version != "1.1" or coding.strip().lower() != b"chunked":
                self._stop(RequestMalformed("the request's transfer coding is not known; only chunked is"))
        elif lengths:
            length = next(value for name, value in headers if name == b"content-length")
            if length.isdigit() and int(length[:20]) > self._body_limit:
                self._stop(BodyTooLarge(self._body_limit))

    def _check_coding(self) -> None:
        coding = b", ".join(value for name, value in self.headers if name == b"content-encoding").strip()
        if coding.lower() not in {b"", b"identity"}:
            self._stop(BodyCoded(coding.decode("latin-1")))

    def _hand_over(self) -> None:
        """Let uvicorn serve this request by ASGI."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url, self.headers = url, headers
        self.scope["headers"] = headers
        super().on_headers_complete()
        # Closing on a client that still sends would reset its connection, and our answer with it.
        self.cycle.transport = cast("asyncio.Transport", Lingering(self))

    def end(self) -> None:
        """Close after an answer: at once, or when a client that is still sending had time to read it."""
        if self._is_receiving:
            self._linger()
        else:
            self.transport.close()

    def _answer(self, exchange: Exchange, first: bytes = b"") -> None:
        """Answer a whole request; `first` is what came first of it, if it began with it."""
        if exchange.known is not None:
            call = msgspec.structs.replace(exchange.known, body=exchange.body)
        else:
            try:
                call = read_call(exchange.surface, exchange.headers, exchange.body)
            except HeaderInvalid as error:
                request_id, problem = self.gateway.turn_away(exchange.surface, error)
                exchange.refuse(request_id, problem)
                return
            if first and exchange.keep_alive:
                self.heads.learn(first, exchange.headers, call)
        task = self.loop.create_task(self.gateway.answer(call, exchange))
        self.tasks.add(task)
        exchange.attach(task)

    def check_key(self, exchange: Exchange) -> None:
        """Stop a request that becomes large before it takes the memory that others could use, unless a key opens it.

        Raises:
            KeyRefused: through the parser, which stops here.
        """
        try:
            self.gateway.identify(read_call(exchange.surface, exchange.headers, b"").digest)
        except HeaderInvalid:
            return  # told when the request is whole, as of a small one
        except KeyRefused as error:
            self._stop(error)

    @property
    def _is_in_body(self) -> bool:
        return self._is_receiving and not self._is_in_head

    def _stop(self, refusal: Refused) -> NoReturn:
        """Make the parser stop here; `data_received` tells the client."""
        self._refusal = refusal
        raise refusal

    def _refuse(self, refusal: Refused) -> None:
        """Tell the client what is wrong with its request, and close."""
        if self._running() is not None:
            # Nobody is told while an earlier request is being answered: two answers would be glued together.
            self._close_after_answer()
            return
        if isinstance(self.cycle, Exchange):
            self.cycle.let_go()
        if self._surface is not None:
            request_id, problem = self.gateway.turn_away(self._surface, refusal)
        else:
            request_id, problem = self.gateway.ids.next(), problem_of(refusal)
        body = problem.body()
        told = ((b"connection", b"close"), (b"x-request-id", request_id.encode()))
        headers = (*told, *_json(body), *problem.headers)
        if self.cors is not None and self._surface is not None:
            headers = (*headers, *self.cors.granted(self.headers, headers))
        # Who asks by HEAD would read a body as the next answer (RFC 9110, section 9.3.2).
        self.transport.write(head_of(problem.status, headers) + (body if self.parser.get_method() != b"HEAD" else b""))
        self._linger()

    def _running(self) -> RequestResponseCycle | Exchange | None:
        """Return what is being answered now, None when nothing is."""
        if self._answering is not None and not self._answering.response_complete:
            return self._answering if self._answering.is_whole else None
        return None if self.cycle is None or self.cycle.response_complete else self.cycle

    def _close_after_answer(self) -> None:
        self._fall_silent()
        self._drop_waiting()
        running = self._running()
        if running is None:
            self._linger()
            return
        running.keep_alive = False
        if not isinstance(running, Exchange):  # it may wait for the rest of a body that will not come
            self.loop.call_later(_LINGER_S, self.transport.abort)

    def _look(self) -> None:
        """Close if the client is gone: while it is not read, nobody else would tell."""
        self._looking = None
        if not self.flow.read_paused or self.transport.is_closing():
            return
        look = select.poll()
        look.register(self.transport.get_extra_info("socket").fileno(), getattr(select, "POLLRDHUP", 0))  # Linux
        if look.poll(0):
            self.transport.abort()
        else:
            self._looking = self.loop.call_later(_LOOK_S, self._look)

    def _drop_waiting(self) -> None:
        """Forget the requests that wait for an earlier one's answer."""
        for waiting, _ in self.pipeline:
            if isinstance(waiting, Exchange):
                waiting.let_go()
        self.pipeline.clear()

    def _linger(self) -> None:
        """Close, and let the client read what it was told even if it is still sending."""
        self._fall_silent()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_S, self.transport.abort)
        with contextlib.suppress(OSError):  # it is gone already, and the loop is about to tell
            self.transport.write_eof()

    def close(self) -> None:
        """Close when what was written has been read, or after a moment."""
        self._fall_silent()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(_LINGER_S, self.transport.abort)

    def _fall_silent(self) -> None:
        """Read no further request from this connection."""
        self._is_deaf, self._is_receiving = True, False
        self._stop_deadline()

    def _watch(self) -> None:
        """Keep one clock running on a connection that is waiting for its client."""
        if self._is_receiving:
            if self._deadline is None:
                self._deadline = self.loop.call_later(self._request_s, self._too_slow)
            return
        if self._is_deaf or self.cycle is None:
            return  # a connection that never made a request has the first one's time
        self._stop_deadline()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._keep_alive()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.flow.read_paused:  # it is we who do not read
            self._watch()
        elif self._is_receiving:
            self._refuse(RequestTooSlow(self._request_s))
        else:
            self.transport.close()  # connected, and never said a word


class Lingering:
    """What uvicorn writes its answers to: the connection's transport, closed with care."""

    def __init__(self, connection: Connection) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.end


class Exchange:
    """One request on a data path and its answer: the `Sink`. It stands where uvicorn has a RequestResponseCycle."""

    __slots__ = (
        "_connection",
        "_head",
        "_is_chunked",
        "_is_gone",
        "_large",
        "_may_chunk",
        "_parts",
        "_share",
        "_size",
        "_task",
        "has_room",
        "headers",
        "is_started",
        "is_whole",
        "keep_alive",
        "known",
        "on_gone",
        "response_complete",
        "surface",
    )

    def __init__(
        self,
        connection: Connection,
        surface: Surface,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        may_chunk: bool,
        keep_alive: bool,
    ) -> None:
        self.surface = surface
        self.headers = headers
        self.keep_alive = keep_alive and may_chunk
        self.known: Call | None = None
        self.is_whole = self.is_started = self.response_complete = False
        self.has_room = True
        self._share: Share | None = None
        self._connection = connection
        self._parts: list[bytes] = []
        self._large: BytesIO | None = None
        self._size = 0
        self._head = b""
        self._may_chunk = may_chunk
        self._is_chunked = self._is_gone = False
        self._task: asyncio.Task[None] | None = None
        self.on_gone: Callable[[], bool] | None = None

    @property
    def body(self) -> bytes:
        """What the client sent."""
        if self._large is not None:
            return self._large.getvalue()
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def take(self, part: bytes) -> int:
        """Keep a part of the body; return how many bytes there are.

        Raises:
            KeyRefused: it becomes large, and nobody pays for it.
        """
        self._size += len(part)
        if self._size > _KEYLESS_BYTES >= self._size - len(part):
            self._connection.check_key(self)
        if self._size <= _LARGE_BYTES:
            self._parts.append(part)
            return self._size
        self._share = self._share or self._connection.gateway.parts.room.share()
        self.has_room = self._share.take(len(part) if self._large is not None else self._size)
        if self._large is None:
            # Handed over as it is: to join the parts would need twice the memory.
            self._large = BytesIO()
            self._large.writelines(self._parts)
            self._parts.clear()
        self._large.write(part)
        return self._size

    @property
    def is_slow(self) -> bool:
        """Whether too much waits for the client to read it."""
        return bool(self._connection.flow.write_paused)

    def attach(self, task: asyncio.Task[None]) -> None:
        """Name the task that answers; the connection cancels it when the client hangs up."""
        self._task = task
        task.add_done_callback(self._ended)

    def let_go(self) -> None:
        """Give back what a body took that nobody will answer any more."""
        self._parts = []
        if self._share is not None:
            self._large = None
            self._share.give_back()

    def hang_up(self) -> None:
        """Cancel the answer: its client is gone, and nobody else wants it."""
        self._is_gone = True
        if self._task is None:
            self.let_go()
        if self._task is not None and not (self.on_gone is not None and self.on_gone()):
            # In the loop's next turn: a task that is cancelled before its first step books nothing.
            self._connection.loop.call_soon(self._task.cancel)

    def refuse(self, request_id: RequestId, problem: Problem) -> None:
        """Answer a whole request with an error, without a task."""
        body = problem.body()
        headers = (*_json(body), (b"x-request-id", request_id.encode()), *problem.headers)
        self.let_go()
        self._begin(problem.status, headers)
        self._send(body)
        self._complete()

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin; see `Sink.start`."""
        self._begin(status, headers)

    async def write(self, data: bytes) -> None:
        """Send some of the body, and wait while the client does not read."""
        self._send(data)
        if self._connection.flow.write_paused:
            await self._connection.flow.drain()

    def offer(self, data: bytes) -> bool:
        """Send some of the body without waiting; see `Sink.offer`."""
        self._send(data)
        return self._is_gone or not self._connection.flow.write_paused

    async def drain(self) -> None:
        """Wait until the client has read enough; see `Sink.drain`."""
        await self._connection.flow.drain()

    async def finish(self, data: bytes) -> None:
        """Send the last of the body and end it; the answer is over when the client has read enough of it."""
        self._send(data, end=b"0\r\n\r\n" if self._is_chunked else b"")
        if self._connection.flow.write_paused:
            await self._connection.flow.drain()
        self._complete()

    def cut(self, data: bytes) -> None:
        """Send a last word and end the body without its end; the connection closes when the answer's task has ended."""
        if not self.response_complete:
            self._send(data)

    def _begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.is_started = True
        head = head_of(status, headers)
        if self._may_chunk and _LENGTH not in head:
            self._is_chunked = True
            head = b"%btransfer-encoding: chunked\r\n\r\n" % head[:-2]
        if not self.keep_alive:
            head = b"%bconnection: close\r\n\r\n" % head[:-2]
        if self._connection.cors is not None:
            granted = self._connection.cors.granted(self.headers, headers)
            head = head[:-2] + b"".join(b"%b: %b\r\n" % each for each in granted) + b"\r\n"
        self._head = head

    def _send(self, data: bytes, *, end: bytes = b"") -> None:
        if self._is_gone:
            return
        head, self._head = self._head, b""
        size = len(data)
        if size > _COPY_LIMIT_BYTES:
            pieces = (b"%x\r\n" % size, data, b"\r\n", end) if self._is_chunked else (data, end)
            self._connection.transport.writelines([head, *pieces])
            return
        whole = b"%b%x\r\n%b\r\n%b" % (head, size, data, end) if self._is_chunked and data else head + data + end
        if whole:
            self._connection.transport.write(whole)

    def _complete(self) -> None:
        if self._is_gone:
            return
        self.response_complete = True
        if self.keep_alive:
            self._connection.on_response_complete()
        else:
            self._connection.server_state.total_requests += 1
            self._connection.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connection.tasks.discard(task)
        self.let_go()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("answer_broke", extra={"error": type(error).__name__, "where": places(error)})
        if not self.response_complete and not self._is_gone:
            self._connection.close()


_LENGTH: Final = b"\r\ncontent-length: "


def protocol_of(gateway: Gateway, *, keep_alive_s: float) -> type[Connection]:
    """Return the connections of a gateway; they wait so long for their next request."""

    class Bound(Connection):
        pass

    Bound.gateway = gateway
    Bound.heads = Heads()
    Bound.waiting = Deadlines(keep_alive_s)
    return Bound


def head_of(status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return status line and header section.

    Raises:
        ValueError: a header has a line break in it, and would be two.
    """
    head = STATUS_LINE[status] + b"\r\n".join(map(b": ".join, headers)) + b"\r\n\r\n"
    ends = len(headers) + 2
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head:
        raise ValueError(f"a response header holds a control character; the names are {[name for name, _ in headers]}")
    return head


def _json(body: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))


def _path_of(target: bytes) -> bytes:
    """Return the path of an absolute-form target; a proxy's clients send those (RFC 9112, section 3.2.2)."""
    path: bytes | None = httptools.parse_url(target).path
    return path or b""
