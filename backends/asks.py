"""Reading a client's body, and writing the body that goes upstream.

The top level is decoded into raw fields once; what nobody changes is sent on byte for byte, so that 20-digit integers
and -0.0 in fields we do not know arrive as they were sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from backends.errors import AskInvalid
from backends.words import Ask, Capability, JsonValue, Message, Surface

_NOT_THE_CLIENTS = frozenset(
    {
        "api_base",
        "api_key",
        "api_type",
        "api_version",
        "aws_access_key_id",
        "aws_bedrock_runtime_endpoint",
        "aws_secret_access_key",
        "aws_session_token",
        "azure_ad_token",
        "azure_endpoint",
        "base_url",
        "custom_llm_provider",
        "default_headers",
        "extra_headers",
        "litellm_params",
        "vertex_credentials",
        "vertex_location",
        "vertex_project",
    }
)
"""Clients cannot choose the upstream, its key or its headers: LiteLLM passed these on and leaked operators' keys (its
#31467). They are dropped, not refused: clients that were written for such gateways send them out of habit, and they
change nothing here, not even what the caches take for the same request."""

_DROPPED_WHEN_NULL = frozenset({"encoding_format", "dimensions", "user", "stop", "stream_options"})
"""Some clients send null for "not set", which llama.cpp refuses with 400."""

_READ_BY_MODELS = ("messages", "prompt", "input", "tools")
_CAPS = ("max_completion_tokens", "max_tokens")

_CHOICES_LIMIT = 128

_OUTPUT_LIMIT_TOKENS = 10_000_000
_TOKENS_LIMIT = 10**9
"""No model answers more; a larger cap would reserve more money than the ledger's integers hold."""


_LARGE_BYTES = 2**20

_NULL = msgspec.Raw(b"null")


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None


class _Turn(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: msgspec.Raw = _NULL  # `Raw | None` would take null only


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _JsonSchema(msgspec.Struct):
    schema: JsonValue = None


class _ResponseFormat(msgspec.Struct):
    type: str = "text"
    json_schema: _JsonSchema | None = None


class _Known(msgspec.Struct):
    """The fields the gateway reads; the rest travels unread."""

    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    messages: list[_Turn] | None = None
    prompt: str | list[JsonValue] | None = None
    input: str | list[JsonValue] | None = None
    temperature: float | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=_CHOICES_LIMIT)] | None = None
    best_of: Annotated[int, msgspec.Meta(le=_CHOICES_LIMIT)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(le=_TOKENS_LIMIT)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(le=_TOKENS_LIMIT)] | None = None
    logprobs: bool | int | None = None
    tools: list[msgspec.Raw] | None = None
    functions: list[msgspec.Raw] | None = None
    response_format: _ResponseFormat | None = None


