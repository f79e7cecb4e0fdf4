"""Reading what an OpenAI-compatible upstream answers: one event's or one body's JSON to a `Chunk` or a `Whole`."""

from __future__ import annotations

import msgspec

from backends.errors import ReplyMalformed
from backends.words import Chunk, JsonValue, Provenance, TokenLogprob, Usage, Whole


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


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: JsonValue = None
    data: msgspec.Raw = msgspec.Raw(b"null")  # embeddings; `Raw | None` would take null only


_decode = msgspec.json.Decoder(_Reply).decode

_TOKENS_LIMIT = 10**9
"""No attempt reads or writes more tokens."""


def read_chunk(payload: bytes) -> Chunk:
    """Read one event of a stream.

    Raises:
        ReplyMalformed: not JSON of the protocol's shape, or an error object.
    """
    reply = _read(payload)
    choices = reply.choices or []
    first = next((choice for choice in choices if choice.index == 0), None)
    delta = first.delta if first is not None else None
    text = (delta.content if delta is not None else first.text) if first is not None else None
    content = text if isinstance(text, str) else ""
    return Chunk(
        payload=payload,
        content=content,
        tokens=_tokens(first),
        usage=_usage(reply.usage),
        finish_reason=first.finish_reason if first is not None else None,
        has_choices=bool(choices),
        has_other=len(choices) > 1 or (first is None and bool(choices)) or (delta is not None and _has_more(delta)),
    )


def _has_more(delta: _Delta) -> bool:
    # vLLM calls its reasoning `reasoning` since 0.11; others still say `reasoning_content`.
    return any((delta.tool_calls, delta.function_call, delta.refusal, delta.reasoning_content, delta.reasoning))


def read_whole(payload: bytes) -> Whole:
    """Read a complete answer: chat, legacy completion or embeddings.

    Raises:
        ReplyMalformed: not JSON of the protocol's shape, or an error object.
    """
    reply = _read(payload)
    first = next((choice for choice in reply.choices or () if choice.index == 0), None)
    text = (first.message.content if first.message is not None else first.text) if first is not None else None
    return Whole(
        payload=payload,
        content=text if isinstance(text, str) else "",
        tokens=_tokens(first),
        usage=_usage(reply.usage),
        finish_reason=first.finish_reason if first is not None else None,
        has_answer=bool(reply.choices) or bytes(reply.data) != b"null",
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


def _usage(usage: _Usage | None) -> Usage | None:
    """Split OpenAI's usage, where cached input and reasoning are inside the totals, into disjoint classes."""
    if usage is None or usage.prompt_tokens is None:
        return None
    total_in, total_out = max(0, usage.prompt_tokens), max(0, usage.completion_tokens or 0)
    if max(total_in, total_out) > _TOKENS_LIMIT:
        return None  # broken: such a charge would not fit the ledger's integers
    details_in, details_out = usage.prompt_tokens_details, usage.completion_tokens_details
    # A part larger than its whole is a broken report: the whole bounds it, so that no class becomes negative.
    cached = min(total_in, max(0, (details_in.cached_tokens or 0) if details_in else 0))
    reasoning = min(total_out, max(0, (details_out.reasoning_tokens or 0) if details_out else 0))
    return Usage(
        input_tokens=total_in - cached,
        cached_input_tokens=cached,
        output_tokens=total_out - reasoning,
        reasoning_tokens=reasoning,
        input_provenance=Provenance.PROVIDER,
        output_provenance=Provenance.PROVIDER,
    )
