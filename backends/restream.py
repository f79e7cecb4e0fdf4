"""A whole answer as the stream it would have been: for a stored one, and for an upstream that does not stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from backends.words import JsonValue

Raws = Mapping[str, msgspec.Raw]

_encode = msgspec.json.encode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode

_NULL = msgspec.Raw(b"null")
_OBJECTS = {b'"chat.completion"': msgspec.Raw(b'"chat.completion.chunk"')}
_SAID_ELSEWHERE = frozenset({"index", "message", "text", "logprobs", "finish_reason"})


def spread(body: bytes) -> tuple[list[bytes], msgspec.Raw | None]:
    """Return the events' JSON of a stream that says what a body says, and the body's usage; `[DONE]` is the caller's.

    Each choice gets a role event (legacy completions have none), one with all it says, and its finish. What is not
    known here is kept as it was written: of the body in every event, of a choice in its last.

    Raises:
        msgspec.DecodeError: the body is no answer.
    """
    fields = _fields(body)
    usage = fields.pop("usage", _NULL)
    choices = _choices(fields.pop("choices"))
    head = {name: value for name, value in fields.items() if bytes(value) != b"null"}
    if "object" in head:
        head["object"] = _OBJECTS.get(bytes(head["object"]), head["object"])
    events = [
        _encode({**head, "choices": [part]}) for place, choice in enumerate(choices) for part in _parts(choice, place)
    ]
    return events, None if bytes(usage) == b"null" else usage


def usage_event(event: bytes, usage: msgspec.Raw) -> bytes:
    """Return the event that tells usage at the end of the stream that another event is of."""
    return _encode({**_fields(event), "choices": [], "usage": usage})


def _parts(choice: Raws, place: int) -> Iterator[dict[str, JsonValue]]:
    index = choice.get("index", place)
    finish = choice.get("finish_reason", _NULL)
    logprobs = choice.get("logprobs", _NULL)
    others = {name: value for name, value in choice.items() if name not in _SAID_ELSEWHERE}

    def part(said: dict[str, JsonValue], logprobs: msgspec.Raw = _NULL, end: JsonValue = None) -> dict[str, JsonValue]:
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": end}

    if "message" not in choice:
        yield part({"text": choice.get("text", "")}, logprobs)
        yield part({"text": ""}, end=_finish(finish, is_call=False)) | others
        return
    message = _fields(choice["message"])
    yield part({"delta": {"role": message.get("role", "assistant"), "content": ""}})
    yield part({"delta": _delta(message)}, logprobs)
    yield part({"delta": {}}, end=_finish(finish, is_call="tool_calls" in message)) | others


def _finish(given: msgspec.Raw, *, is_call: bool) -> JsonValue:
    # A complete body without a reason is complete all the same, and a stream without one would be a cut.
    return given if bytes(given) != b"null" else "tool_calls" if is_call else "stop"


def _delta(message: Raws) -> dict[str, JsonValue]:
    delta: dict[str, JsonValue] = {
        name: value for name, value in message.items() if name != "role" and bytes(value) != b"null"
    }
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(_choices(delta["tool_calls"]))]
    return delta
