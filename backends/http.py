"""One OpenAI-compatible endpoint over HTTP: vLLM, llama.cpp, providers.

The bytes are a `Transport`'s; what they mean is read here. The operator's key leaves only in the Authorization header,
and an upstream that echoes it is not listened to: it is blotted out of whatever may reach a client or a log.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from io import BytesIO
from typing import TYPE_CHECKING, NoReturn, Self

import msgspec

from backends.codings import plain
from backends.deadlines import Deadlines
from backends.errors import (
    AnswerUnkept,
    AskRejected,
    BackendError,
    CredentialsRejected,
    EndpointFailed,
    EndpointTimeout,
    ReplyMalformed,
    StreamCut,
)
from backends.replies import read_chunk, read_whole
from backends.restream import spread, usage_event
from backends.room import Room, Share
from backends.runs import Template
from backends.seam import Sizes
from backends.sse import DONE, EventDecoder
from backends.words import Chunk, Event, Run, Surface, Whole

if TYPE_CHECKING:
    from backends.seam import Outbound, Timeouts
    from backends.transport import Response, Transport

_LARGE_BYTES = 2**20
_ERROR_LIMIT_BYTES = 64 * 2**10

_DRAINING = b"cannot schedule new futures after shutdown"
"""What Python's executors say once they are shut down; vLLM answers it with 500 while it finishes its last requests."""

_REASON_S = 0.5
"""How long a 500's text is waited for: it comes with the status or says nothing worth the wait."""

_JSON, _EVENTS = "application/json", "text/event-stream"

_RETRY_AFTER = re.compile(r"\d{1,7}(\.\d{1,3})?|[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT")
"""Seconds (whole ones in RFC 9110, fractions in the wild) or a date."""

_MARK = b"\xef\xbb\xbf"

_REDACTED = "[redacted]"

_SECRET_CHARACTERS = 12
"""Shorter keys are no secrets but placeholders ("EMPTY", "none"), whose blotting would mutilate honest answers."""

_TAIL_S = 0.05
"""The chunk that ends a stream is often a packet of its own after `[DONE]` (uvicorn's is). Without it the connection
cannot be used again, and a handshake with a provider costs more than this wait, which the client does not see."""


_UNLIMITED = nullcontext()

_SIZES = Sizes()

_RUNS_A_READ = 16
"""How often one read is searched for runs: each search looks at all that is left of it."""


