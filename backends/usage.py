"""What an upstream says it used, in whatever shape, as disjoint token classes.

The provider is told by the shape, never by a name: brokers and proxies forward each other's. The rules:
- what is inside a total is taken out of it (OpenAI's cached input and reasoning), what is beside it is added
  (Anthropic's caches, Gemini's thoughts and tool results, xAI's reasoning); where both exist, the total tells;
- cached input is one class whatever its modality; the audio and image classes hold uncached tokens only;
- a number no server can mean (negative, fractional, true, text, larger than any context) is not taken, a part larger
  than its whole is cut to it, and what was read beside it is `estimated`; nothing told is `unknown`, never 0;
- the provider's stated cost is read exactly (decimal, never float) and rounded once, half to even.

Sources: OpenAI "CompletionUsage"; Anthropic "Messages: usage", "Prompt caching", "Compaction: understanding usage";
Gemini "UsageMetadata"; xAI "Consumption and rate limits"; DeepSeek "Context caching"; OpenRouter "Usage accounting";
Perplexity "Pricing"; Groq and Cohere API references; Amazon Bedrock "TokenUsage".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from backends.words import JsonValue, Provenance, Usage

_Fields: TypeAlias = Mapping[str, JsonValue]

_TOKENS_LIMIT: Final = 10**9
"""No attempt reads or writes more tokens; a larger number would not fit the ledger's integers either."""
_HIDDEN_LIMIT: Final = 10**7
"""No model writes more tokens unseen: a total further above its parts is a broken total, not hidden reasoning."""
_STATED_LIMIT_USD: Final = 10**6
_TICKS_PER_USD: Final = 10**10  # xAI's `cost_in_usd_ticks`

_NOTHING: Final[_Fields] = {}

_decode = msgspec.json.Decoder(dict[str, JsonValue], float_hook=Decimal).decode


def read_usage(payload: bytes, *, is_embedding: bool = False) -> Usage | None:
    """Return what a usage object says, None when it says nothing true.

    Args:
        payload: the JSON of the object alone: `usage`, `usageMetadata`, or `x_groq.usage`.
        is_embedding: the answer has no output, so that a lone total is all input.
    """
    if (common := _common(payload)) is not None:
        return common
    try:
        fields = _decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    if not fields:
        return None
    if "prompt_tokens" in fields:
        usage = _openai(fields, is_embedding)
    elif fields.keys() & _GEMINI_KEYS:
        usage = _gemini(fields)
    elif isinstance(fields.get("billed_units"), dict):
        usage = _cohere(fields)
    elif "inputTokens" in fields:
        usage = _bedrock(fields)
    elif fields.keys() & {"input_tokens", "output_tokens"} and not fields.keys() & _OPENAI_KEYS:
        usage = _anthropic(fields)
    else:
        usage = _openai(fields, is_embedding)
    return usage if _says_something(usage) else None


class _InputDetails(msgspec.Struct, forbid_unknown_fields=True):
    cached_tokens: int = 0
    audio_tokens: int = 0


