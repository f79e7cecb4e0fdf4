"""Reading what an OpenAI-compatible upstream answers: one event's or one body's JSON to a `Chunk` or a `Whole`."""

from __future__ import annotations

import msgspec

from backends.errors import ReplyMalformed
from backends.usage import read_usage
from backends.words import Chunk, JsonValue, TokenLogprob, Usage, Whole

_NONE = msgspec.Raw()
_NULL = msgspec.Raw(b"null")

_NAME_LIMIT_CHARACTERS = 256
"""An upstream's id or tier is kept on the ledger's row: longer ones are cut."""


class _Top(msgspec.Struct):
    logprob: float = 0.0


class _Token(msgspec.Struct):
    logprob: float = 0.0
    top_logprobs: list[_Top] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Delta(msgspec.Struct):
    content: JsonValue = None
    reasoning_content: JsonValue = None
    reasoning: JsonValue = None
    refusal: JsonValue = None
    tool_calls: JsonValue = None
    function_call: JsonValue = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None
    # Legacy completions put a differently shaped object here, which no judge reads.
    logprobs: JsonValue = None
    finish_reason: str | None = None


class _Reply(msgspec.Struct, rename={"usage_metadata": "usageMetadata", "response_id": "responseId"}):
    choices: list[_Choice] | None = None
    # Kept as it came, and read by `backends.usage`: a usage of an unknown shape must not cost the answer.
    usage: msgspec.Raw = _NONE
    error: JsonValue = None
    data: msgspec.Raw = msgspec.Raw(b"null")  # embeddings; `Raw | None` would take null only
    id: JsonValue = None
    service_tier: JsonValue = None
    x_groq: msgspec.Raw = _NONE
    usage_metadata: msgspec.Raw = _NONE
    response_id: JsonValue = None
    message: msgspec.Raw = _NONE
    meta: msgspec.Raw = _NONE


class _Wrapped(msgspec.Struct):
    """What holds a usage of its own: Groq's `x_groq`, the `message` of Anthropic's first event."""

    usage: msgspec.Raw = _NONE
    id: JsonValue = None
    service_tier: JsonValue = None


_decode = msgspec.json.Decoder(_Reply).decode
_decode_wrapped = msgspec.json.Decoder(_Wrapped).decode


def read_chunk(payload: bytes) -> Chunk:
    """Read one event of a stream.

    Raises:
        ReplyMalformed: not JSON of the protocol's shape, or an error object.
    """
    reply = _read(payload)
    choices = reply.choices or []
    first = _first(choices)
    delta = first.delta if first is not None else None
    text = (delta.content if delta is not None else first.text) if first is not None else None
    return Chunk(
        payload=payload,
        content=text if isinstance(text, str) else "",
        tokens=_tokens(first),
        usage=_usage(reply) if b"usage" in payload else None,
        finish_reason=first.finish_reason if first is not None else None,
        response_id=_name(reply.id or reply.response_id),
        tier=_name(reply.service_tier),
        has_choices=bool(choices),
        has_usage=bool(reply.usage) and reply.usage != _NULL,
        has_other=len(choices) > 1 or (first is None and bool(choices)) or (delta is not None and _has_more(delta)),
    )


def _first(choices: list[_Choice]) -> _Choice | None:
    """Return choice 0, which nearly always comes first: this runs for every token."""
    if choices and choices[0].index == 0:
        return choices[0]
    return next((choice for choice in choices if choice.index == 0), None)


def _has_more(delta: _Delta) -> bool:
    # vLLM calls its reasoning `reasoning` since 0.11; others still say `reasoning_content`.
    return bool(delta.tool_calls or delta.function_call or delta.refusal or delta.reasoning_content or delta.reasoning)


def read_whole(payload: bytes) -> Whole:
    """Read a complete answer: chat, legacy completion or embeddings.

    Raises:
        ReplyMalformed: not JSON of the protocol's shape, or an error object.
    """
    reply = _read(payload)
    first = _first(reply.choices or [])
    text = (first.message.content if first.message is not None else first.text) if first is not None else None
    return Whole(
        payload=payload,
        content=text if isinstance(text, str) else "",
        tokens=_tokens(first),
        usage=_usage(reply),
        finish_reason=first.finish_reason if first is not None else None,
        has_answer=bool(reply.choices) or bytes(reply.data) != b"null",
        stated_usage=bytes(reply.usage),
        response_id=_name(reply.id or reply.response_id),
        tier=_name(reply.service_tier),
    )


def _read(payload: bytes) -> _Reply:
    try:
        reply = _decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        # The text itself may hold prompts or keys: only its size is said.
        raise ReplyMalformed(f"the upstream's JSON ({len(payload)} bytes) is not an answer") from error
    if reply.error:
        raise ReplyMalformed("the upstream sent an error object in place of an answer")
    return reply


def _tokens(choice: _Choice | None) -> tuple[TokenLogprob, ...]:
    if choice is None or not isinstance(choice.logprobs, dict) or not choice.logprobs.get("content"):
        return ()
    try:
        content = msgspec.convert(choice.logprobs, _Logprobs).content or []
    except msgspec.ValidationError:
        return ()
    return tuple(
        TokenLogprob(
            token.logprob,
            tuple(sorted((alternative.logprob for alternative in token.top_logprobs or ()), reverse=True)),
        )
        for token in content
    )


def _usage(reply: _Reply) -> Usage | None:
    """Return what the answer says it used; a vendor's own field counts only where the usual one is empty."""
    raw = reply.usage
    if raw and raw != _NULL:
        return read_usage(bytes(raw), is_embedding=reply.choices is None)
    if reply.usage_metadata:
        return read_usage(bytes(reply.usage_metadata))
    for holder in (reply.x_groq, reply.message):
        if holder and holder != _NULL and (inner := _inner_usage(bytes(holder))) is not None:
            return inner
    return read_usage(bytes(reply.meta)) if reply.meta else None


def _inner_usage(payload: bytes) -> Usage | None:
    try:
        wrapped = _decode_wrapped(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    return read_usage(bytes(wrapped.usage)) if wrapped.usage else None


def _name(value: JsonValue) -> str | None:
    return value[:_NAME_LIMIT_CHARACTERS] if isinstance(value, str) and value else None