class _UpstreamError(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class HttpBackend:
    """One endpoint. The transport is the caller's, who closes it."""

    def __init__(
        self,
        *,
        transport: Transport,
        base_url: str,
        api_key: str | None,
        timeouts: Timeouts,
        sizes: Sizes = _SIZES,
        room: Room | None = None,
    ) -> None:
        self.endpoint = base_url
        self._room = room or Room(sizes.answer_bytes)
        self._sizes = sizes
        self._transport = transport
        self._urls = {surface: f"{base_url.rstrip('/')}/{surface.value}" for surface in Surface}
        self._headers = {"accept": "*/*", "accept-encoding": "identity", "content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._blot = Blot(api_key)
        self._first_byte = Deadlines(timeouts.first_byte_s)
        self._idle = Deadlines(timeouts.idle_s)
        self._tail = Deadlines(_TAIL_S)

    async def open(self, outbound: Outbound) -> HttpReply:
        """Send an attempt and return its reply once the first event is there; see `Backend.open`."""
        # A whole answer is silent until it is complete, which may take minutes: the request's own deadline ends it.
        limit = self._first_byte.begin() if outbound.is_stream else _UNLIMITED
        response: Response | None = None
        is_open = False
        try:
            with limit:
                response = await self._transport.post(
                    self._urls[outbound.surface],
                    headers=self._headers,
                    body=outbound.body,
                    own={"x-request-id": outbound.request_id},
                )
                if response.status != 200:
                    await self._refuse(response)
                reply = HttpReply(
                    plain(response),
                    outbound,
                    endpoint=self.endpoint,
                    idle=self._idle,
                    tail=self._tail,
                    blot=self._blot,
                    sizes=self._sizes,
                    room=self._room,
                )
                await reply.begin()
                is_open = True
                return reply
        except TimeoutError as error:
            raise EndpointTimeout("first_byte", self._first_byte.seconds, endpoint=self.endpoint) from error
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

    async def _refuse(self, response: Response) -> NoReturn:
        """Raise what an answer means that is not 200."""
        status = response.status
        if status in {401, 403}:
            raise CredentialsRejected(
                f"the upstream refuses the operator's key (HTTP {status})", endpoint=self.endpoint
            )
        # 408 and 429 are the endpoint's trouble although they are 4xx; another endpoint may answer.
        if 400 <= status < 500 and status not in {408, 429}:
            raise await self._rejection(response)
        raise EndpointFailed(
            status,
            endpoint=self.endpoint,
            retry_after=_retry_after(response),
            is_draining=status == 500 and await _says_draining(response),
        )

    async def _rejection(self, response: Response) -> AskRejected:
        try:
            error = _read_error(await _read_limited(plain(response), _ERROR_LIMIT_BYTES))
        except (ReplyMalformed, StreamCut):
            error = _UpstreamError()
        kind = error.type if error.type and error.type.endswith("_error") else "invalid_request_error"
        message = error.message or f"the upstream refused the request with HTTP {response.status}"
        return AskRejected(
            response.status,
            self._blot.text(message),
            kind=self._blot.text(kind),
            param=None if error.param is None else self._blot.text(error.param),
            code=None if error.code is None else self._blot.text(str(error.code)),
            endpoint=self.endpoint,
        )


class Blot:
    """Blots an operator's key out of what an upstream says."""

    def __init__(self, secret: str | None) -> None:
        is_secret = secret is not None and len(secret) >= _SECRET_CHARACTERS
        self._secret = secret if is_secret and secret is not None else ""
        # In JSON a slash may be escaped.
        self._forms = tuple({form.encode() for form in (self._secret, self._secret.replace("/", "\\/")) if form})

    def text(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self._secret, _REDACTED) if self._secret else text

    def json(self, payload: bytes) -> bytes:
        """Return JSON without the key: the same bytes when it is not in them."""
        for form in self._forms:
            if form in payload:
                payload = payload.replace(form, _REDACTED.encode())
        return payload


_NEVER_FED, _NEVER_LEARNING, _NEVER_SILENT = EventDecoder(), Template(), Deadlines(0).begin()
"""A whole answer's: it has no events."""


class HttpReply:
    """A reply on one HTTP response; owns the response."""

    def __init__(
        self,
        response: Response,
        outbound: Outbound,
        *,
        endpoint: str,
        idle: Deadlines,
        tail: Deadlines,
        blot: Blot,
        sizes: Sizes = _SIZES,
        room: Room | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._tail = tail
        self._share = (room or Room(sizes.answer_bytes)).share()
        self._sizes = sizes
        self._response = response
        self._is_stream = outbound.is_stream
        self._idle = idle
        # Entered for each read, one after another.
        self._silence = idle.begin() if outbound.is_stream else _NEVER_SILENT
        self._blot = blot
        self._decoder = EventDecoder(limit_bytes=sizes.event_bytes) if outbound.is_stream else _NEVER_FED
        self._template = Template() if outbound.is_stream else _NEVER_LEARNING
        self._unread = b""
        self._ready: list[Event] = []
        self._failure: BackendError | None = None
        self._is_finished = False
        self._is_done = False
        self._is_drained = False
        self._is_closed = False

    async def begin(self) -> None:
        """Read until the first event, which stays to be iterated.

        Raises:
            ReplyMalformed: not an answer.
            StreamCut: the answer ended before an event.
        """
        if not self._is_stream:
            self._ready.append(await self._whole())
            return
        content_type = (self._response.header("content-type") or "").partition(";")[0].strip().lower()
        if content_type not in {_EVENTS, _JSON, ""}:
            raise ReplyMalformed(f"a stream was asked for and {content_type[:64]!r} came", endpoint=self.endpoint)
        received, blank = await self._response.read(), 0
        while received and not received.strip():  # empty lines mean nothing in either
            blank += len(received)
            if blank > self._sizes.event_bytes:
                raise ReplyMalformed(
                    f"the upstream's answer begins with more than {self._sizes.event_bytes} bytes of nothing "
                    "(limits.max_event_bytes)"
                )
            received = await self._response.read()
        # No event begins so, and what is called JSON may be a stream, and the other way round.
        if received.removeprefix(_MARK).lstrip().startswith(b"{"):
            await self._spread(received)
            return
        # Only its first event is taken now: the rest may be a run.
        end = received.find(b"\n\n") + 2
        self._unread = received[end:] if end > 1 else b""
        self._take(received[:end] if end > 1 else received)
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
            with self._idle.begin():
                return await self._next()
        except TimeoutError as error:
            raise EndpointTimeout("idle", self._idle.seconds, endpoint=self.endpoint) from error
        except BackendError as error:
            error.endpoint = self.endpoint
            raise

    async def batch(self) -> Sequence[Event | Run]:
        """Return all that one read brought; see `Reply.batch`."""
        events: list[Event | Run] = []
        if self._ready or self._unread:
            events += self._ready
            self._ready = []
            if self._unread:
                events += self._runs(self._received(b""))
        try:
            while not events and not self._is_done:
                if self._failure is not None:
                    raise self._failure
                with self._silence:
                    received = await self._response.read()
                events = self._runs(received)
        except TimeoutError as error:
            raise EndpointTimeout("idle", self._idle.seconds, endpoint=self.endpoint) from error
        except BackendError as error:
            error.endpoint = self.endpoint
            raise
        return events

    def tap(self, take: Callable[[Run], bool]) -> None:
        """Let `take` have reads that are one run, while `batch` waits; see `Reply.tap`."""

        def pass_on(received: bytes) -> bool:
            run = self._run(received)
            if run is None or run.raw is not received or not take(run):
                return False
            self._silence.prolong()
            return True

        self._response.tap(pass_on)

    async def aclose(self) -> None:
        """Close the connection, unless the answer was read to its end: then it may be used again."""
        if self._is_closed:
            return
        self._is_closed = True
        self._share.give_back()
        try:
            if self._is_done and not self._is_drained:
                with self._tail.begin():
                    while await self._response.read():
                        pass
        except (TimeoutError, StreamCut):
            pass  # a server that does not end its answer gets a new connection next time
        finally:
            self._response.close()

    async def _next(self) -> Event:
        while not self._ready and not self._is_done:
            if self._failure is not None:
                raise self._failure
            self._take(self._received(b"") or await self._response.read())
        if self._ready:
            return self._ready.pop(0)
        raise StopAsyncIteration

    async def _whole(self, begun: bytes = b"") -> Whole:
        try:
            body = await _read_limited(self._response, self._sizes.answer_bytes, begun, share=self._share)
            whole = read_whole(self._blot.json(body))
        except BaseException:
            self._share.give_back()
            raise
        if not whole.has_answer:
            raise ReplyMalformed("the upstream's JSON has neither choices nor embeddings")
        self._is_done = self._is_drained = True
        return whole

    async def _spread(self, begun: bytes) -> None:
        """Queue the events of a whole answer that came in a stream's place."""
        whole = await self._whole(begun)
        try:
            payloads, usage = spread(whole.payload)
        except (msgspec.DecodeError, KeyError) as error:
            raise ReplyMalformed("the upstream's answer cannot be turned into a stream") from error
        self._ready += [msgspec.structs.replace(read_chunk(payload), is_bulk=True) for payload in payloads]
        if usage is not None:
            self._ready.append(read_chunk(usage_event(payloads[0], usage)))

    def _received(self, more: bytes) -> bytes:
        """Return what was read and not looked at yet, and what follows it."""
        received, self._unread = self._unread + more, b""
        return received

    def _take(self, received: bytes) -> None:
        """Queue the events in what was read; what breaks after them is raised after them."""
        self._ready += self._parse(received)

    def _parse(self, received: bytes) -> list[Event]:
        """Return the events that `received` completes; b"" is the end."""
        events: list[Event] = []
        try:
            if not received:
                self._end(is_told=self._response.is_delimited)
                return events
            one = _one_payload(received, self._sizes.event_bytes) if self._decoder.is_between_events else None
            for payload in self._decoder.feed(received) if one is None else (one,):
                if payload == DONE:
                    self._end(is_told=True)
                    return events
                chunk = read_chunk(self._blot.json(payload))
                self._is_finished |= chunk.finish_reason is not None
                events.append(chunk)
        except BackendError as error:
            self._failure = error
        return events

    def _runs(self, received: bytes) -> list[Event | Run]:
        """Return the events in what was read, those that differ in their text alone as runs; as `_parse`."""
        events: list[Event | Run] = []
        for _ in range(_RUNS_A_READ):
            run = self._run(received)
            if run is not None:
                events.append(run)
                if run.raw is received:
                    return events
                received = received[len(run.raw) :]
            end = received.find(b"\n\n") + 2
            if end < 2 or end == len(received):
                break
            events += self._learned(self._parse(received[:end]))
            received = received[end:]
            if self._is_done or self._failure is not None:
                return events
        if received or not events:
            events += self._learned(self._parse(received))
        return events

    def _run(self, received: bytes) -> Run | None:
        """Return the run that what was read begins with, if it begins with one."""
        if not self._template.is_known or not self._decoder.is_between_events:
            return None
        run = self._template.find(received)
        return run if run is not None and self._blot.json(run.raw) is run.raw else None

    def _learned(self, events: list[Event]) -> list[Event]:
        if not self._template.is_known:
            for event in events:
                if isinstance(event, Chunk):
                    self._template.learn(event)
        return events

    def _end(self, *, is_told: bool) -> None:
        if not self._is_finished:
            raise StreamCut("the stream ended before its finish_reason", endpoint=self.endpoint)
        if not is_told:
            raise StreamCut("the connection was closed before the stream's [DONE]", endpoint=self.endpoint)
        self._is_done = True


def _one_payload(received: bytes, limit_bytes: int) -> bytes | None:
    """Return the payload of what is exactly one event of one line, as nearly all are; None: the decoder is to tell."""
    size = len(received)
    is_one = received.startswith(b"data: ") and received.find(b"\n") == size - 2 and received[-1] == _LINE_END
    return received[6:-2] if is_one and size <= limit_bytes and b"\r" not in received else None


_LINE_END = 10


async def _says_draining(response: Response) -> bool:
    """Tell whether a 500 is that of a server which is going away: vLLM's after SIGTERM is known by its words only."""
    try:
        async with asyncio.timeout(_REASON_S):
            return _DRAINING in await _read_limited(plain(response), _ERROR_LIMIT_BYTES)
    except (TimeoutError, BackendError):
        return False


async def _read_limited(
    response: Response, limit_bytes: int, begun: bytes = b"", *, share: Share | None = None
) -> bytes:
    """Return a whole body.

    Args:
        response: its head is read.
        limit_bytes: the most it may be.
        begun: what was read of it.
        share: takes what a large one needs.
    """
    parts = [begun]
    size = len(begun)
    large: BytesIO | None = None
    while part := await response.read():
        size += len(part)
        if size > limit_bytes:
            said = " (limits.max_answer_bytes)" if share is not None else ""
            raise ReplyMalformed(f"the upstream's answer is larger than {limit_bytes} bytes{said}")
        if share is not None and size > _LARGE_BYTES and not share.take(len(part) if large is not None else size):
            raise AnswerUnkept(share.limit_bytes)
        if large is not None:
            large.write(part)
            continue
        parts.append(part)
        if size > _LARGE_BYTES:
            large = BytesIO()
            large.writelines(parts)
            parts.clear()
    # A buffer that grows is handed over as it is; to join the parts would need twice the memory.
    return b"".join(parts) if large is None else large.getvalue()


def _retry_after(response: Response) -> str | None:
    """Return the header if it says what it should: it goes to the client, and an upstream may write anything."""
    value = (response.header("retry-after") or "").strip()
    return value if _RETRY_AFTER.fullmatch(value) else None


def _read_error(body: bytes) -> _UpstreamError:
    """Read the error object of OpenAI's shape, or of FastAPI's and llama.cpp's near-misses."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        inner = fields.get("error")
        return msgspec.json.decode(inner if inner is not None else body, type=_UpstreamError)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _UpstreamError()