class _OutputDetails(msgspec.Struct, forbid_unknown_fields=True):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class _Common(msgspec.Struct, forbid_unknown_fields=True):
    """What OpenAI, vLLM and llama.cpp send: whole numbers and nothing beside them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


_NO_INPUT_DETAILS: Final = _InputDetails()
_NO_OUTPUT_DETAILS: Final = _OutputDetails()
_decode_common = msgspec.json.Decoder(_Common).decode


def _common(payload: bytes) -> Usage | None:
    """Read the usual shape when nothing about it is unusual: a third of the time that any shape takes."""
    try:
        told = _decode_common(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    prompt, completion = told.prompt_tokens, told.completion_tokens
    read, wrote = told.prompt_tokens_details or _NO_INPUT_DETAILS, told.completion_tokens_details or _NO_OUTPUT_DETAILS
    if (
        told.total_tokens != prompt + completion
        or not 0 < prompt <= _TOKENS_LIMIT
        or not 0 <= read.cached_tokens <= prompt
        or not 0 <= wrote.reasoning_tokens <= completion <= _TOKENS_LIMIT
        or read.audio_tokens
        or wrote.audio_tokens
    ):
        return None
    return Usage(
        input_tokens=prompt - read.cached_tokens,
        cached_input_tokens=read.cached_tokens,
        output_tokens=completion - wrote.reasoning_tokens,
        reasoning_tokens=wrote.reasoning_tokens,
    )


def merge_usage(before: Usage | None, after: Usage) -> Usage:
    """Return what a stream's usage events say together: counts are cumulative, so the later one stands for both.

    A side the later event does not tell is the earlier one's (Anthropic's input comes first, its output last). A count
    that shrank contradicts the earlier one: the larger is kept, as an estimate.
    """
    if before is None:
        return after
    first, second = before.total_input_tokens, after.total_input_tokens
    has_later_input = after.input_provenance is not Provenance.UNKNOWN and (
        second > first or (second == first and _input_detail(after) >= _input_detail(before))
    )
    read = after if has_later_input else before
    is_input_shrunk = second < first and after.input_provenance is not Provenance.UNKNOWN
    wrote_before, wrote_after = before.total_output_tokens, after.total_output_tokens
    written = before if wrote_after < wrote_before else after
    if after.output_provenance is Provenance.UNKNOWN:
        written = before
    is_output_shrunk = written is before and 0 < wrote_after < wrote_before
    return replace(
        read,
        output_tokens=written.output_tokens,
        reasoning_tokens=written.reasoning_tokens,
        audio_output_tokens=written.audio_output_tokens,
        image_output_tokens=written.image_output_tokens,
        input_provenance=Provenance.ESTIMATED if is_input_shrunk else read.input_provenance,
        output_provenance=Provenance.ESTIMATED if is_output_shrunk else written.output_provenance,
        web_searches=max(before.web_searches, after.web_searches),
        stated_cost_nusd=before.stated_cost_nusd if after.stated_cost_nusd is None else after.stated_cost_nusd,
        is_byok=before.is_byok or after.is_byok,
        tier=after.tier or before.tier,
        is_summed=before.is_summed or after.is_summed,
        has_unpriced=before.has_unpriced or after.has_unpriced,
    )


def _input_detail(usage: Usage) -> int:
    """Return how many classes of input are told apart: Anthropic's last event repeats its total without them."""
    classes = (usage.cached_input_tokens, usage.cache_write_1h_tokens, usage.audio_input_tokens)
    return sum(tokens > 0 for tokens in classes)


def _says_something(usage: Usage) -> bool:
    return (
        usage.input_provenance is not Provenance.UNKNOWN
        or usage.output_provenance is not Provenance.UNKNOWN
        or usage.stated_cost_nusd is not None
    )


# --- numbers -----------------------------------------------------------------------------------------------------


class _Numbers:
    """Reads the counts of one side of a usage; `is_odd` once one of them was no count."""

    __slots__ = ("is_odd",)

    def __init__(self) -> None:
        self.is_odd = False

    def count(self, value: JsonValue) -> int | None:
        """Return a number of tokens, None when none is told."""
        if value is None:
            return None
        if type(value) is int and 0 <= value <= _TOKENS_LIMIT:
            return value
        if isinstance(value, Decimal) and 0 <= value <= _TOKENS_LIMIT and value == int(value):
            return int(value)
        self.is_odd = True
        if isinstance(value, str) and len(value) < len(str(_TOKENS_LIMIT)) and value.isascii() and value.isdigit():
            return int(value)
        return None

    def first(self, fields: _Fields, *names: str) -> int | None:
        """Return the first of the names that is told; others that say something else make the side odd."""
        found: int | None = None
        for name in names:
            if name not in fields:
                continue
            told = self.count(fields[name])
            if found is None or (found == 0 and told):
                found = told
            elif told and told != found:
                self.is_odd = True
        return found

    def within(self, part: int, whole: int) -> int:
        """Return a part no larger than its whole."""
        if part > whole:
            self.is_odd = True
            return whole
        return part


