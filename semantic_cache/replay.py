"""Serving a stored answer: as JSON, or as the stream it would have been."""

from __future__ import annotations

from datetime import datetime

import msgspec

from backends.restream import spread
from backends.words import RequestId

_encode = msgspec.json.encode


def replay_whole(payload: bytes, *, request_id: RequestId, now: datetime) -> bytes:
    """Return the stored body under this request's id and time."""
    return _encode(replay_fields(payload, request_id=request_id, now=now))


def replay_fields(payload: bytes, *, request_id: RequestId, now: datetime) -> dict[str, msgspec.Raw]:
    """Return the fields of what `replay_whole` returns, each as JSON."""
    fields = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    is_chat = bytes(fields.get("object", b"")) != b'"text_completion"'
    for name, value in (("id", _id(request_id, is_chat=is_chat)), ("created", int(now.timestamp()))):
        if name in fields:
            fields[name] = msgspec.Raw(_encode(value))
    return fields


def replay_chunks(payload: bytes, *, request_id: RequestId, now: datetime) -> list[bytes]:
    """Return the events' JSON of a stream that says what the stored body says, without usage and `[DONE]`.

    Each choice gets a role chunk, its content (text, tool calls, refusal), and its finish. Legacy completions have no
    role chunk.
    """
    events, _ = spread(replay_whole(payload, request_id=request_id, now=now))
    return events


def _id(request_id: RequestId, *, is_chat: bool) -> str:
    return f"{'chatcmpl' if is_chat else 'cmpl'}-{request_id}"
