"""The wall's table: what an upstream does, what the client must see, and what must be booked."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from backends.words import JsonValue
from tests.wall.server import Cuts, Floods, Hangs, Play, Step, as_chunk, head, whole
from tests.wall.words import (
    ANSWER,
    ANSWERS,
    CALL,
    CHUNKED,
    COUNT,
    DONE,
    END,
    FINISH,
    GOOD,
    HTML,
    KEY,
    NO_USAGE,
    ONE,
    ROLE,
    TEXT,
    THREE,
    TWO,
    UNDELIMITED,
    USAGE,
    begun,
    body_of,
    chunk_of,
    dump,
    error_body,
    event,
    refusal,
    stream,
)


@dataclass(frozen=True)
class Relayed:
    """A step of a play: goes on when the client has the text that is expected of the stream."""


Script: TypeAlias = tuple[Step | Relayed, ...]


@dataclass(frozen=True, kw_only=True)
class Booked:
    """The charge of every attempt; `output` is None where any number will do that is estimated."""

    kind: str
    output: int | None
    provenance: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a client sees: `code` is None for an answer, and an error's code in a refusal or after a cut."""

    status: int = 200
    text: str = ""
    code: str | None = None
    booked: Booked | None = None
    has: tuple[bytes, ...] = ()
    lacks: tuple[bytes, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_cut(self) -> bool:
        """Whether an answer begins and does not end."""
        return self.status == 200 and self.code is not None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing an upstream can do, to a streamed request and to one that is not; None where there is no such thing.

    `request` is what is asked beside the question; `is_hasty` asks with short deadlines; `is_gone`: nobody listens.
    """

    name: str
    stream: Script | None = None
    whole: Script | None = None
    sees_stream: Seen | None = None
    sees_whole: Seen | None = None
    surface: str = "chat/completions"
    request: Mapping[str, JsonValue] = field(default_factory=dict)
    is_hasty: bool = False
    is_gone: bool = False


def answered(text: str = TEXT, output: int | None = 3, provenance: str = "provider", **more: JsonValue) -> Seen:
    """Expect a whole answer."""
    return Seen(text=text, booked=Booked(kind="answer", output=output, provenance=provenance), **more)


def refused(status: int, code: str | None, kind: str | None = None, **more: JsonValue) -> Seen:
    """Expect an error with a status; of a `kind` of charge when it is paid for."""
    booked = None if kind is None else Booked(kind=kind, output=None, provenance="estimated")
    return Seen(status=status, code=code or "", booked=booked, **more)


def cut(
    text: str, output: int | None, code: str = "upstream_cut", provenance: str = "counted", **more: JsonValue
) -> Seen:
    """Expect the beginning of an answer, an error event, and no end."""
    return Seen(text=text, code=code, booked=Booked(kind="failed", output=output, provenance=provenance), **more)


def both(name: str, play: Script, sees: Seen, **more: JsonValue) -> Case:
    """Return a case that is the same to both kinds of request."""
    return Case(name=name, stream=play, whole=play, sees_stream=sees, sees_whole=sees, **more)


BROKEN = refused(502, "upstream_error", "failed", lacks=(b"secret detail",))
FAILED = refused(502, "upstream_error", lacks=(b"secret detail",))
UNREACHABLE = refused(503, "upstream_unreachable")
COUNTED = answered(provenance="counted")
NOTHING_HEARD = {"output": 0, "provenance": "estimated"}

SILENT = (
    Case(name="nobody listens", stream=(), whole=(), sees_stream=UNREACHABLE, sees_whole=UNREACHABLE, is_gone=True),
    Case(
        name="stalls before the headers",
        stream=(Hangs(),),
        sees_stream=refused(504, "upstream_timeout", "failed"),
        whole=(Hangs(),),
        sees_whole=refused(504, "timeout", "cancelled"),
        is_hasty=True,
    ),
    Case(
        name="stalls within the headers",
        stream=(b"HTTP/1.1 200 OK\r\ncontent-", Hangs()),
        sees_stream=refused(504, "upstream_timeout", "failed"),
        whole=(b"HTTP/1.1 200 OK\r\ncontent-", Hangs()),
        sees_whole=refused(504, "timeout", "cancelled"),
        is_hasty=True,
    ),
    Case(
        name="stalls between headers and body",
        stream=(CHUNKED, Hangs()),
        sees_stream=refused(504, "upstream_timeout", "failed"),
        whole=(head("content-length: 99"), Hangs()),
        sees_whole=refused(504, "timeout", "cancelled"),
        is_hasty=True,
    ),
    Case(
        name="stalls after comments",
        stream=(*begun(b": ping\n\n", b": ping\n\n"), Hangs()),
        sees_stream=refused(504, "upstream_timeout", "failed"),
        is_hasty=True,
    ),
    Case(
        name="stalls after the role chunk",
        stream=(*begun(ROLE), Hangs()),
        sees_stream=cut("", code="upstream_timeout", **NOTHING_HEARD),
        is_hasty=True,
    ),
    Case(
        name="stalls between tokens",
        stream=(*begun(ROLE, ONE, TWO), Hangs()),
        sees_stream=cut("one two", 2, "upstream_timeout"),
        whole=(whole(ANSWER)[:-20], Hangs()),
        sees_whole=refused(504, "timeout", "cancelled"),
        is_hasty=True,
    ),
    Case(
        name="stalls within a refusal",
        stream=(head("content-length: 99", status="400 X"), Hangs()),
        sees_stream=refused(504, "upstream_timeout", "failed"),
        whole=(head("content-length: 99", status="400 X"), Hangs()),
        sees_whole=refused(504, "timeout", "cancelled"),
        is_hasty=True,
    ),
    Case(
        name="stalls after its end",
        stream=(*begun(*GOOD), Hangs()),
        sees_stream=answered(),
        is_hasty=True,
    ),
)

CUTS = (
    both("closes before the first byte", (Cuts(),), UNREACHABLE),
    both("resets before the first byte", (Cuts(is_reset=True),), UNREACHABLE),
    both("closes within the headers", (b"HTTP/1.1 200 OK\r\ncontent-", Cuts()), UNREACHABLE),
    Case(
        name="closes between headers and body",
        stream=(CHUNKED, Cuts()),
        sees_stream=BROKEN,
        whole=(head("content-length: 99"), Cuts()),
        sees_whole=BROKEN,
    ),
    Case(
        name="closes after the role chunk",
        stream=(*begun(ROLE), Relayed(), Cuts()),
        sees_stream=cut("", **NOTHING_HEARD),
    ),
    Case(
        name="closes in the middle of a token",
        stream=(*begun(ROLE, ONE, TWO), Relayed(), as_chunk(THREE[:40]), Cuts()),
        sees_stream=cut("one two", 2),
        whole=(whole(ANSWER)[:-20], Cuts()),
        sees_whole=BROKEN,
    ),
    Case(
        name="resets between tokens",
        stream=(*begun(ROLE, ONE, TWO), Relayed(), Cuts(is_reset=True)),
        sees_stream=cut("one two", 2),
    ),
    Case(
        name="closes in the middle of a character",
        stream=(*begun(ROLE, ONE, TWO), Relayed(), as_chunk(THREE[: THREE.index(b"\xc3") + 1]), Cuts()),
        sees_stream=cut("one two", 2),
        whole=(whole(ANSWER)[: whole(ANSWER).index(b"\xc3") + 1], Cuts()),
        sees_whole=BROKEN,
    ),
    Case(
        name="closes after the last token",
        stream=(*begun(ROLE, ONE, TWO, THREE), Relayed(), Cuts()),
        sees_stream=cut(TEXT, 3),
    ),
    Case(
        name="closes after the finish, before the usage",
        stream=(*begun(ROLE, ONE, TWO, THREE, FINISH), Relayed(), Cuts()),
        sees_stream=cut(TEXT, 3),
    ),
    Case(
        name="closes after the usage, before [DONE]",
        stream=(*begun(ROLE, ONE, TWO, THREE, FINISH, COUNT), Relayed(), Cuts()),
        sees_stream=cut(TEXT, 3, provenance="provider"),
    ),
    Case(name="closes after [DONE]", stream=(*begun(*GOOD), Cuts()), sees_stream=answered()),
)

UNFINISHED = (
    Case(name="ends after the role chunk", stream=stream(ROLE), sees_stream=cut("", **NOTHING_HEARD)),
    Case(name="ends in the middle", stream=stream(ROLE, ONE, TWO), sees_stream=cut("one two", 2)),
    Case(name="ends with [DONE] in the middle", stream=stream(ROLE, ONE, TWO, DONE), sees_stream=cut("one two", 2)),
    Case(name="ends within an event", stream=stream(ROLE, ONE, TWO, FINISH[:-1]), sees_stream=cut("one two", 2)),
    Case(name="ends without an event", stream=stream(), sees_stream=BROKEN),
    Case(name="ends with nothing but comments", stream=stream(b": ping\n\n"), sees_stream=BROKEN),
    Case(name="ends with nothing but [DONE]", stream=stream(DONE), sees_stream=BROKEN),
    Case(
        name="HTTP/1.0: ends after the role chunk",
        stream=(UNDELIMITED, ROLE, Relayed(), Cuts()),
        sees_stream=cut("", **NOTHING_HEARD),
    ),
    Case(
        name="HTTP/1.0: ends in the middle",
        stream=(UNDELIMITED, ROLE, ONE, TWO, Relayed(), Cuts()),
        sees_stream=cut("one two", 2),
        whole=(head("content-type: application/json", version="1.0"), ANSWER[:-9], Cuts()),
        sees_whole=BROKEN,
    ),
    Case(
        name="HTTP/1.0: ends after the finish, before [DONE]",
        stream=(UNDELIMITED, ROLE, ONE, TWO, THREE, FINISH, Relayed(), Cuts()),
        sees_stream=cut(TEXT, 3),
    ),
    Case(name="HTTP/1.0: ends without an event", stream=(UNDELIMITED, Cuts()), sees_stream=BROKEN),
    Case(
        name="HTTP/1.0: ends well",
        stream=(UNDELIMITED, *GOOD, Cuts()),
        sees_stream=answered(),
        whole=(head("content-type: application/json", version="1.0"), ANSWER, Cuts()),
        sees_whole=answered(),
    ),
    Case(name="ends after the finish, without [DONE]", stream=stream(*GOOD[:-1]), sees_stream=answered()),
)

NO_ANSWERS = (
    Case(
        name="an error object",
        stream=stream(event(error_body())),
        sees_stream=BROKEN,
        whole=(whole(error_body()),),
        sees_whole=BROKEN,
    ),
    Case(name="an error object after comments", stream=stream(b": ping\n\n", event(error_body())), sees_stream=BROKEN),
    Case(
        name="an error object in the middle",
        stream=stream(ROLE, ONE, TWO, event(error_body()), DONE),
        sees_stream=cut("one two", 2, "upstream_error", lacks=(b"secret detail",)),
    ),
    Case(name="an error object as JSON for a stream", stream=(whole(error_body()),), sees_stream=BROKEN),
    both("HTML", (whole(HTML, content_type="text/html"),), BROKEN),
    both("HTML called JSON", (whole(HTML),), BROKEN),
    Case(name="HTML called a stream", stream=(whole(HTML, content_type="text/event-stream"),), sees_stream=BROKEN),
    both("nothing", (head("content-length: 0"),), BROKEN),
    both("nothing called JSON", (whole(b""),), BROKEN),
    both("HTTP 204", (head(status="204 No Content"),), FAILED),
    both("an empty object", (whole(b"{}"),), BROKEN),
    both("a detail", (whole(b'{"detail":"secret detail"}'),), BROKEN),
    both("a list", (whole(b"[]"),), BROKEN),
    both("no choices", (whole(b'{"object":"chat.completion","choices":[]}'),), BROKEN),
    both("no UTF-8", (whole(ANSWER.replace(b"\xc3\xa9", b"\xc3")),), BROKEN),
    Case(
        name="nonsense",
        stream=stream(b"data: {nonsense\n\n"),
        sees_stream=BROKEN,
        whole=(whole(b"{nonsense"),),
        sees_whole=BROKEN,
    ),
    Case(
        name="nonsense in the middle",
        stream=stream(ROLE, ONE, TWO, b"data: {nonsense\n\n", THREE, FINISH, DONE),
        sees_stream=cut("one two", 2, "upstream_error"),
    ),
    Case(
        name="a broken character in the middle",
        stream=stream(ROLE, ONE, TWO, THREE.replace(b"\xc3\xa9", b"\xc3"), FINISH, DONE),
        sees_stream=cut("one two", 2, "upstream_error"),
    ),
    Case(
        name="an invalid chunk size in the middle",
        stream=(*begun(ROLE, ONE, TWO), Relayed(), b"zzz\r\n", Hangs()),
        sees_stream=cut("one two", 2),
        whole=(CHUNKED, as_chunk(ANSWER[:9]), b"zzz\r\n", Hangs()),
        sees_whole=BROKEN,
    ),
    both(
        "a length beside chunked coding",
        (
            head("content-type: text/event-stream", "content-length: 5", "transfer-encoding: chunked"),
            *map(as_chunk, GOOD),
            END,
        ),
        BROKEN,
    ),
    both("no HTTP", (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Hangs()), BROKEN),
    both("endless headers", (b"HTTP/1.1 200 OK\r\n", Floods(b"x-a: bcdefgh\r\n" * 99, 9_999)), BROKEN),
    both("an endless header", (b"HTTP/1.1 200 OK\r\nx: ", Floods(b"a" * 1000, 99_999)), BROKEN),
    Case(
        name="an endless event",
        stream=(CHUNKED, Floods(as_chunk(b"a" * 2**16), 9_999)),
        sees_stream=BROKEN,
    ),
    Case(
        name="an endless event in the middle",
        stream=(*begun(ROLE, ONE, TWO), Relayed(), as_chunk(b"data: "), Floods(as_chunk(b"a" * 2**16), 9_999)),
        sees_stream=cut("one two", 2, "upstream_error"),
    ),
    Case(
        name="an event of endless lines",
        stream=(CHUNKED, Floods(as_chunk(b"data: a\n" * 2**13), 9_999)),
        sees_stream=BROKEN,
    ),
    Case(
        name="endless comments",
        stream=(CHUNKED, Floods(as_chunk(b": ping\n\n" * 2**10), 10**9)),
        sees_stream=refused(504, "upstream_timeout", "failed"),
        is_hasty=True,
    ),
)

STATUSES = (
    both(
        "429 with Retry-After",
        refusal("429 X", "slow down", "retry-after: 7"),
        refused(429, "rate_limit_exceeded", headers={"retry-after": "7"}),
    ),
    both("429 without Retry-After", refusal("429 X", "slow down"), refused(429, "rate_limit_exceeded")),
    both("500", refusal("500 X"), FAILED),
    both("500 of a vLLM that drains", refusal("500 X", "cannot schedule new futures after shutdown"), FAILED),
    both("503", refusal("503 X"), FAILED),
    both(
        "503 with Retry-After",
        refusal("503 X", "secret detail", "retry-after: 9"),
        refused(502, "upstream_error", headers={"retry-after": "9"}),
    ),
    both(
        "401",
        refusal("401 X", f"Incorrect API key provided: {KEY}", "www-authenticate: Bearer"),
        refused(502, "upstream_credentials"),
    ),
    both("403", refusal("403 X", f"{KEY} may not"), refused(502, "upstream_credentials")),
    both(
        "400",
        refusal("400 X", "too long", code="context_length_exceeded"),
        refused(400, "context_length_exceeded", has=(b"too long",)),
    ),
    both("404", refusal("404 X", "no such model"), refused(404, None, has=(b"no such model",))),
    both("413", refusal("413 X", "too large"), refused(413, None, has=(b"too large",))),
    both(
        "422 as HTML", (whole(HTML, status="422 X", content_type="text/html"),), refused(422, None, lacks=(b"nginx",))
    ),
    both(
        "400 with the key in it",
        refusal("400 X", f"bad header 'Bearer {KEY}'", code=KEY, param=KEY, type=f"{KEY}_error"),
        refused(400, "[redacted]", has=(b"bad header 'Bearer [redacted]'",)),
    ),
    both(
        "400 with the key in its headers",
        refusal("400 X", "bad", f"x-echo: {KEY}", f"retry-after: {KEY}"),
        refused(400, None, has=(b"bad",)),
    ),
    both(
        "429 with the key in Retry-After",
        refusal("429 X", "bad", f"retry-after: {KEY}"),
        refused(429, "rate_limit_exceeded"),
    ),
    both(
        "400 in gzip",
        (whole(gzip.compress(error_body("too long")), "content-encoding: gzip", status="400 X"),),
        refused(400, None, has=(b"too long",)),
    ),
)

REDIRECTS = tuple(
    both(
        f"{status} to another place", (head("location: /elsewhere", "content-length: 0", status=f"{status} X"),), FAILED
    )
    for status in (301, 302, 303, 307, 308)
)

_CRLF = tuple(part.replace(b"\n", b"\r\n") for part in GOOD)
_CR = tuple(part.replace(b"\n", b"\r") for part in GOOD)
_FAR = b'{"id":"c-1","object":"chat.completion.chunk","created":1,\ndata: "model":"m",\ndata:"choices":['
_MANY_LINES = tuple(
    part.replace(b'{"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[', _FAR)
    for part in GOOD
)

FORMS = (
    Case(name="a good answer", stream=stream(*GOOD), sees_stream=answered(), whole=ANSWERS, sees_whole=answered()),
    Case(name="CRLF", stream=stream(*_CRLF), sees_stream=answered()),
    Case(name="CR", stream=stream(*_CR), sees_stream=answered()),
    Case(name="CRLF, a byte at a time", stream=stream(*(bytes([b]) for b in b"".join(_CRLF))), sees_stream=answered()),
    Case(name="a byte at a time", stream=stream(*(bytes([b]) for b in b"".join(GOOD))), sees_stream=answered()),
    Case(
        name="framing a byte at a time",
        stream=tuple(bytes([b]) for b in b"".join(part for part in stream(*GOOD) if isinstance(part, bytes))),
        sees_stream=answered(),
        whole=tuple(bytes([b]) for b in whole(ANSWER)),
        sees_whole=answered(),
    ),
    Case(name="all in one packet", stream=(CHUNKED + as_chunk(b"".join(GOOD)) + END,), sees_stream=answered()),
    Case(
        name="all but the headers in one packet",
        stream=(CHUNKED, as_chunk(b"".join(GOOD)) + END),
        sees_stream=answered(),
    ),
    Case(
        name="with a length", stream=(whole(b"".join(GOOD), content_type="text/event-stream"),), sees_stream=answered()
    ),
    Case(
        name="in chunks",
        whole=(
            head("content-type: application/json", "transfer-encoding: chunked"),
            *(as_chunk(ANSWER[n : n + 7]) for n in range(0, len(ANSWER), 7)),
            END,
        ),
        sees_whole=answered(),
    ),
    Case(
        name="comments, names, ids and retries",
        stream=stream(*(b": ping\nevent: message\nid: 7\nretry: 3\n" + part for part in GOOD)),
        sees_stream=answered(lacks=(b"id: 7", b": ping", b"retry:", b"event:")),
    ),
    Case(
        name="no space after data:",
        stream=stream(*(p.replace(b"data: ", b"data:") for p in GOOD)),
        sees_stream=answered(),
    ),
    Case(name="multi-line data", stream=stream(*_MANY_LINES), sees_stream=answered()),
    Case(
        name="events without data", stream=stream(*(b"data:\n\ndata\n\n\n\n" + p for p in GOOD)), sees_stream=answered()
    ),
    Case(name="a byte order mark", stream=stream(b"\xef\xbb\xbf", *GOOD), sees_stream=answered()),
    Case(
        name="a first event without choices",
        stream=stream(event(b'{"choices":[],"prompt_filter_results":[]}'), *GOOD),
        sees_stream=answered(has=(b"prompt_filter_results",)),
    ),
    Case(
        name="more after [DONE]",
        stream=stream(*GOOD, event(chunk_of({"content": "more"})), event(error_body())),
        sees_stream=answered(lacks=(b"more", b"secret detail")),
    ),
    Case(
        name="a second answer after the first",
        stream=(*stream(*GOOD), *stream(ROLE, ONE)),
        sees_stream=answered(),
        whole=(whole(ANSWER) + whole(body_of("forged")),),
        sees_whole=answered(lacks=(b"forged",)),
    ),
    both(
        "60 kB of headers",
        (
            whole(
                b'{"error":{"message":"read","code":"read"}}',
                *(f"x-{n}: {'a' * 1000}" for n in range(60)),
                status="400 X",
            ),
        ),
        refused(400, "read", lacks=(b"aaaa",)),
    ),
    both("300 kB of headers", (whole(ANSWER, *(f"x-{n}: {'a' * 3000}" for n in range(100))),), BROKEN),
    both(
        "early hints",
        (head("link: </x>", status="103 Early Hints"), refusal("400 X", "read")[0]),
        refused(400, None, has=(b"read",)),
    ),
    Case(
        name="headers of every kind",
        stream=(
            head(
                "content-type: text/event-stream",
                "transfer-encoding: chunked",
                "set-cookie: a=b",
                "x-request-id: theirs",
                f"authorization: Bearer {KEY}",
                "openai-organization: theirs",
                "x-ratelimit-remaining-requests: 1",
            ),
            *map(as_chunk, GOOD),
            END,
        ),
        sees_stream=answered(),
        whole=(whole(ANSWER, "set-cookie: a=b", "x-request-id: theirs", f"x-echo: {KEY}", "keep-alive: timeout=1"),),
        sees_whole=answered(),
    ),
    Case(
        name="the key in an answer",
        stream=stream(
            ROLE,
            ONE,
            event(chunk_of({"content": " two"}, headers={"authorization": f"Bearer {KEY}"})),
            THREE,
            FINISH,
            COUNT,
            DONE,
        ),
        sees_stream=answered(has=(b"Bearer [redacted]",)),
        whole=(whole(body_of(headers={"authorization": f"Bearer {KEY}"})),),
        sees_whole=answered(has=(b"Bearer [redacted]",)),
    ),
)

_ZEROS = tuple(
    event(chunk_of(delta, finish, usage=NO_USAGE))
    for delta, finish in (
        ({"role": "assistant", "content": ""}, None),
        ({"content": "one"}, None),
        ({"content": " two"}, None),
        ({"content": " thr\u00e9e"}, None),
        ({}, "stop"),
    )
)
_PARTIALS = tuple(
    event(chunk_of(delta, finish, usage={"prompt_tokens": 11, "completion_tokens": n, "total_tokens": 11 + n}))
    for n, (delta, finish) in enumerate(
        (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "one"}, None),
            ({"content": " two"}, None),
            ({"content": " thr\u00e9e"}, None),
        )
    )
)
_ASKS_USAGE = {"stream_options": {"include_usage": True}}
_UNUSED = (b'"usage"',)

USAGES = (
    Case(
        name="no usage",
        stream=stream(*GOOD[:5], DONE),
        sees_stream=answered(provenance="counted", lacks=_UNUSED),
        whole=(whole(body_of(usage=None)),),
        sees_whole=answered(output=None, provenance="estimated"),
    ),
    Case(
        name="no usage, asked for",
        stream=stream(*GOOD[:5], DONE),
        sees_stream=answered(provenance="counted", has=_UNUSED),
        request=_ASKS_USAGE,
    ),
    Case(
        name="usage of null",
        stream=stream(
            *(event(chunk_of({"content": t}, usage=None)) for t in ("one", " two", " thr\u00e9e")), FINISH, DONE
        ),
        sees_stream=answered(provenance="counted"),
        whole=(whole(body_of(usage=None)[:-1] + b',"usage":null}'),),
        sees_whole=answered(output=None, provenance="estimated"),
    ),
    Case(
        name="zero usage on every chunk",
        stream=stream(*_ZEROS, DONE),
        sees_stream=answered(provenance="counted", lacks=_UNUSED),
        whole=(whole(body_of(usage=NO_USAGE)),),
        sees_whole=answered(output=None, provenance="estimated"),
    ),
    Case(
        name="zero usage, then the true one", stream=stream(*_ZEROS, COUNT, DONE), sees_stream=answered(lacks=_UNUSED)
    ),
    Case(
        name="the true usage, then zero",
        stream=stream(
            *GOOD[:4], event(chunk_of({}, "stop", usage=USAGE)), event(dump({"choices": [], "usage": NO_USAGE})), DONE
        ),
        sees_stream=answered(lacks=_UNUSED),
    ),
    Case(
        name="usage on every chunk", stream=stream(*_PARTIALS, FINISH, COUNT, DONE), sees_stream=answered(lacks=_UNUSED)
    ),
    Case(
        name="usage on every chunk, then a cut",
        stream=(*begun(*_PARTIALS[:3]), Relayed(), Cuts()),
        sees_stream=cut("one two", 2, provenance="provider"),
    ),
    Case(
        name="usage of the input only",
        stream=stream(*GOOD[:5], event(dump({"choices": [], "usage": {"prompt_tokens": 11}})), DONE),
        sees_stream=answered(provenance="counted"),
        whole=(whole(body_of(usage={"prompt_tokens": 11})),),
        sees_whole=answered(output=None, provenance="estimated"),
    ),
    Case(
        name="usage with the finish",
        stream=stream(*GOOD[:4], event(chunk_of({}, "stop", usage=USAGE)), DONE),
        sees_stream=answered(lacks=_UNUSED),
    ),
    Case(
        name="usage in a chunk without choices, asked for",
        stream=stream(*GOOD),
        sees_stream=answered(
            has=(b'"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14',)
        ),
        request=_ASKS_USAGE,
    ),
)

_CALLED = body_of(None, message={"tool_calls": [CALL, CALL | {"id": "call-2"}]}).replace(b'"stop"', b'"tool_calls"')
_THOUGHT = body_of(message={"reasoning_content": "hm"}, system_fingerprint="fp-1")

PLAIN = (
    Case(name="plain JSON for a stream", stream=ANSWERS, sees_stream=answered(lacks=(*_UNUSED, b'"message"'))),
    Case(
        name="plain JSON for a stream, usage asked for",
        stream=ANSWERS,
        sees_stream=answered(has=(b'"choices":[],"usage":{"prompt_tokens":11',)),
        request=_ASKS_USAGE,
    ),
    Case(
        name="plain JSON without usage for a stream",
        stream=(whole(body_of(usage=None)),),
        sees_stream=answered(output=None, provenance="estimated"),
    ),
    Case(
        name="plain JSON with a charset",
        stream=(whole(ANSWER, content_type="application/json; charset=utf-8"),),
        sees_stream=answered(),
    ),
    Case(
        name="plain JSON without a type",
        stream=(head(f"content-length: {len(ANSWER)}"), ANSWER),
        sees_stream=answered(),
        whole=(head(f"content-length: {len(ANSWER)}"), ANSWER),
        sees_whole=answered(),
    ),
    Case(
        name="plain JSON called a stream",
        stream=(whole(ANSWER, content_type="text/event-stream"),),
        sees_stream=answered(),
    ),
    Case(
        name="plain JSON with tool calls",
        stream=(whole(_CALLED),),
        sees_stream=answered(
            text="", has=(b'"index":0,"id":"call-1"', b'"index":1,"id":"call-2"', b'"finish_reason":"tool_calls"')
        ),
        whole=(whole(_CALLED),),
        sees_whole=answered(text="", has=(b'"call-2"',)),
    ),
    Case(
        name="plain JSON with reasoning and a fingerprint",
        stream=(whole(_THOUGHT),),
        sees_stream=answered(has=(b'"reasoning_content":"hm"', b'"system_fingerprint":"fp-1"')),
    ),
    Case(name="plain JSON that is cut", stream=(whole(ANSWER)[:-20], Cuts()), sees_stream=BROKEN),
    Case(
        name="plain JSON that stalls",
        stream=(whole(ANSWER)[:-20], Hangs()),
        sees_stream=refused(504, "upstream_timeout", "failed"),
        is_hasty=True,
    ),
)

_NUMBERS = (
    b'"x_big":12345678901234567890,"x_small":1e-7,"x_zero":-0.0,'
    b'"x_text":"\\u00e9\\/ \xc3\xa9","x_deep":{ "a" : [1.50, 1E5 ] }'
)
_ODD = tuple(part.replace(b'"created":1', b'"created":1,' + _NUMBERS) for part in GOOD)
_ODD_ANSWER = ANSWER.replace(b'"created":1', b'"created":1,' + _NUMBERS)

FIELDS = (
    Case(
        name="unknown fields and odd numbers",
        stream=stream(*_ODD),
        sees_stream=answered(has=_ODD[:5]),
        whole=(whole(_ODD_ANSWER),),
        sees_whole=answered(has=(_NUMBERS,)),
    ),
    Case(
        name="unknown fields beside usage",
        stream=stream(
            *GOOD[:4],
            event(chunk_of({}, "stop", usage=USAGE).replace(b'"created":1', b'"created":1,' + _NUMBERS)),
            DONE,
        ),
        sees_stream=answered(has=(_NUMBERS,)),
    ),
    Case(
        name="unknown fields in plain JSON for a stream",
        stream=(whole(_ODD_ANSWER),),
        sees_stream=answered(has=(_NUMBERS,)),
    ),
)


_LEGACY = {"surface": "completions", "request": {"prompt": "What is it?"}}
_WRITTEN = dump(
    {"id": "c-1", "object": "text_completion", "choices": [{"index": 0, "text": TEXT, "finish_reason": "stop"}]}
)
_LEGACY_EVENTS = tuple(
    event(dump({"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": finish}]}))
    for text, finish in (("one", None), (" two", None), (" thr\u00e9e", None), ("", "stop"))
)
_EMBEDDED = dump({"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}})
_EMBEDS = {"surface": "embeddings", "request": {"input": "What is it?"}}
_UNTOLD = Seen(booked=Booked(kind="answer", output=0, provenance="estimated"))

SURFACES = (
    Case(
        name="a legacy completion",
        stream=stream(*_LEGACY_EVENTS, DONE),
        sees_stream=COUNTED,
        whole=(whole(_WRITTEN),),
        sees_whole=answered(output=None, provenance="estimated"),
        **_LEGACY,
    ),
    Case(
        name="a legacy completion that is cut",
        stream=stream(*_LEGACY_EVENTS[:2]),
        sees_stream=cut("one two", 2),
        whole=(whole(_WRITTEN)[:-20], Cuts()),
        sees_whole=BROKEN,
        **_LEGACY,
    ),
    Case(
        name="a legacy completion as plain JSON for a stream",
        stream=(whole(_WRITTEN),),
        sees_stream=answered(output=None, provenance="estimated"),
        **_LEGACY,
    ),
    Case(name="embeddings", whole=(whole(_EMBEDDED),), sees_whole=answered("", 0), **_EMBEDS),
    Case(
        name="embeddings without usage",
        whole=(whole(_EMBEDDED.replace(b"usage", b"other")),),
        sees_whole=_UNTOLD,
        **_EMBEDS,
    ),
    Case(name="HTML for embeddings", whole=(whole(HTML),), sees_whole=BROKEN, **_EMBEDS),
    Case(name="an empty object for embeddings", whole=(whole(b"{}"),), sees_whole=BROKEN, **_EMBEDS),
    Case(name="embeddings that are cut", whole=(whole(_EMBEDDED)[:-9], Cuts()), sees_whole=BROKEN, **_EMBEDS),
)


def _packed(data: bytes, *, coding: str, content_type: str = "application/json") -> tuple[Step, ...]:
    packer = zlib.compressobj(wbits={"gzip": 31, "deflate": 15}[coding])
    packed = packer.compress(data) + packer.flush()
    return (whole(packed, f"content-encoding: {coding}", content_type=content_type),)


def _flushed(events: tuple[bytes, ...]) -> list[bytes]:
    packer = zlib.compressobj(wbits=31)
    return [*(packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in events), packer.flush()]


_PACKED = head("content-type: text/event-stream", "content-encoding: GZIP", "transfer-encoding: chunked")


def _bomb(megabytes: int) -> bytes:
    """Return the beginning of a gzip body that becomes a thousand times larger."""
    packer = zlib.compressobj(wbits=31)
    first, more = (packer.compress(b" " * 2**20) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + more * (megabytes - 1)


_BOMB = _bomb(200)

CODINGS = (
    *(
        Case(
            name=f"{coding} although identity was asked for",
            stream=_packed(b"".join(GOOD), coding=coding, content_type="text/event-stream"),
            sees_stream=answered(),
            whole=_packed(ANSWER, coding=coding),
            sees_whole=answered(),
        )
        for coding in ("gzip", "deflate")
    ),
    Case(
        name="gzip, flushed after each event, that ends in the middle",
        stream=(_PACKED, *map(as_chunk, _flushed((ROLE, ONE, TWO))[:-1]), END),
        sees_stream=cut("one two", 2),
        whole=(whole(gzip.compress(ANSWER)[:-12], "content-encoding: gzip"),),
        sees_whole=BROKEN,
    ),
    Case(
        name="gzip that is none",
        stream=(_PACKED, as_chunk(b"".join(GOOD)), END),
        sees_stream=BROKEN,
        whole=(whole(ANSWER, "content-encoding: gzip"),),
        sees_whole=BROKEN,
    ),
    Case(
        name="a gzip bomb",
        stream=(_PACKED, as_chunk(_BOMB), END),
        sees_stream=BROKEN,
        whole=(whole(_BOMB, "content-encoding: gzip"),),
        sees_whole=BROKEN,
    ),
    both("a coding nobody asked for", (whole(b"\x0b\x02\x80{}\x03", "content-encoding: br"),), BROKEN),
    Case(
        name="identity",
        stream=(whole(b"".join(GOOD), "content-encoding: identity", content_type="text/event-stream"),),
        sees_stream=answered(),
        whole=(whole(ANSWER, "content-encoding: identity"),),
        sees_whole=answered(),
    ),
)

CASES = (
    *SILENT,
    *CUTS,
    *UNFINISHED,
    *NO_ANSWERS,
    *STATUSES,
    *REDIRECTS,
    *FORMS,
    *USAGES,
    *PLAIN,
    *FIELDS,
    *SURFACES,
    *CODINGS,
)


def play_of(script: Script, relayed: Hangs) -> Play:
    """Return a script as what a server does; `relayed` waits for the client."""
    return [relayed if isinstance(step, Relayed) else step for step in script]