@dataclass(slots=True, kw_only=True)
class _Input:
    """One reading of the input: `total` holds everything else."""

    total: int | None
    cached: int = 0
    written: int = 0
    written_1h: int = 0
    audio: int = 0
    image: int = 0
    cached_audio: int | None = None
    cached_image: int | None = None


@dataclass(slots=True, kw_only=True)
class _Output:
    total: int | None
    reasoning: int = 0
    audio: int = 0
    image: int = 0


@dataclass(slots=True, kw_only=True)
class _Extras:
    """What is billed beside tokens."""

    web_searches: int = 0
    stated_cost_nusd: int | None = None
    is_byok: bool = False
    tier: str | None = None
    is_summed: bool = False
    has_unpriced: bool = False


_NO_EXTRAS: Final = _Extras()


def _usage(read: _Input, written: _Output, odd_in: _Numbers, odd_out: _Numbers, extras: _Extras) -> Usage:
    """Return the classes: each part is taken out of its side's total, so that none becomes negative."""
    total = read.total or 0
    cached = odd_in.within(read.cached, total)
    write_1h = odd_in.within(read.written_1h, total - cached)
    write = odd_in.within(read.written, total - cached - write_1h)
    text = total - cached - write_1h - write
    audio = image = 0
    has_cached_media = False
    if read.audio or read.image:
        has_cached_media = cached > 0 and (read.cached_audio != 0 or read.cached_image != 0)
        # Without a word on what was cached, the text is taken to be: prompts begin with it.
        audio = min(max(0, read.audio - (read.cached_audio or 0)), text)
        image = min(max(0, read.image - (read.cached_image or 0)), text - audio)
        if read.audio + read.image > total:
            odd_in.is_odd = True
    wrote = written.total or 0
    reasoning = odd_out.within(written.reasoning, wrote)
    audio_out = odd_out.within(written.audio, wrote - reasoning)
    image_out = odd_out.within(written.image, wrote - reasoning - audio_out)
    return Usage(
        input_tokens=text - audio - image,
        cached_input_tokens=cached,
        cache_write_tokens=write,
        cache_write_1h_tokens=write_1h,
        audio_input_tokens=audio,
        image_input_tokens=image,
        output_tokens=wrote - reasoning - audio_out - image_out,
        reasoning_tokens=reasoning,
        audio_output_tokens=audio_out,
        image_output_tokens=image_out,
        # Every prompt has a token: an input of 0 was not counted.
        input_provenance=_provenance(odd_in, is_told=total > 0),
        output_provenance=_provenance(odd_out, is_told=written.total is not None and (wrote > 0 or total > 0)),
        web_searches=extras.web_searches,
        stated_cost_nusd=extras.stated_cost_nusd,
        is_byok=extras.is_byok,
        tier=extras.tier,
        has_cached_media=has_cached_media,
        is_summed=extras.is_summed,
        has_unpriced=extras.has_unpriced,
    )


def _provenance(numbers: _Numbers, *, is_told: bool) -> Provenance:
    if not is_told:
        return Provenance.UNKNOWN
    return Provenance.ESTIMATED if numbers.is_odd else Provenance.PROVIDER


