"""The shared words: what a request is, what an upstream says, and what it used.

Everything that flows between the packages is one of these frozen values. Nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NewType, TypeAlias

import msgspec

JsonValue: TypeAlias = Any  # foreign JSON: its shape is not ours to promise

RequestId = NewType("RequestId", str)
TenantId = NewType("TenantId", str)
ModelId = NewType("ModelId", str)
"""The catalog's name of a model (the key in the policy's `models`)."""


class Surface(StrEnum):
    """The OpenAI data paths, by the path under `/v1/`."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


class Capability(StrEnum):
    """What a model can do; a request needs a set of these, a model offers a set."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    VISION = "vision"
    LOGPROBS = "logprobs"


class Provenance(StrEnum):
    """Where a number of tokens comes from. Unknown is never 0."""

    PROVIDER = "provider"
    COUNTED = "counted"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


# No dataclasses from here on: these are made for every request, some for every token, and a frozen dataclass takes six
# times as long to make.
class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Tokens of one attempt in disjoint classes: they sum to the provider's total.

    Attributes:
        input_tokens: uncached, unwritten text input (video too, which every list prices as text).
        cached_input_tokens: read from a prompt cache, whatever its modality.
        cache_write_tokens: written to a prompt cache that lives minutes.
        cache_write_1h_tokens: written to one that lives an hour.
        audio_input_tokens: uncached audio; `image_input_tokens` likewise.
        output_tokens: text that is not reasoning.
        web_searches: searches the provider ran and bills by the call.
        stated_cost_nusd: what the provider itself says the attempt cost, nano-dollars; None: it said nothing usable.
        is_byok: a broker used the operator's own key upstream.
        tier: the service tier where the usage itself names one ("batch", "priority").
        has_cached_media: some cached tokens may be audio or images, which lists price apart from cached text.
        is_summed: the sum of several readings of the context (compaction), each of which has its own context tier.
        has_unpriced: the provider bills something that no class here holds, so rates cannot tell the cost.
        input_provenance: where the input's numbers come from; UNKNOWN: nothing was told, and its classes are 0.
        output_provenance: the output's likewise.
    """

    input_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    input_provenance: Provenance = Provenance.PROVIDER
    output_provenance: Provenance = Provenance.PROVIDER
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_output_tokens: int = 0
    web_searches: int = 0
    stated_cost_nusd: int | None = None
    is_byok: bool = False
    tier: str | None = None
    has_cached_media: bool = False
    is_summed: bool = False
    has_unpriced: bool = False

    @property
    def total_input_tokens(self) -> int:
        """Everything read: OpenAI's `prompt_tokens`."""
        return (
            self.input_tokens
            + self.cached_input_tokens
            + self.cache_write_tokens
            + self.cache_write_1h_tokens
            + self.audio_input_tokens
            + self.image_input_tokens
        )

    @property
    def total_output_tokens(self) -> int:
        """Everything written: OpenAI's `completion_tokens`."""
        return self.output_tokens + self.reasoning_tokens + self.audio_output_tokens + self.image_output_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One answered token's log-probability and those of its best alternatives (descending, natural logarithm).

    `top` holds the token itself when it is among the best; it is empty when the upstream gave none.
    """

    logprob: float
    top: tuple[float, ...] = ()


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed answer.

    `payload` is the event's JSON as it came. `content` is the text of choice 0 and is "" where the event has none;
    `has_other` tells that the event carries something a reader would miss (tool call, refusal, another choice);
    `is_bulk` that it carries a whole answer at once, not a token; `has_usage` that it has a usage, whatever that says.
    `response_id` is the answer's name at its provider, `tier` the service tier it says it ran in.
    """

    payload: bytes
    content: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None
    finish_reason: str | None = None
    has_choices: bool = True
    has_other: bool = False
    is_bulk: bool = False
    has_usage: bool = False
    response_id: str | None = None
    tier: str | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Events of a stream, one after another, that differ in their text alone: each is a token and nothing else.

    Attributes:
        raw: their bytes as they came, from the first one's beginning to the last one's end.
        content: all their text.
        token_count: how many of them have text.
        payload: the JSON of an event like them, whose name, time and model are theirs.
    """

    raw: bytes
    content: str
    token_count: int
    payload: bytes


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """A complete answer that was not streamed; `payload` is its JSON body as it came.

    `has_answer` tells that it holds what was asked for: a choice, or embeddings. `stated_usage` is the JSON of the
    body's usage, "" where it has none.
    """

    payload: bytes
    content: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None
    finish_reason: str | None = None
    has_answer: bool = True
    stated_usage: bytes = b""
    response_id: str | None = None
    tier: str | None = None


Event: TypeAlias = Chunk | Whole


class Message(msgspec.Struct, frozen=True):
    """One turn: its role, its text (parts joined by newlines), and whether it carries anything but text."""

    role: str
    text: str
    has_image: bool = False
    is_plain: bool = True


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed request body. `fields` keeps every top-level field's bytes exactly as they were sent.

    Attributes:
        input_bytes: size of everything the model reads (messages, prompt, input, tools), in bytes.
        max_output_tokens: the client's own cap, None when it gave none.
        choices: how many answers were asked for (`n`, times prompts for legacy completions).
    """

    surface: Surface
    fields: dict[str, msgspec.Raw]
    model: str
    is_stream: bool = False
    wants_usage: bool = False
    wants_logprobs: bool = False
    messages: tuple[Message, ...] = ()
    temperature: float | None = None
    choices: int = 1
    max_output_tokens: int | None = None
    json_schema: JsonValue | None = None
    wants_json: bool = False
    needs: frozenset[Capability] = msgspec.field(default_factory=frozenset)
    input_bytes: int = 0

    @property
    def last_user_text(self) -> str:
        """The text of the last user turn; "" when there is none."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")
