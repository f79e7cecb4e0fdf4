"""What upstreams say on the wall, as bytes: events, whole answers, streams, and everything that is neither."""

from __future__ import annotations

import json

from backends.words import JsonValue
from tests.wall.server import Step, as_chunk, head, whole

KEY = "sk-operators-own-4711"
"""The operator's key of every pool: no client and no log may see it."""

TOKENS = ("one", " two", " thr\u00e9e")
TEXT = "".join(TOKENS)

USAGE: JsonValue = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
NO_USAGE: JsonValue = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

CHUNKED = head("content-type: text/event-stream; charset=utf-8", "transfer-encoding: chunked")
UNDELIMITED = head("content-type: text/event-stream", version="1.0")
END = b"0\r\n\r\n"


def dump(value: JsonValue) -> bytes:
    """Return JSON with its UTF-8 as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def chunk_of(delta: JsonValue, finish: str | None = None, **fields: JsonValue) -> bytes:
    """Return one event's JSON."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return dump(
        {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]} | fields
    )


def event(data: bytes, *, line_end: bytes = b"\n") -> bytes:
    """Return data as one event."""
    return b"data: " + data + line_end * 2


ROLE = event(chunk_of({"role": "assistant", "content": ""}))
ONE, TWO, THREE = (event(chunk_of({"content": token})) for token in TOKENS)
FINISH = event(chunk_of({}, "stop"))
COUNT = event(
    dump({"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": USAGE})
)
DONE = event(b"[DONE]")
GOOD = (ROLE, ONE, TWO, THREE, FINISH, COUNT, DONE)
"""A good stream's events."""


def stream(*events: bytes) -> tuple[Step, ...]:
    """Return a stream in chunked coding, each event a packet, that ends as its framing wants."""
    return (CHUNKED, *map(as_chunk, events), END)


def begun(*events: bytes) -> tuple[Step, ...]:
    """Return the beginning of such a stream."""
    return (CHUNKED, *map(as_chunk, events))


def body_of(
    text: str | None = TEXT, *, usage: JsonValue = USAGE, message: JsonValue = None, **fields: JsonValue
) -> bytes:
    """Return a whole answer's JSON."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | (message or {}), "finish_reason": "stop"}
    counted = {} if usage is None else {"usage": usage}
    return dump(
        {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | counted | fields
    )


def error_body(message: str = "secret detail", **fields: JsonValue) -> bytes:
    """Return an error in OpenAI's shape."""
    return dump({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None} | fields})


def refusal(status: str, message: str = "secret detail", *lines: str, **fields: JsonValue) -> tuple[Step, ...]:
    """Return a complete error response."""
    return (whole(error_body(message, **fields), *lines, status=status),)


ANSWER = body_of()
ANSWERS = (whole(ANSWER),)
HTML = b"<!doctype html><html><body>Welcome to nginx!</body></html>"
CALL: JsonValue = {"id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
