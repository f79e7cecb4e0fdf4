"""The way after the first event: sending a committed answer, which can only be finished or broken off.

Upstream events are sent on byte for byte, but for what only the gateway asked for (log-probabilities, usage), which is
stripped. Usage, when the client wants it, is sent once, in a last event without choices, with what the request cost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

import msgspec

from backends.prices import dollars
from backends.sse import DONE, encode_comment, encode_event
from backends.words import Ask, Event, JsonValue, Provenance, Run, Surface, Usage, Whole
from gateway.calls import Sink
from gateway.explain import explanation
from gateway.journey import Attempt, Journey, tells
from gateway.ladder import Committed
from gateway.ledger.rows import ChargeKind
from gateway.settlement import Cashier, usage_of
from semantic_cache.gather import Gathering
from semantic_cache.replay import replay_chunks, replay_fields

Headers = Sequence[tuple[bytes, bytes]]

_encode = msgspec.json.encode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])

STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")
JSON_TYPE = (b"content-type", b"application/json")


_PIECE_BYTES = 2**20


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent.

    Attributes:
        body: the whole answer as JSON if it is fit to be stored, else None.
        last_payload: a stream's last event; b"" when it was no stream.
        usage_payload: usage as a stream's upstream told it.
    """

    body: bytes | None
    usage: Usage
    finish_reason: str | None
    last_payload: bytes = b""
    usage_payload: msgspec.Raw | None = None


Tell: TypeAlias = Callable[[Told], None]
"""Takes the whole answer the moment it is there, before the client has the last of it: it may hang up then."""


async def relay_whole(
    journey: Journey, ask: Ask, committed: Committed, cashier: Cashier, sink: Sink, *, tell: Tell
) -> None:
    """Send an answer that was not asked for as a stream.

    Raises:
        BackendError: the answer did not come; nothing was sent.
    """
    attempt = committed.attempt
    begun = journey.clock.monotonic()
    try:
        whole = await _whole(committed)
    finally:
        journey.waited(begun, "relay")
    attempt.note(whole)
    attempt.end(ChargeKind.ANSWER, journey.clock.monotonic())
    cashier.price(journey)
    usage = usage_of(journey, attempt)
    plain = _without_logprobs(whole.payload) if attempt.asks_logprobs and not ask.wants_logprobs else whole.payload
    parts = _with_cost(plain, whole.stated_usage, journey, usage, ask)
    journey.first_byte = journey.clock.monotonic()
    cost = _cost_text(journey).encode()
    headers = [
        JSON_TYPE,
        (b"content-length", b"%d" % sum(map(len, parts))),
        *answer_headers(journey),
        (b"x-faregate-cost-usd", cost),
    ]
    journey.status = 200
    journey.is_answered = True
    tell(Told(body=plain, usage=usage, finish_reason=whole.finish_reason))
    await sink.start(200, headers)
    held = b""
    for piece in _portions(parts):
        if held:
            await sink.write(held)
        held = piece
    cashier.book(journey)
    await sink.finish(held)