_known = msgspec.json.Decoder(_Known)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def parse_ask(surface: Surface, body: bytes) -> Ask:
    """Read a request body.

    Raises:
        AskInvalid: not JSON, not an object, or a field of the wrong type; the message names the field.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec looks at the strings it reads, and an upstream may break on the others
        known = _known.decode(body)
        fields = _fields.decode(body)
    except msgspec.ValidationError as error:
        raise AskInvalid(f"the request body is not valid: {error}", param=_param_of(str(error))) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise AskInvalid(f"the request body is not valid JSON: {error}") from error
    if not _NOT_THE_CLIENTS.isdisjoint(fields):
        fields = {name: value for name, value in fields.items() if name not in _NOT_THE_CLIENTS}
    messages = _messages(surface, known)
    return Ask(
        surface=surface,
        fields=fields,
        model=known.model,
        is_stream=bool(known.stream) and surface is not Surface.EMBEDDINGS,
        wants_usage=bool(known.stream_options and known.stream_options.include_usage),
        # Legacy completions ask with a number of alternatives, and 0 is a number: only false and null mean no.
        wants_logprobs=known.logprobs is not None and known.logprobs is not False,
        messages=messages,
        temperature=known.temperature,
        choices=_choices(surface, known),
        max_output_tokens=_cap(known.max_completion_tokens, known.max_tokens),
        json_schema=known.response_format.json_schema.schema
        if known.response_format and known.response_format.json_schema
        else None,
        wants_json=bool(known.response_format and known.response_format.type != "text"),
        needs=_needs(surface, known, messages),
        input_bytes=sum([len(memoryview(fields[name])) for name in _READ_BY_MODELS if name in fields]),
    )


@dataclass(frozen=True, slots=True)
class OutputCap:
    """A cap the gateway sets on an answer whose client set none: tokens, and the chat field that says it upstream."""

    field: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a model of the catalog adds to every request; see `policies.schema.Model.parameters`.

    Attributes:
        fields: JSON by field name, without caps.
        cap: the most output its answers may have, and the field that says it upstream; None: as the client wants.
    """

    fields: Mapping[str, msgspec.Raw]
    cap: OutputCap | None = None

    @classmethod
    def of(cls, values: Mapping[str, JsonValue]) -> Parameters:
        """Return parameters as a policy states them, ready to be sent."""
        caps = [OutputCap(name, values[name]) for name in _CAPS if name in values]
        fields = {name: msgspec.Raw(_encode(value)) for name, value in values.items() if name not in _CAPS}
        return cls(fields=fields, cap=caps[0] if caps else None)

    def cap_for(self, ask: Ask) -> OutputCap | None:
        """Return the cap to send: the model's where it is below the client's own."""
        own = ask.max_output_tokens
        return self.cap if self.cap is not None and (own is None or own > self.cap.tokens) else None


NO_PARAMETERS = Parameters(fields={})


def outbound_body(
    ask: Ask,
    *,
    model: str,
    top_logprobs: int | None,
    output_cap: OutputCap | None = None,
    parameters: Parameters = NO_PARAMETERS,
) -> bytes:
    """Return the body to send upstream: the client's, with our model's name and what the gateway needs to know.

    Args:
        ask: the parsed request.
        model: the name the upstream knows the model by.
        top_logprobs: how many alternatives the judge wants for each token; None when no judge will look.
        output_cap: the cap that a budget counts on; None leaves the client's own, or none, as it is.
        parameters: the model's own fields, which stand in place of the client's; embeddings take none.
    """
    fields = dict(ask.fields)
    for name in _DROPPED_WHEN_NULL.intersection(fields):
        if bytes(fields[name]) == b"null":
            del fields[name]
    fields["model"] = msgspec.Raw(_encode(model))
    if ask.surface is not Surface.EMBEDDINGS:
        fields.update(parameters.fields)
        output_cap = output_cap or parameters.cap_for(ask)
    if ask.is_stream and ask.surface is not Surface.EMBEDDINGS:
        # Always asked for, so that the bill is the provider's; the relay strips it when the client did not ask.
        options = msgspec.json.decode(fields.get("stream_options", msgspec.Raw(b"{}")), type=dict[str, msgspec.Raw])
        fields["stream_options"] = msgspec.Raw(_encode({**options, "include_usage": True}))
    if top_logprobs is not None and not ask.wants_logprobs:
        fields["logprobs"] = msgspec.Raw(b"true")
        fields["top_logprobs"] = msgspec.Raw(b"%d" % top_logprobs)
    if output_cap is not None and not _is_capped_at_nothing(fields):
        # Whatever else stood there capped nothing: null, or llama.cpp's -1 for "no end".
        for name in _CAPS:
            fields.pop(name, None)
        name = output_cap.field if ask.surface is Surface.CHAT else "max_tokens"
        fields[name] = msgspec.Raw(b"%d" % output_cap.tokens)
    return _encode(fields) if ask.input_bytes <= _LARGE_BYTES else _joined(fields)


