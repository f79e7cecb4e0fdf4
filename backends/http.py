"""One OpenAI-compatible endpoint over HTTP: vLLM, llama.cpp, providers.

The bytes are a `Transport`'s; what they mean is read here. The operator's key leaves only in the Authorization header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import msgspec

from backends.errors import (
    AskRejected,
    BackendError,
    CredentialsRejected,
    EndpointFailed,
    EndpointTimeout,
    ReplyMalformed,
    StreamCut,
)
from backends.replies import read_chunk, read_whole
from backends.sse import DONE, EventDecoder
from backends.words import Chunk, Event

if TYPE_CHECKING:
    from backends.seam import Outbound, Timeouts
    from backends.transport import Response, Transport

BODY_LIMIT_BYTES = 100 * 2**20
"""The largest whole answer kept in memory; the largest real ones (batches of embeddings) are a tenth of it."""

_ERROR_LIMIT_BYTES = 64 * 2**10

_TAIL_S = 0.05
"""The chunk that ends a stream is often a packet of its own after `[DONE]` (uvicorn's is). Without it the connection
cannot be used again, and a handshake with a provider costs more than this wait, which the client does not see."""


class _UpstreamError(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class HttpBackend:
    """One endpoint. The transport is the caller's, who closes it."""

    def __init__(self, *, transport: Transport, base_url: str, api_key: str | None, timeouts: Timeouts) -> None:
        self.endpoint = base_url
        self._transport = transport
        self._base_url = base_url.rstrip("/")
        self._headers = {"accept": "*/*", "accept-encoding": "identity", "content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeouts = timeouts

    async def open(self, outbound: Outbound) -> HttpReply:
        """Send an attempt and return its reply once the first event is there; see `Backend.open`."""
        # A whole answer is silent until it is complete, which may take minutes: the request's own deadline ends it.
        limit_s = self._timeouts.first_byte_s if outbound.is_stream else None
        response: Response | None = None
        is_open = False
        try:
            async with asyncio.timeout(limit_s):
                response = await self._send(outbound)
                reply = HttpReply(response, outbound, endpoint=self.endpoint, idle_s=self._timeouts.idle_s)
                await self._check(response)
                await reply.begin()
                is_open = True
                return reply
        except TimeoutError as error:
            raise EndpointTimeout("first_byte", limit_s or 0.0, endpoint=self.endpoint) from error
        except StreamCut as error:
            raise ReplyMalformed(
                "the upstream's answer ended before its first event", endpoint=self.endpoint
            ) from error
        except BackendError as error:
            error.endpoint = self.endpoint
            raise
        finally:
            if response is not None and not is_open:
                response.close()

    async def aclose(self) -> None:
        """Nothing is held open here: the transport is the caller's."""

    async def _send(self, outbound: Outbound) -> Response:
        return await self._transport.post(
            f"{self._base_url}/{outbound.surface.value}",
            headers={**self._headers, "x-request-id": outbound.request_id},
            body=outbound.body,
        )

    async def _check(self, response: Response) -> None:
        status = response.status
        if status == 200:
            return
        if status in {401, 403}:
            raise CredentialsRejected(
                f"the upstream refuses the operator's key (HTTP {status})", endpoint=self.endpoint
            )
        # 408 and 429 are the endpoint's trouble although they are 4xx; another endpoint may answer.
        if 400 <= status < 500 and status not in {408, 429}:
            raise await self._rejection(response)
        raise EndpointFailed(status, endpoint=self.endpoint, retry_after=response.header("retry-after"))

    async def _rejection(self, response: Response) -> AskRejected:
        try:
            error = _read_error(await _read_limited(response, _ERROR_LIMIT_BYTES))
        except (ReplyMalformed, StreamCut):
            error = _UpstreamError()
        return AskRejected(
            response.status,
            error.message or f"the upstream refused the request with HTTP {response.status}",
            kind=error.type if error.type and error.type.endswith("_error") else "invalid_request_error",
            param=error.param,
            code=None if error.code is None else str(error.code),
            endpoint=self.endpoint,
        )


class HttpReply:
    """A reply on one HTTP response; owns the response."""

    def __init__(self, response: Response, outbound: Outbound, *, endpoint: str, idle_s: float) -> None:
        self.endpoint = endpoint
        self._response = response
        self._is_stream = outbound.is_stream
        self._idle_s = idle_s
        self._decoder = EventDecoder()
        self._ready: list[Event] = []
        self._failure: BackendError | None = None
        self._is_finished = False
        self._is_done = False
        self._is_closed = False

    async def begin(self) -> None:
        """Read until the first event, which stays to be iterated.

        Raises:
            ReplyMalformed: not an answer.
            StreamCut: the answer ended before an event.
        """
        self._ready.insert(0, await self._next())

    def __aiter__(self) -> Self:
        """Return itself: a reply is read once."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event; see `Reply`."""
        if self._ready:
            return self._ready.pop(0)
        if self._is_done:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._idle_s):
                return await self._next()
        except TimeoutError as error:
            raise EndpointTimeout("idle", self._idle_s, endpoint=self.endpoint) from error
        except BackendError as error:
            error.endpoint = self.endpoint
            raise

    def ready(self) -> Sequence[Event]:
        """Return the events of the last read that have not been iterated."""
        events, self._ready = self._ready, []
        return events

    async def aclose(self) -> None:
        """Close the connection, unless the answer was read to its end: then it may be used again."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._is_done:
                async with asyncio.timeout(_TAIL_S):
                    while await self._response.read():
                        pass
        except (TimeoutError, StreamCut):
            pass  # a server that does not end its answer gets a new connection next time
        finally:
            self._response.close()

    async def _next(self) -> Event:
        if not self._is_stream:
            return await self._whole()
        content_type = self._response.header("content-type") or ""
        if not content_type.startswith("text/event-stream"):
            raise ReplyMalformed(
                f"a stream was asked for and {content_type or 'no content type'!r} came", endpoint=self.endpoint
            )
        while not self._ready and not self._is_done:
            if self._failure is not None:
                raise self._failure
            await self._read_some()
        if self._ready:
            return self._ready.pop(0)
        raise StopAsyncIteration

    async def _whole(self) -> Event:
        event = read_whole(await _read_limited(self._response, BODY_LIMIT_BYTES))
        self._is_done = True
        return event

    async def _read_some(self) -> None:
        """Take one read's worth of bytes and queue the events in it; what breaks after them is raised after them."""
        received = await self._response.read()
        try:
            if not received:
                self._end()
                return
            for payload in self._decoder.feed(received):
                if payload == DONE:
                    self._end()
                    return
                chunk = read_chunk(payload)
                self._note(chunk)
                self._ready.append(chunk)
        except BackendError as error:
            self._failure = error

    def _note(self, chunk: Chunk) -> None:
        if chunk.finish_reason is not None:
            self._is_finished = True

    def _end(self) -> None:
        if not self._is_finished:
            raise StreamCut("the stream ended before its finish_reason", endpoint=self.endpoint)
        self._is_done = True


async def _read_limited(response: Response, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await response.read():
        size += len(part)
        if size > limit_bytes:
            raise ReplyMalformed(f"the upstream's answer is larger than {limit_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def _read_error(body: bytes) -> _UpstreamError:
    """Read the error object of OpenAI's shape, or of FastAPI's and llama.cpp's near-misses."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        inner = fields.get("error")
        return msgspec.json.decode(inner if inner is not None else body, type=_UpstreamError)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _UpstreamError()
