"""Serving a stored answer: as JSON, or as the stream it would have been."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from backends.words import JsonValue, RequestId

_encode = msgspec.json.encode


def replay_whole(payload: bytes, *, request_id: RequestId, now: datetime) -> bytes:
    """Return the stored body under this request's id and time."""
    fields = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    is_chat = bytes(fields.get("object", b"")) != b'"text_completion"'
    for name, value in (("id", _id(request_id, is_chat=is_chat)), ("created", int(now.timestamp()))):
        if name in fields:
            fields[name] = msgspec.Raw(_encode(value))
    return _encode(fields)


def replay_chunks(payload: bytes, *, request_id: RequestId, now: datetime) -> Iterator[bytes]:
    """Yield the events' JSON of a stream that says what the stored body says, without usage and `[DONE]`.

    Each choice gets a role chunk, its content (text, tool calls, refusal), and its finish. Legacy completions have no
    role chunk.
    """
    body: dict[str, JsonValue] = msgspec.json.decode(payload)
    is_chat = body.get("object") == "chat.completion"
    head = {
        "id": _id(request_id, is_chat=is_chat),
        "object": "chat.completion.chunk" if is_chat else "text_completion",
        "created": int(now.timestamp()),
        "model": body.get("model"),
    }

    def event(index: int, part: dict[str, JsonValue], finish: str | None) -> bytes:
        return _encode({**head, "choices": [{"index": index, **part, "logprobs": None, "finish_reason": finish}]})

    for choice in body["choices"]:
        index = choice.get("index", 0)
        if is_chat:
            yield event(index, {"delta": {"role": "assistant", "content": ""}}, None)
            yield event(index, {"delta": _delta(choice["message"])}, None)
            yield event(index, {"delta": {}}, choice.get("finish_reason"))
        else:
            yield event(index, {"text": choice.get("text", "")}, None)
            yield event(index, {"text": ""}, choice.get("finish_reason"))


def assemble_whole(last_payload: bytes, *, content: str, finish_reason: str, usage: JsonValue) -> bytes | None:
    """Return the body of the answer whose stream said `content`, None when the stream's events are no chat chunks.

    Args:
        last_payload: any event of the stream: id, model and fingerprint are the same in all of them.
        content: all the text of choice 0; streams with anything else are not assembled.
        finish_reason: as the stream said it.
        usage: OpenAI's usage object for the answer.
    """
    fields: dict[str, JsonValue] = msgspec.json.decode(last_payload)
    if fields.get("object") != "chat.completion.chunk":
        return None
    kept = {
        name: fields[name]
        for name in ("id", "created", "model", "system_fingerprint", "service_tier")
        if name in fields
    }
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return _encode({**kept, "object": "chat.completion", "choices": [choice], "usage": usage})


def _delta(message: dict[str, JsonValue]) -> dict[str, JsonValue]:
    delta = {name: value for name, value in message.items() if name != "role" and value is not None}
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return delta


def _id(request_id: RequestId, *, is_chat: bool) -> str:
    return f"{'chatcmpl' if is_chat else 'cmpl'}-{request_id}"