def _joined(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """Return what `_encode` does, without the room that it takes beside a large result while it grows."""
    parts: list[bytes | memoryview] = []
    for name, value in fields.items():
        parts += [b"," if parts else b"{", _encode(name), b":", memoryview(value)]
    return b"".join((*parts, b"}"))


def _is_capped_at_nothing(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Tell whether the client asks for no tokens at all, which is the upstream's to refuse."""
    return any(bytes(fields[name]) == b"0" for name in _CAPS if name in fields)


def estimate_input_tokens(ask: Ask) -> int:
    """Return a cautious guess of the tokens an upstream will read.

    Three bytes a token: English prose has about four, code and JSON three, and a hold must not be too small.
    """
    return -(-ask.input_bytes // 3)


def _messages(surface: Surface, known: _Known) -> tuple[Message, ...]:
    match surface:
        case Surface.CHAT:
            if not known.messages:
                raise AskInvalid("`messages` must be a list of at least one message", param="messages")
            return tuple([_message(turn) for turn in known.messages])
        case Surface.COMPLETIONS:
            if known.prompt is None:
                raise AskInvalid("`prompt` is required: a string, or a list of strings or tokens", param="prompt")
            is_text = isinstance(known.prompt, str)
            return (Message("user", known.prompt if isinstance(known.prompt, str) else "", is_plain=is_text),)
        case Surface.EMBEDDINGS:
            if known.input is None:
                raise AskInvalid("`input` is required: a string, or a list of strings or tokens", param="input")
            return ()


def _message(turn: _Turn) -> Message:
    has_calls = turn.tool_calls is not _NULL and bytes(turn.tool_calls) != b"null"
    if isinstance(turn.content, str):
        return Message(turn.role, turn.content, is_plain=not has_calls)
    parts = turn.content or []
    return Message(
        turn.role,
        "\n".join(part.text for part in parts if part.type == "text" and part.text),
        has_image=any(part.type == "image_url" for part in parts),
        is_plain=not has_calls and all(part.type == "text" for part in parts),
    )


def _cap(*stated: int | None) -> int | None:
    """Return a cap that caps: llama.cpp's -1 means none, 0 is the upstream's to refuse, millions say nothing.

    Of two the larger counts: which of them an upstream obeys differs, and budgets hold money for no less than may come.
    """
    caps = [tokens for tokens in stated if tokens is not None]
    return min(max(caps), _OUTPUT_LIMIT_TOKENS) if caps and min(caps) > 0 else None


def _choices(surface: Surface, known: _Known) -> int:
    prompts = 1
    if surface is Surface.COMPLETIONS and isinstance(known.prompt, list):
        prompts = sum(isinstance(part, str | list) for part in known.prompt) or 1
    # Of `best_of` answers `n` are told, and all of them are generated and paid for.
    best_of = known.best_of if surface is Surface.COMPLETIONS else None
    return prompts * max(known.n or 1, best_of or 1)


def _needs(surface: Surface, known: _Known, messages: tuple[Message, ...]) -> frozenset[Capability]:
    if not (known.tools or known.functions or known.response_format or known.logprobs):
        has_image = False
        for message in messages:
            has_image |= message.has_image
        if not has_image:
            return _PLAIN_NEEDS[surface]
    needs = {_KIND[surface]}
    if known.tools or known.functions:
        needs.add(Capability.TOOLS)
    if known.response_format and known.response_format.type == "json_schema":
        needs.add(Capability.JSON_SCHEMA)
    if known.logprobs not in (None, False):
        needs.add(Capability.LOGPROBS)
    if any(message.has_image for message in messages):
        needs.add(Capability.VISION)
    return frozenset(needs)


_KIND = {
    Surface.CHAT: Capability.CHAT,
    Surface.COMPLETIONS: Capability.COMPLETIONS,
    Surface.EMBEDDINGS: Capability.EMBEDDINGS,
}


_PLAIN_NEEDS = {surface: frozenset({kind}) for surface, kind in _KIND.items()}
"""Of requests that need no more: nearly all of them."""


def _param_of(problem: str) -> str | None:
    """Return the field that msgspec complains about (`... - at `$.messages[0].role``), None for the whole body."""
    if "missing required field `" in problem:
        return problem.split("missing required field `", 1)[1].split("`", 1)[0]
    _, found, place = problem.partition("`$.")
    return place.split("`", 1)[0] if found else None