def _inner(fields: _Fields, *names: str) -> _Fields:
    """Return the first of the names that holds an object; an empty one when none does."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, dict):
            return value
    return _NOTHING


# --- OpenAI, and who speaks like it ------------------------------------------------------------------------------

_OPENAI_KEYS: Final = frozenset(
    {"total_tokens", "input_tokens_details", "input_token_details", "prompt_tokens_details"}
)


def _openai(fields: _Fields, is_embedding: bool) -> Usage:
    """Read OpenAI's shape (chat, completions, embeddings, responses): cached input and reasoning are in the totals."""
    odd_in, odd_out = _Numbers(), _Numbers()
    total = _Numbers().count(fields.get("total_tokens"))
    details = _inner(fields, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    prompt = odd_in.first(fields, "prompt_tokens", "input_tokens")
    hit, miss = odd_in.count(fields.get("prompt_cache_hit_tokens")), fields.get("prompt_cache_miss_tokens")
    if prompt is None and (hit is not None or miss is not None):
        prompt = (hit or 0) + (odd_in.count(miss) or 0)  # DeepSeek's hit and miss are the whole prompt
    out = _openai_output(fields, odd_out)
    if prompt is None and total is not None and (out.total is not None or is_embedding):
        prompt = max(0, total - (out.total or 0))
    read = _Input(total=prompt)
    if not fields.keys() <= _PLAIN_KEYS:
        _openai_input(fields, details, read, odd_in)
        _caches_beside(fields, read, odd_in, completion=out.total or 0, total=total)
    if read.total is not None:
        _reconcile(read.total, out, total, odd_in, odd_out, is_embedding=is_embedding)
    extras = _openai_extras(fields, read, out)
    return _usage(read, out, odd_in, odd_out, extras)


_PLAIN_KEYS: Final = frozenset({"prompt_tokens", "completion_tokens", "total_tokens", "completion_tokens_details"})
"""Where a usage has no more than these, all its input is plain."""


def _openai_output(fields: _Fields, odd: _Numbers) -> _Output:
    details = _inner(fields, "completion_tokens_details", "output_tokens_details", "output_token_details")
    total = odd.first(fields, "completion_tokens", "output_tokens")
    if not details:
        return _Output(total=total, reasoning=odd.count(fields.get("reasoning_tokens")) or 0)
    return _Output(
        total=total,
        reasoning=odd.count(details.get("reasoning_tokens")) or odd.count(fields.get("reasoning_tokens")) or 0,
        audio=odd.count(details.get("audio_tokens")) or 0,
        image=odd.count(details.get("image_tokens")) or 0,
    )


def _openai_input(fields: _Fields, details: _Fields, read: _Input, odd: _Numbers) -> None:
    cached = odd.first(details, "cached_tokens", "cache_read_tokens")
    top = odd.first(fields, "prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens", "num_cached_tokens")
    if cached and top and cached != top:
        odd.is_odd = True
    read.cached = cached or top or 0
    written = odd.first(details, "cache_write_tokens", "cache_creation_tokens") or odd.count(
        fields.get("cache_creation_input_tokens")
    )
    if written:
        split = _inner(details, "cache_creation_token_details") or _inner(fields, "cache_creation")
        read.written_1h = odd.within(odd.count(split.get("ephemeral_1h_input_tokens")) or 0, written)
        read.written = written - read.written_1h
    read.audio = odd.count(details.get("audio_tokens")) or 0
    read.image = odd.count(details.get("image_tokens")) or 0
    if "cached_tokens_details" in details:
        split = _inner(details, "cached_tokens_details")
        read.cached_audio = odd.count(split.get("audio_tokens")) or 0
        read.cached_image = odd.count(split.get("image_tokens")) or 0


def _caches_beside(fields: _Fields, read: _Input, odd: _Numbers, *, completion: int, total: int | None) -> None:
    """Add Anthropic's caches to a prompt that proxies translated without them; the total tells."""
    if read.total is None or not fields.keys() & {"cache_read_input_tokens", "cache_creation_input_tokens"}:
        return
    beside = read.cached + read.written + read.written_1h
    if not beside or total == read.total + completion:
        return
    if total == read.total + completion + beside:
        read.total += beside
    elif beside > read.total:
        odd.is_odd = True
        read.total += beside


def _reconcile(
    prompt: int, out: _Output, total: int | None, odd_in: _Numbers, odd_out: _Numbers, *, is_embedding: bool
) -> None:
    """Find the output's total: reasoning is inside the completion (OpenAI) or beside it (xAI), and the total tells."""
    if out.total is None:
        if total is not None and total >= prompt:
            out.total = total - prompt
        elif is_embedding:
            out.total = 0
        elif out.reasoning:
            out.total, odd_out.is_odd = out.reasoning, True
        return
    completion = out.total
    if total is None or total > prompt + completion + out.reasoning + _HIDDEN_LIMIT:
        if out.reasoning > completion:  # more than its whole: it must be beside it
            out.total, odd_out.is_odd = completion + out.reasoning, True
        odd_out.is_odd |= total is not None
        return
    rest = total - prompt
    if rest == completion:
        return
    if rest == completion + out.reasoning:
        out.total = rest
    elif rest > completion:
        # Gemini's OpenAI face counts thoughts in the total only. What it is not known for sure, that it is paid for is.
        out.total, odd_out.is_odd = rest, True
        out.reasoning = max(out.reasoning, rest - completion)
    else:
        odd_in.is_odd = odd_out.is_odd = True


def _openai_extras(fields: _Fields, read: _Input, out: _Output) -> _Extras:
    if not fields.keys() & _EXTRA_KEYS:
        return _NO_EXTRAS
    numbers = _Numbers()
    extras = _Extras(tier=_text(fields.get("service_tier")))
    server, side = _inner(fields, "server_tool_use"), _inner(fields, "server_side_tool_usage_details")
    extras.web_searches = (
        numbers.count(server.get("web_search_requests"))
        or numbers.count(side.get("web_search_calls"))
        or numbers.count(fields.get("num_search_queries"))
        or 0
    )
    others = [numbers.count(calls) for name, calls in side.items() if name != "web_search_calls"]
    extras.has_unpriced = numbers.is_odd or any(others) or any(fields.get(name) for name in _UNPRICED_KEYS)
    if fields.get("search_context_size", _LISTED_CONTEXT) != _LISTED_CONTEXT:
        extras.has_unpriced = True
    if "citation_tokens" in fields:  # Perplexity's research: citations and reasoning are billed beside the total
        read.total = (read.total or 0) + (numbers.count(fields["citation_tokens"]) or 0)
        if out.total is not None and "reasoning_tokens" in fields and out.reasoning != out.total:
            out.reasoning = numbers.count(fields["reasoning_tokens"]) or 0
            out.total += out.reasoning
    _state_cost(fields, extras)
    return extras


_LISTED_CONTEXT: Final = "high"
"""Perplexity's fee for a request depends on how much it searched; the list has the highest."""
_UNPRICED_KEYS: Final = ("num_sources_used", "prompt_audio_seconds")
_EXTRA_KEYS: Final = frozenset(
    {
        "cost",
        "cost_in_usd_ticks",
        "server_tool_use",
        "server_side_tool_usage_details",
        "num_search_queries",
        "citation_tokens",
        "search_context_size",
        "service_tier",
        *_UNPRICED_KEYS,
    }
)


def _state_cost(fields: _Fields, extras: _Extras) -> None:
    """Read the provider's own cost.

    Source: OpenRouter's usage accounting: `cost` is what the account is charged; with the caller's own key that is the
    broker's fee alone, and `upstream_inference_cost` is charged to the key. Answers from before `is_byok` tell it by an
    upstream cost above the charge, which a charge of the whole never shows.
    """
    ticks = fields.get("cost_in_usd_ticks")
    if type(ticks) is int:
        extras.stated_cost_nusd = _nusd(Decimal(ticks) / _TICKS_PER_USD) if 0 <= ticks < 10**17 else None
        return
    stated = fields.get("cost")
    if isinstance(stated, dict):
        stated = stated.get("total_cost")  # Perplexity
    cost = _dollars(stated)
    upstream = _dollars(_inner(fields, "cost_details").get("upstream_inference_cost"))
    is_byok = fields.get("is_byok")
    extras.is_byok = is_byok is True or (
        is_byok is None and cost is not None and upstream is not None and upstream > cost
    )
    if cost is None:
        return
    if not extras.is_byok:
        extras.stated_cost_nusd = _nusd(cost)
    elif upstream is not None:
        extras.stated_cost_nusd = _nusd(cost + upstream)


def _dollars(value: JsonValue) -> Decimal | None:
    """Return an amount of dollars exactly; None for what is no amount."""
    amount = Decimal(value) if type(value) is int else value
    if not isinstance(amount, Decimal) or not 0 <= amount <= _STATED_LIMIT_USD:
        return None
    return amount if amount == 0 or amount.adjusted() > -_TINY_EXPONENT else Decimal(0)


_TINY_EXPONENT: Final = 40
"""An amount below 1e-40 dollars is nothing; its exact fraction would be a number of a million digits."""


def _nusd(dollars: Decimal) -> int:
    numerator, denominator = dollars.as_integer_ratio()
    quotient, rest = divmod(numerator * 10**9, denominator)
    return quotient + (2 * rest > denominator or (2 * rest == denominator and quotient & 1))


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and value else None


# --- Anthropic ---------------------------------------------------------------------------------------------------


def _anthropic(fields: _Fields) -> Usage:
    """Read Anthropic's shape: caches beside the input, compaction beside everything, thinking inside the output."""
    odd_in, odd_out = _Numbers(), _Numbers()
    read, written = _anthropic_turn(fields, odd_in, odd_out)
    extras = _Extras(tier="fast" if fields.get("speed") == "fast" else _text(fields.get("service_tier")))
    extras.web_searches = odd_in.count(_inner(fields, "server_tool_use").get("web_search_requests")) or 0
    iterations = fields.get("iterations")
    for turn in iterations if isinstance(iterations, list) else ():
        # The sum of all others is at the top already; an advisor is another model, at prices of its own.
        kind = turn.get("type") if isinstance(turn, dict) else None
        if kind == "compaction":
            _add_turn(read, written, *_anthropic_turn(turn, odd_in, odd_out))
            extras.is_summed = True
        elif kind == "advisor_message":
            extras.has_unpriced = True
    return _usage(read, written, odd_in, odd_out, extras)


def _anthropic_turn(fields: _Fields, odd_in: _Numbers, odd_out: _Numbers) -> tuple[_Input, _Output]:
    plain = odd_in.count(fields.get("input_tokens"))
    cached = odd_in.count(fields.get("cache_read_input_tokens")) or 0
    split = _inner(fields, "cache_creation")
    minutes = odd_in.count(split.get("ephemeral_5m_input_tokens")) or 0
    hour = odd_in.count(split.get("ephemeral_1h_input_tokens")) or 0
    created = odd_in.count(fields.get("cache_creation_input_tokens"))
    if created is None:
        created = minutes + hour
    elif split and created != minutes + hour:
        odd_in.is_odd = True
    hour = min(hour, created)
    is_told = plain is not None or cached or created
    details = _inner(fields, "output_tokens_details")
    return (
        _Input(
            total=(plain or 0) + cached + created if is_told else None,
            cached=cached,
            written=created - hour,
            written_1h=hour,
        ),
        _Output(
            total=odd_out.count(fields.get("output_tokens")),
            reasoning=odd_out.first(details, "thinking_tokens", "reasoning_tokens") or 0,
        ),
    )


def _add_turn(read: _Input, written: _Output, more_read: _Input, more_written: _Output) -> None:
    read.total = (read.total or 0) + (more_read.total or 0)
    read.cached += more_read.cached
    read.written += more_read.written
    read.written_1h += more_read.written_1h
    written.total = (written.total or 0) + (more_written.total or 0)
    written.reasoning += more_written.reasoning


# --- Gemini, Cohere, Bedrock -------------------------------------------------------------------------------------

_GEMINI_KEYS: Final = frozenset(
    {
        "promptTokenCount",
        "candidatesTokenCount",
        "totalTokenCount",
        "prompt_token_count",
        "candidates_token_count",
        "total_token_count",
    }
)


def _gemini(fields: _Fields) -> Usage:
    """Read Gemini's own shape: thoughts and tool results beside the candidates, cached content inside the prompt."""
    odd_in, odd_out = _Numbers(), _Numbers()
    prompt = odd_in.first(fields, "promptTokenCount", "prompt_token_count")
    tools = odd_in.first(fields, "toolUsePromptTokenCount", "tool_use_prompt_token_count") or 0
    candidates = odd_out.first(fields, "candidatesTokenCount", "candidates_token_count")
    thoughts = odd_out.first(fields, "thoughtsTokenCount", "thoughts_token_count") or 0
    total = _Numbers().first(fields, "totalTokenCount", "total_token_count")
    read = _Input(
        total=None if prompt is None else prompt + tools,
        cached=odd_in.first(fields, "cachedContentTokenCount", "cached_content_token_count") or 0,
    )
    for key in ("promptTokensDetails", "prompt_tokens_details", "toolUsePromptTokensDetails"):
        read.audio += _of_modality(fields.get(key), "AUDIO", odd_in)
        read.image += _of_modality(fields.get(key), "IMAGE", odd_in)
    cache_details = fields.get("cacheTokensDetails", fields.get("cache_tokens_details"))
    if cache_details is not None:
        read.cached_audio = _of_modality(cache_details, "AUDIO", odd_in)
        read.cached_image = _of_modality(cache_details, "IMAGE", odd_in)
    out_details = fields.get("candidatesTokensDetails", fields.get("candidates_tokens_details"))
    written = _Output(
        total=None if candidates is None and not thoughts else (candidates or 0) + thoughts,
        reasoning=thoughts,
        audio=_of_modality(out_details, "AUDIO", odd_out),
        image=_of_modality(out_details, "IMAGE", odd_out),
    )
    if read.total is not None and total is not None:
        _reconcile_gemini(total - read.total, candidates or 0, written, odd_in, odd_out)
    return _usage(read, written, odd_in, odd_out, _Extras(tier=_gemini_tier(fields)))


def _reconcile_gemini(rest: int, candidates: int, written: _Output, odd_in: _Numbers, odd_out: _Numbers) -> None:
    """Find the output's total; `rest` is what the provider's total leaves for it."""
    if written.total is None:
        if rest > 0:
            written.total = rest
    elif rest == candidates and written.reasoning <= candidates:
        written.total = candidates  # early answers of the Gemini API counted the thoughts among the candidates
    elif written.total < rest <= written.total + _HIDDEN_LIMIT:
        odd_out.is_odd = True
        written.total = rest
    elif rest != written.total:
        odd_in.is_odd = odd_out.is_odd = True


def _gemini_tier(fields: _Fields) -> str | None:
    tier = _text(fields.get("serviceTier", fields.get("service_tier")))
    return tier.lower() if tier is not None else None


def _of_modality(details: JsonValue, modality: str, odd: _Numbers) -> int:
    entries = details if isinstance(details, list) else ()
    found = 0
    for entry in entries:
        if isinstance(entry, dict) and entry.get("modality") == modality:
            found += odd.first(entry, "tokenCount", "token_count") or 0
    return found


def _cohere(fields: _Fields) -> Usage:
    """Read Cohere's own shape: what is billed, which is less than what was tokenized."""
    odd_in, odd_out = _Numbers(), _Numbers()
    billed = _inner(fields, "billed_units")
    read = _Input(total=odd_in.count(billed.get("input_tokens")))
    written = _Output(total=odd_out.count(billed.get("output_tokens")))
    is_more = any(billed.get(name) for name in ("search_units", "classifications", "images"))
    return _usage(read, written, odd_in, odd_out, _Extras(has_unpriced=is_more))


def _bedrock(fields: _Fields) -> Usage:
    """Read Bedrock's Converse: caches beside the input, as Anthropic has them."""
    odd_in, odd_out = _Numbers(), _Numbers()
    plain = odd_in.count(fields.get("inputTokens"))
    cached = odd_in.first(fields, "cacheReadInputTokens", "cacheReadInputTokenCount") or 0
    created = odd_in.first(fields, "cacheWriteInputTokens", "cacheWriteInputTokenCount") or 0
    read = _Input(
        total=None if plain is None else plain + cached + created,
        cached=cached,
        written=created,
    )
    return _usage(read, _Output(total=odd_out.count(fields.get("outputTokens"))), odd_in, odd_out, _NO_EXTRAS)