def _portions(parts: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    """Yield a body: a small one in one piece; a large one in several, and never all of it once more.

    A server buffers what it is given at once, and nothing else moves while it copies a large body.
    """
    if sum(map(len, parts)) <= _PIECE_BYTES:
        yield b"".join(parts)
        return
    for part in parts:
        view = memoryview(part)
        for place in range(0, len(view), _PIECE_BYTES):
            yield bytes(view[place : place + _PIECE_BYTES])


async def relay_stream(
    journey: Journey, ask: Ask, committed: Committed, cashier: Cashier, sink: Sink, *, tell: Tell
) -> None:
    """Send a stream: what was held back at once, then event by event.

    Raises:
        BackendError: the stream broke; if the sink has started, all that is left is to say so and cut.
    """
    attempt = committed.attempt
    is_kept = journey.wants_body and ask.surface is Surface.CHAT and not ask.wants_logprobs
    editor = _Editor(strips_logprobs=attempt.asks_logprobs and not ask.wants_logprobs, is_kept=is_kept)
    held = b"".join(editor.edit(event) for event in committed.events)
    reply, monotonic = committed.reply, journey.clock.monotonic
    journey.status = 200
    with journey.step("relay"):
        await sink.start(200, [STREAM_TYPE, (b"cache-control", b"no-cache"), *answer_headers(journey)])
        if held:
            await _write(journey, sink, held)
        reply.tap(_passing_on(journey, attempt, editor, sink))
        while True:
            begun = monotonic()
            try:
                events = await reply.batch()
            finally:
                journey.waited_s += monotonic() - begun
            if not events:
                break
            # One write for all the events of one read: a fast upstream sends dozens at once.
            for event in events:
                attempt.note(event)
            data = editor.edit(events[0]) if len(events) == 1 else b"".join(map(editor.edit, events))
            if data:
                if journey.first_byte is None:
                    journey.first_byte = monotonic()
                await sink.write(data)
    attempt.end(ChargeKind.ANSWER, journey.clock.monotonic())
    cashier.price(journey)
    usage = usage_of(journey, attempt)
    journey.is_answered = True
    told = Told(
        body=editor.whole(usage),
        usage=usage,
        finish_reason=editor.finish_reason,
        last_payload=editor.last_payload,
        usage_payload=editor.usage_payload,
    )
    tell(told)
    end = _stream_end(journey, ask, told.last_payload, told.usage_payload, usage)
    cashier.book(journey)
    await sink.finish(end)


def _passing_on(journey: Journey, attempt: Attempt, editor: _Editor, sink: Sink) -> Callable[[Run], bool]:
    """Return what sends a run of tokens that comes alone, as tokens of a slow stream do, and wakes nobody for it.

    A client that does not keep up is left to the relay, which waits for it.
    """
    monotonic = journey.clock.monotonic

    def take(run: Run) -> bool:
        if sink.is_slow:
            return False
        begun = monotonic()
        attempt.note(run)
        sink.offer(editor.edit(run))
        if journey.first_byte is None:
            journey.first_byte = begun
        journey.waited_s -= monotonic() - begun  # of the relay's wait, in which this comes
        return True

    return take


async def relay_hit(journey: Journey, ask: Ask, payload: bytes, usage: Usage, sink: Sink) -> None:
    """Send a stored answer as JSON, or as the stream it would have been."""
    now = journey.clock.now()
    journey.status = 200
    journey.is_answered = True
    journey.first_byte = journey.clock.monotonic()
    # A hit costs nothing but what a verifier was asked for it.
    cost = (b"x-faregate-cost-usd", _cost_text(journey).encode() if journey.attempts else b"0")
    if not ask.is_stream:
        body = _replayed(payload, journey, usage, ask)
        length = (b"content-length", b"%d" % len(body))
        await sink.start(200, [JSON_TYPE, length, *answer_headers(journey), cost])
        await sink.finish(body)
        return
    events = replay_chunks(payload, request_id=journey.request_id, now=now)
    await sink.start(200, [STREAM_TYPE, (b"cache-control", b"no-cache"), *answer_headers(journey), cost])
    end = _stream_end(journey, ask, events[-1], None, usage)
    await sink.finish(b"".join(map(encode_event, events)) + end)


async def relay_flight(journey: Journey, ask: Ask, sink: Sink, read: Callable[[], Awaitable[bytes | Told]]) -> None:
    """Send another request's stream, from its start and as it comes.

    Args:
        journey: its `hit` names the model that answers.
        ask: the request, equal to the other's but for how usage is asked for.
        sink: where it goes.
        read: returns what is new of the stream, in the end the whole answer.
    """
    cost = (b"x-faregate-cost-usd", b"0")
    journey.status = 200
    await sink.start(200, [STREAM_TYPE, (b"cache-control", b"no-cache"), *answer_headers(journey), cost])
    while True:
        with journey.waiting():
            piece = await read()
        if isinstance(piece, Told):
            break
        await _write(journey, sink, piece)
    journey.is_answered = True
    await sink.finish(_stream_end(journey, ask, piece.last_payload, piece.usage_payload, piece.usage))


def answer_headers(journey: Journey) -> list[tuple[bytes, bytes]]:
    """Return the `x-faregate-*` headers of an answer: what is known when it begins."""
    hit, verdict, models = journey.hit, journey.verdict, journey.path_models
    route = journey.lane.route.name if journey.lane is not None else ""
    model = hit.entry.model if hit is not None else models[-1] if models else ""
    headers = [(b"x-request-id", journey.request_id.encode()), *_names(route, model, journey.path)]
    if verdict is not None:
        headers.append((b"x-faregate-confidence", b"%.4f" % verdict.confidence))
    if hit is not None and hit.similarity is not None:
        headers.append((b"x-faregate-similarity", b"%.4f" % hit.similarity))
    headers.append((b"x-faregate-overhead-ms", b"%.3f" % journey.overhead_ms))
    if journey.call.wants_explanation:
        headers.append((b"x-faregate-explain", explanation(journey).encode("latin-1", "replace")))
    headers += journey.notices
    if journey.admission is not None:
        headers += journey.admission.headers
    return headers


@lru_cache(maxsize=1024)
def _names(route: str, model: str, path: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that most of a route's answers share; "" says that there is none."""
    named = ((b"x-faregate-route", route), (b"x-faregate-model", model), (b"x-faregate-path", path))
    return tuple((name, value.encode("latin-1", "replace")) for name, value in named if value)


class _Editor:
    """Rewrites a stream's events for its client, and remembers what the end of the stream needs."""

    def __init__(self, *, strips_logprobs: bool, is_kept: bool) -> None:
        self._strips_logprobs = strips_logprobs
        self._gathering = Gathering() if is_kept else None
        self.finish_reason: str | None = None
        self.last_payload = b"{}"
        self.usage_payload: msgspec.Raw | None = None

    def edit(self, event: Event | Run) -> bytes:
        """Return what the client gets of an event; b"" for one that was only for the gateway."""
        self.last_payload = event.payload
        if isinstance(event, Run):
            if self._gathering is not None:
                self._gathering.take_run(event.payload, event.content)
            return event.raw
        if isinstance(event, Whole):
            raise TypeError("a whole answer in a stream")
        if self._gathering is not None:
            self._gathering.take(event.payload)
        self.finish_reason = event.finish_reason or self.finish_reason
        has_logprobs = self._strips_logprobs and bool(event.tokens)
        if not event.has_usage and not has_logprobs:
            return encode_event(event.payload)
        fields = _fields.decode(event.payload)
        if event.has_usage:
            stated = fields.pop("usage")
            if tells(event.usage):
                self.usage_payload = stated
            if not event.has_choices:
                return b""
        if has_logprobs:
            fields["choices"] = msgspec.Raw(_strip(fields["choices"]))
        return encode_event(_encode(fields))

    def whole(self, usage: Usage) -> bytes | None:
        """Return the answer as one JSON body, None when nobody wants it or it cannot be told from the stream."""
        if self._gathering is None:
            return None
        return self._gathering.body(self.usage_payload if self.usage_payload is not None else openai_usage(usage))


def openai_usage(usage: Usage) -> dict[str, JsonValue]:
    """Return usage in OpenAI's shape."""
    return {
        "prompt_tokens": usage.total_input_tokens,
        "completion_tokens": usage.total_output_tokens,
        "total_tokens": usage.total_input_tokens + usage.total_output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


async def _whole(committed: Committed) -> Whole:
    event = committed.events[0] if committed.events else await anext(committed.reply)
    if not isinstance(event, Whole):
        raise TypeError("a streamed event in a whole answer")
    return event


async def _write(journey: Journey, sink: Sink, data: bytes) -> None:
    if journey.first_byte is None:
        journey.first_byte = journey.clock.monotonic()
    await sink.write(data)


def _stream_end(
    journey: Journey, ask: Ask, last_payload: bytes, usage_payload: msgspec.Raw | None, usage: Usage
) -> bytes:
    """Return the usage event with the cost if the client asked for it, else the cost as a comment; then `[DONE]`."""
    done = encode_event(DONE)
    if not ask.wants_usage:
        return encode_comment(f"faregate cost_usd={_cost_text(journey)}") + done
    fields = {n: v for n, v in _fields.decode(last_payload).items() if n not in {"choices", "usage"}}
    fields["choices"] = msgspec.Raw(b"[]")
    fields["usage"] = _annotated(usage_payload, journey, usage)
    return encode_event(_encode(fields)) + done


def _with_cost(
    payload: bytes, stated: bytes, journey: Journey, usage: Usage, ask: Ask
) -> tuple[bytes | memoryview, ...]:
    """Return an answer, in parts, with its cost in its usage; the rest stays as it came, byte for byte."""
    for name in _USAGE_NAMES if stated and payload.count(b'"usage"') == 1 else ():
        place = payload.rfind(name + stated)
        if place >= 0:
            whole = memoryview(payload)  # an answer may be large: it is not copied
            annotated = _annotated(msgspec.Raw(stated), journey, usage)
            return (whole[: place + len(name)], bytes(annotated), whole[place + len(name) + len(stated) :])
    return (_encode_with_cost(_fields.decode(payload), journey, usage, ask),)


_USAGE_NAMES = (b'"usage":', b'"usage": ')
"""As servers write it; whoever writes it otherwise has the whole answer written anew."""


def _encode_with_cost(fields: dict[str, msgspec.Raw], journey: Journey, usage: Usage, ask: Ask) -> bytes:
    given = fields.get("usage")
    if given is not None or ask.surface is not Surface.EMBEDDINGS or usage.total_input_tokens:
        fields["usage"] = _annotated(given, journey, usage)
    return _encode(fields)


def _replayed(payload: bytes, journey: Journey, usage: Usage, ask: Ask) -> bytes:
    """Return a stored answer under this request's id and time, with its cost: none, or what a verifier was paid."""
    if journey.attempts:
        fields = replay_fields(payload, request_id=journey.request_id, now=journey.clock.now())
        return _encode_with_cost(fields, journey, usage, ask)
    known = _pieces if len(payload) <= _PIECES_LIMIT_BYTES else _pieces.__wrapped__
    is_whole = ask.surface is not Surface.EMBEDDINGS or bool(usage.total_input_tokens)
    pieces = known(payload, usage, journey.path, wants_usage=is_whole)
    own = {_ID: journey.request_id.encode(), _CREATED: b"%d" % journey.clock.now().timestamp()}
    return b"".join(map(own.get, pieces, pieces))


_PIECES_LIMIT_BYTES = 2**16
_ID, _CREATED = b"\0id", b"\0created"
"""Stand where these go; no JSON holds a NUL."""


@lru_cache(maxsize=256)
def _pieces(payload: bytes, usage: Usage, path: str, *, wants_usage: bool) -> tuple[bytes, ...]:
    """Return a stored answer's JSON in pieces around its own id and time; a popular one's are known already."""
    fields = _fields.decode(payload)
    given = fields.get("usage")
    if given is not None or wants_usage:
        fields["usage"] = _annotate(given, usage, cost=_dollars(0), path=path, attempts=[])
    prefix = b"cmpl-" if bytes(fields.get("object", b"")) == b'"text_completion"' else b"chatcmpl-"
    own: dict[str, tuple[bytes, ...]] = {"id": (b'"' + prefix, _ID, b'"'), "created": (_CREATED,)}
    pieces: list[bytes] = []
    for name, value in fields.items():
        pieces += (b"," if pieces else b"{", _encode(name), b":", *(own.get(name) or (bytes(value),)))
    pieces.append(b"}" if pieces else b"{}")
    joined: list[bytes] = [b""]
    for piece in pieces:
        if piece in {_ID, _CREATED}:
            joined += (piece, b"")
        else:
            joined[-1] += piece
    return tuple(joined)


class _Paid(msgspec.Struct, gc=False):
    """What an attempt cost, as clients read it."""

    model: str
    kind: ChargeKind
    cost: msgspec.Raw | None


class _Own(msgspec.Struct, gc=False):
    """What the gateway adds to a usage beside the cost."""

    path: str
    attempts: list[_Paid]


def _annotated(given: msgspec.Raw | None, journey: Journey, usage: Usage) -> msgspec.Raw:
    """Return the committed answer's usage with the cost of all attempts; what is booked stands where none was told."""
    attempts = [
        _Paid(a.model.id, a.kind, None if a.is_cost_unknown else _dollars(a.cost_nusd))
        for a in journey.attempts
        if a.kind is not None
    ]
    nusd = _cost_nusd(journey)
    cost = None if nusd is None else _dollars(nusd)
    return _annotate(given, usage, cost=cost, path=journey.path, attempts=attempts)


def _annotate(
    given: msgspec.Raw | None,
    usage: Usage,
    *,
    cost: msgspec.Raw | None,
    path: str,
    attempts: list[_Paid],
) -> msgspec.Raw:
    own = _Own(path, attempts)
    is_told = usage.input_provenance is usage.output_provenance is Provenance.PROVIDER
    stated = bytes(given) if given is not None else b""
    if is_told and stated.startswith(b'{"') and b'"cost"' not in stated and b'"faregate"' not in stated:
        return msgspec.Raw(b'%b,"cost":%b,"faregate":%b}' % (stated[:-1], _encode(cost), _encode(own)))
    told = _told_usage(given) or {}
    known: dict[str, JsonValue | _Own] = {**told} if told and is_told else {**told, **openai_usage(usage)}
    known["cost"] = cost
    known["faregate"] = own
    return msgspec.Raw(_encode(known))


def _told_usage(given: msgspec.Raw | None) -> dict[str, JsonValue] | None:
    """Return the upstream's own usage object; None where it sent none, or something else in its place."""
    try:
        return dict(_fields.decode(given)) if given else None
    except msgspec.ValidationError:
        return None


def _cost_nusd(journey: Journey) -> int | None:
    """Return what all attempts cost; None when one of them has no known cost: the rest is not the cost."""
    total = 0
    for attempt in journey.attempts:
        if attempt.is_cost_unknown:
            return None
        total += attempt.cost_nusd
    return total


def _cost_text(journey: Journey) -> str:
    cost = _cost_nusd(journey)
    return "unknown" if cost is None else dollars(cost)


def _dollars(nusd: int) -> msgspec.Raw:
    """Return nano-dollars as an exact JSON number of dollars: no float ever holds money."""
    return msgspec.Raw(dollars(nusd).encode())


def _without_logprobs(payload: bytes) -> bytes:
    fields = _fields.decode(payload)
    if "choices" in fields:
        fields["choices"] = msgspec.Raw(_strip(fields["choices"]))
    return _encode(fields)


def _strip(choices: msgspec.Raw) -> bytes:
    decoded = msgspec.json.decode(choices, type=list[dict[str, msgspec.Raw]])
    return _encode([{n: v for n, v in choice.items() if n != "logprobs"} for choice in decoded])
