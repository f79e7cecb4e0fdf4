"""Real-shaped answers of providers, what each used and what it costs, worked out by hand.

Usages are taken from providers' documentation and from published mistakes of other calculators (`source` names them).
Costs are sums of tokens x dollars per million as the provider's price page has them, plus fees in dollars; nothing here
comes from the code under test. The same table is read by the tests and by `load_tests/compare_usage.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from backends.words import JsonValue

NOW = datetime(2026, 11, 2, 20, 0, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One answer.

    Attributes:
        events: the JSON of each event that carries usage, one for an answer that is not streamed.
        used: the classes that are not 0.
        bill: tokens and dollars per million of them; None: nobody can tell the cost.
        fees: dollars beside the tokens.
        says: priced | provider | estimated | unknown.
        extractor: the name of genai-prices' own way of reading this shape; None: it has none.
    """

    name: str
    source: str
    provider: str
    model: str
    events: tuple[JsonValue, ...]
    used: Mapping[str, int]
    bill: tuple[tuple[int, str], ...] | None
    fees: str = "0"
    says: str = "priced"
    at: datetime = NOW
    extractor: str | None = "chat"

    @property
    def payloads(self) -> list[bytes]:
        """What the upstream sends."""
        return [json.dumps(event).encode() for event in self.events]

    @property
    def cost_nusd(self) -> int | None:
        """The cost, rounded once."""
        if self.bill is None:
            return None
        exact = sum((tokens * Decimal(usd) * 1000 for tokens, usd in self.bill), Decimal(self.fees) * 10**9)
        return int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))


def oai(usage: JsonValue, **top: JsonValue) -> tuple[JsonValue, ...]:
    """A chat completion with a usage."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "An answer."}, "finish_reason": "stop"}
    return ({"id": "r-1", "object": "chat.completion", "choices": [choice], "usage": usage, **top},)


def stream(*usages: JsonValue) -> tuple[JsonValue, ...]:
    """Chunks of a stream, each with a usage."""
    choice = {"index": 0, "delta": {"content": "An"}, "finish_reason": None}
    return tuple({"id": "r-1", "object": "chat.completion.chunk", "choices": [choice], "usage": u} for u in usages)


def gemini(usage: JsonValue) -> tuple[JsonValue, ...]:
    """A native Gemini answer."""
    return ({"candidates": [{"content": {"parts": [{"text": "An"}]}}], "usageMetadata": usage, "responseId": "g-1"},)


def claude(usage: JsonValue) -> tuple[JsonValue, ...]:
    """A native Anthropic answer."""
    return ({"id": "msg_1", "type": "message", "content": [{"type": "text", "text": "An"}], "usage": usage},)


def usage(prompt: JsonValue, completion: JsonValue, total: JsonValue = None, **more: JsonValue) -> dict[str, JsonValue]:
    """OpenAI's usage."""
    plain = {"prompt_tokens": prompt, "completion_tokens": completion}
    return plain | ({} if total is None else {"total_tokens": total}) | more


def modality(**tokens: int) -> list[JsonValue]:
    """Gemini's details."""
    return [{"modality": name, "tokenCount": count} for name, count in tokens.items()]


OPENAI = [
    Shape(
        name="openai plain",
        source="OpenAI API reference, chat completion object",
        provider="openai",
        model="gpt-4o",
        events=oai(usage(19, 10, 29)),
        used={"input_tokens": 19, "output_tokens": 10},
        bill=((19, "2.5"), (10, "10")),
    ),
    Shape(
        name="openai cached input is inside the prompt",
        source="litellm issue 6215",
        provider="openai",
        model="gpt-4o",
        events=oai(
            usage(
                2006,
                300,
                2306,
                prompt_tokens_details={"cached_tokens": 1920},
                completion_tokens_details={"reasoning_tokens": 0},
            )
        ),
        used={"input_tokens": 86, "cached_input_tokens": 1920, "output_tokens": 300},
        bill=((86, "2.5"), (1920, "1.25"), (300, "10")),
    ),
    Shape(
        name="openai reasoning is inside the completion",
        source="OpenAI, reasoning guide",
        provider="openai",
        model="gpt-5",
        events=oai(usage(75, 1186, 1261, completion_tokens_details={"reasoning_tokens": 1024})),
        used={"input_tokens": 75, "output_tokens": 162, "reasoning_tokens": 1024},
        bill=((75, "1.25"), (1186, "10")),
    ),
    Shape(
        name="openai rejected predictions are inside the completion",
        source="OpenAI, predicted outputs",
        provider="openai",
        model="gpt-4o",
        events=oai(
            usage(
                312,
                224,
                536,
                completion_tokens_details={
                    "reasoning_tokens": 0,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 91,
                    "rejected_prediction_tokens": 33,
                },
            )
        ),
        used={"input_tokens": 312, "output_tokens": 224},
        bill=((312, "2.5"), (224, "10")),
    ),
    Shape(
        name="openai audio in and out",
        source="OpenAI, audio guide",
        provider="openai",
        model="gpt-audio",
        events=oai(
            usage(
                157,
                230,
                387,
                prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 141},
                completion_tokens_details={"reasoning_tokens": 0, "audio_tokens": 180},
            )
        ),
        used={"input_tokens": 16, "audio_input_tokens": 141, "output_tokens": 50, "audio_output_tokens": 180},
        bill=((16, "2.5"), (141, "32"), (50, "10"), (180, "64")),
    ),
    Shape(
        name="openai audio of a model whose audio is not listed",
        source="gpt-4o-audio-preview, listed with text prices alone",
        provider="openai",
        model="gpt-4o-audio-preview",
        events=oai(usage(157, 30, 187, prompt_tokens_details={"audio_tokens": 141})),
        used={"input_tokens": 16, "audio_input_tokens": 141, "output_tokens": 30},
        bill=None,
        says="unknown",
    ),
    Shape(
        name="openai cached audio is told apart",
        source="OpenAI, realtime usage: cached_tokens_details",
        provider="openai",
        model="gpt-realtime",
        events=oai(
            {
                "total_tokens": 253,
                "input_tokens": 132,
                "output_tokens": 121,
                "input_token_details": {
                    "text_tokens": 119,
                    "audio_tokens": 13,
                    "cached_tokens": 64,
                    "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0},
                },
                "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
            }
        ),
        used={
            "input_tokens": 55,
            "cached_input_tokens": 64,
            "audio_input_tokens": 13,
            "output_tokens": 30,
            "audio_output_tokens": 91,
        },
        bill=((55, "4"), (64, "0.4"), (13, "32"), (30, "16"), (91, "64")),
        extractor=None,
    ),
    Shape(
        name="openai responses",
        source="OpenAI API reference, response object",
        provider="openai",
        model="gpt-5",
        events=oai(
            {
                "input_tokens": 328,
                "input_tokens_details": {"cached_tokens": 128},
                "output_tokens": 52,
                "output_tokens_details": {"reasoning_tokens": 12},
                "total_tokens": 380,
            }
        ),
        used={"input_tokens": 200, "cached_input_tokens": 128, "output_tokens": 40, "reasoning_tokens": 12},
        bill=((200, "1.25"), (128, "0.125"), (52, "10")),
        extractor="responses",
    ),
    Shape(
        name="openai images",
        source="OpenAI, image generation usage",
        provider="openai",
        model="gpt-image-1.5",
        events=oai(
            {
                "total_tokens": 100,
                "input_tokens": 50,
                "output_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens_details": {"text_tokens": 0, "image_tokens": 50},
            }
        ),
        used={"input_tokens": 10, "image_input_tokens": 40, "image_output_tokens": 50},
        bill=((10, "5"), (40, "8"), (50, "32")),
        extractor="images",
    ),
    Shape(
        name="openai embeddings",
        source="OpenAI API reference, embeddings",
        provider="openai",
        model="text-embedding-3-small",
        events=({"object": "list", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}},),
        used={"input_tokens": 8},
        bill=((8, "0.02"),),
        extractor="embeddings",
    ),
    Shape(
        name="openai flex costs half",
        source="OpenAI, flex processing",
        provider="openai",
        model="gpt-5",
        events=oai(usage(1000, 200, 1200, prompt_tokens_details={"cached_tokens": 600}), service_tier="flex"),
        used={"input_tokens": 400, "cached_input_tokens": 600, "output_tokens": 200},
        bill=((400, "0.625"), (600, "0.0625"), (200, "5")),
    ),
    Shape(
        name="openai priority costs double",
        source="OpenAI, priority processing",
        provider="openai",
        model="gpt-5",
        events=oai(usage(1000, 200, 1200), service_tier="priority"),
        used={"input_tokens": 1000, "output_tokens": 200},
        bill=((1000, "2.5"), (200, "20")),
    ),
    Shape(
        name="openai default tier is the standard one",
        source="OpenAI API reference, service_tier",
        provider="openai",
        model="gpt-5",
        events=oai(usage(1000, 200, 1200), service_tier="default"),
        used={"input_tokens": 1000, "output_tokens": 200},
        bill=((1000, "1.25"), (200, "10")),
    ),
    Shape(
        name="openai scale tier has no price",
        source="OpenAI, scale tier (bought in units)",
        provider="openai",
        model="gpt-5",
        events=oai(usage(1000, 200, 1200), service_tier="scale"),
        used={"input_tokens": 1000, "output_tokens": 200},
        bill=((1000, "1.25"), (200, "10")),
        says="estimated",
    ),
    Shape(
        name="openai batch costs half",
        source="OpenAI, batch API",
        provider="openai",
        model="gpt-5-mini",
        events=oai(usage(1001, 3, 1004), service_tier="batch"),
        used={"input_tokens": 1001, "output_tokens": 3},
        bill=((1001, "0.125"), (3, "1")),
    ),
    Shape(
        name="openai price of before it fell",
        source="OpenAI, o3 80 % cheaper from 2025-06-10",
        provider="openai",
        model="o3",
        events=oai(usage(1000, 100, 1100)),
        used={"input_tokens": 1000, "output_tokens": 100},
        bill=((1000, "10"), (100, "40")),
        at=datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC),
    ),
    Shape(
        name="openai price from the day it fell",
        source="OpenAI, o3 80 % cheaper from 2025-06-10",
        provider="openai",
        model="o3",
        events=oai(usage(1000, 100, 1100)),
        used={"input_tokens": 1000, "output_tokens": 100},
        bill=((1000, "2"), (100, "8")),
        at=datetime(2025, 6, 10, tzinfo=UTC),
    ),
    Shape(
        name="half a nano-dollar rounds to even",
        source="gpt-5 batch: 3 cached tokens at 0.0625 are 187.5 nano-dollars",
        provider="openai",
        model="gpt-5",
        events=oai(usage(3, 0, 3, prompt_tokens_details={"cached_tokens": 3}), service_tier="batch"),
        used={"cached_input_tokens": 3},
        bill=((3, "0.0625"),),
    ),
    Shape(
        name="usage on every chunk is cumulative",
        source="Fireworks, vLLM continuous_usage_stats; lemma-platform pull request 564",
        provider="together",
        model="meta-llama/Llama-3.3-70B-Instruct-Turbo",
        events=stream(usage(210, 1, 211), usage(210, 2, 212), usage(210, 57, 267)),
        used={"input_tokens": 210, "output_tokens": 57},
        bill=((267, "0.88"),),
    ),
    Shape(
        name="usage repeated at the end counts once",
        source="diri pull request 174",
        provider="openai",
        model="gpt-4o",
        events=stream(None, usage(100, 20, 120), usage(100, 20, 120)),
        used={"input_tokens": 100, "output_tokens": 20},
        bill=((100, "2.5"), (20, "10")),
    ),
    Shape(
        name="usage of zeros after the real one changes nothing",
        source="proxies that end a stream with an empty usage",
        provider="openai",
        model="gpt-4o",
        events=stream(usage(100, 20, 120), usage(0, 0, 0)),
        used={"input_tokens": 100, "output_tokens": 20},
        bill=((100, "2.5"), (20, "10")),
    ),
    Shape(
        name="usage that shrinks contradicts itself",
        source="a cumulative count that falls",
        provider="openai",
        model="gpt-4o",
        events=stream(usage(100, 20, 120), usage(100, 5, 105)),
        used={"input_tokens": 100, "output_tokens": 20},
        bill=((100, "2.5"), (20, "10")),
        says="estimated",
    ),
]

ANTHROPIC = [
    Shape(
        name="anthropic plain",
        source="Anthropic API reference, messages",
        provider="anthropic",
        model="claude-haiku-4-5",
        events=claude({"input_tokens": 2095, "output_tokens": 503}),
        used={"input_tokens": 2095, "output_tokens": 503},
        bill=((2095, "1"), (503, "5")),
        extractor="default",
    ),
    Shape(
        name="anthropic cache writes are beside the input",
        source="litellm issue 9812, checked against Anthropic's billing console: $0.05439 with 12,304 written",
        provider="anthropic",
        model="claude-3-7-sonnet-latest",
        events=claude(
            {
                "input_tokens": 3,
                "cache_creation_input_tokens": 12304,
                "cache_read_input_tokens": 0,
                "output_tokens": 550,
            }
        ),
        used={"input_tokens": 3, "cache_write_tokens": 12304, "output_tokens": 550},
        bill=((3, "3"), (12304, "3.75"), (550, "15")),
        extractor="default",
    ),
    Shape(
        name="anthropic cache reads are beside the input",
        source="Anthropic, prompt caching",
        provider="anthropic",
        model="claude-haiku-4-5",
        events=claude(
            {
                "input_tokens": 50,
                "cache_read_input_tokens": 100_000,
                "cache_creation_input_tokens": 248,
                "output_tokens": 503,
            }
        ),
        used={
            "input_tokens": 50,
            "cached_input_tokens": 100_000,
            "cache_write_tokens": 248,
            "output_tokens": 503,
        },
        bill=((50, "1"), (100_000, "0.1"), (248, "1.25"), (503, "5")),
        extractor="default",
    ),
    Shape(
        name="anthropic writes for five minutes and for an hour",
        source="Anthropic, prompt caching: 1-hour cache duration",
        provider="anthropic",
        model="claude-opus-4-5",
        events=claude(
            {
                "input_tokens": 2048,
                "cache_read_input_tokens": 1800,
                "cache_creation_input_tokens": 248,
                "output_tokens": 503,
                "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
            }
        ),
        used={
            "input_tokens": 2048,
            "cached_input_tokens": 1800,
            "cache_write_tokens": 148,
            "cache_write_1h_tokens": 100,
            "output_tokens": 503,
        },
        bill=((2048, "5"), (1800, "0.5"), (148, "6.25"), (100, "10"), (503, "25")),
        extractor="default",
    ),
    Shape(
        name="anthropic fully cached prompt",
        source="Anthropic, prompt caching: input_tokens 0",
        provider="anthropic",
        model="claude-haiku-4-5",
        events=claude({"input_tokens": 0, "cache_read_input_tokens": 5000, "output_tokens": 12}),
        used={"cached_input_tokens": 5000, "output_tokens": 12},
        bill=((5000, "0.1"), (12, "5")),
        extractor="default",
    ),
    Shape(
        name="anthropic stream tells input first and output last",
        source="Anthropic, streaming messages",
        provider="anthropic",
        model="claude-haiku-4-5",
        events=(
            {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 25, "output_tokens": 1}}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}},
        ),
        used={"input_tokens": 25, "output_tokens": 15},
        bill=((25, "1"), (15, "5")),
        extractor="default",
    ),
    Shape(
        name="anthropic stream repeats its input at the end",
        source="one-api-pro issue 13",
        provider="anthropic",
        model="claude-opus-4-5",
        events=(
            {
                "type": "message_start",
                "message": {
                    "id": "msg_1",
                    "usage": {
                        "input_tokens": 27,
                        "cache_creation_input_tokens": 900,
                        "cache_read_input_tokens": 4000,
                        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 900},
                        "output_tokens": 3,
                    },
                },
            },
            {
                "type": "message_delta",
                "usage": {
                    "input_tokens": 27,
                    "cache_creation_input_tokens": 900,
                    "cache_read_input_tokens": 4000,
                    "output_tokens": 47,
                },
            },
        ),
        used={
            "input_tokens": 27,
            "cached_input_tokens": 4000,
            "cache_write_1h_tokens": 900,
            "output_tokens": 47,
        },
        bill=((27, "5"), (4000, "0.5"), (900, "10"), (47, "25")),
        extractor="default",
    ),
    Shape(
        name="anthropic compaction is beside the top",
        source="Anthropic, compaction: understanding usage; pydantic-ai issue 5065",
        provider="anthropic",
        model="claude-opus-4-6",
        events=claude(
            {
                "input_tokens": 23_000,
                "output_tokens": 1000,
                "iterations": [
                    {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500},
                    {"type": "message", "input_tokens": 23_000, "output_tokens": 1000},
                ],
            }
        ),
        used={"input_tokens": 203_000, "output_tokens": 4500},
        bill=((203_000, "5"), (4500, "25")),
        extractor="default",
    ),
    Shape(
        name="anthropic compaction reads its cache",
        source="litellm pull request 27065",
        provider="anthropic",
        model="claude-opus-4-6",
        events=claude(
            {
                "input_tokens": 100,
                "output_tokens": 50,
                "iterations": [
                    {
                        "type": "compaction",
                        "input_tokens": 200,
                        "output_tokens": 300,
                        "cache_read_input_tokens": 150_000,
                        "cache_creation_input_tokens": 1000,
                    },
                    {"type": "message", "input_tokens": 100, "output_tokens": 50},
                ],
            }
        ),
        used={
            "input_tokens": 300,
            "cached_input_tokens": 150_000,
            "cache_write_tokens": 1000,
            "output_tokens": 350,
        },
        bill=((300, "5"), (150_000, "0.5"), (1000, "6.25"), (350, "25")),
        extractor="default",
    ),
    Shape(
        name="anthropic iterations without compaction are in the top already",
        source="bifrost pull request 6500: declined fallbacks are not billed",
        provider="anthropic",
        model="claude-opus-4-6",
        events=claude(
            {
                "input_tokens": 300,
                "output_tokens": 40,
                "iterations": [
                    {"type": "message", "input_tokens": 100, "output_tokens": 20},
                    {"type": "message", "input_tokens": 200, "output_tokens": 20},
                ],
            }
        ),
        used={"input_tokens": 300, "output_tokens": 40},
        bill=((300, "5"), (40, "25")),
        extractor="default",
    ),
    Shape(
        name="anthropic advisor is another model",
        source="Anthropic, advisor tool: usage.iterations of type advisor_message",
        provider="anthropic",
        model="claude-haiku-4-5",
        events=claude(
            {
                "input_tokens": 300,
                "output_tokens": 40,
                "iterations": [
                    {"type": "message", "input_tokens": 300, "output_tokens": 40},
                    {"type": "advisor_message", "model": "claude-opus-4-6", "input_tokens": 823, "output_tokens": 1612},
                ],
            }
        ),
        used={"input_tokens": 300, "output_tokens": 40},
        bill=None,
        says="unknown",
        extractor="default",
    ),
    Shape(
        name="anthropic web searches",
        source="Anthropic, web search tool: usage",
        provider="anthropic",
        model="claude-opus-4-5",
        events=claude(
            {
                "input_tokens": 105,
                "output_tokens": 6039,
                "cache_read_input_tokens": 7123,
                "cache_creation_input_tokens": 7345,
                "server_tool_use": {"web_search_requests": 3},
            }
        ),
        used={
            "input_tokens": 105,
            "cached_input_tokens": 7123,
            "cache_write_tokens": 7345,
            "output_tokens": 6039,
            "web_searches": 3,
        },
        bill=((105, "5"), (7123, "0.5"), (7345, "6.25"), (6039, "25")),
        fees="0.03",
        extractor="default",
    ),
    Shape(
        name="anthropic batch",
        source="Anthropic, message batches: usage.service_tier",
        provider="anthropic",
        model="claude-sonnet-4-5",
        events=claude({"input_tokens": 1000, "output_tokens": 333, "service_tier": "batch"}),
        used={"input_tokens": 1000, "output_tokens": 333},
        bill=((1000, "1.5"), (333, "7.5")),
        extractor="default",
    ),
    Shape(
        name="anthropic context tier exactly at its threshold",
        source="Anthropic, long context pricing: above 200K tokens of input, caches included",
        provider="anthropic",
        model="claude-sonnet-4-5",
        events=claude({"input_tokens": 150_000, "cache_read_input_tokens": 50_000, "output_tokens": 100}),
        used={"input_tokens": 150_000, "cached_input_tokens": 50_000, "output_tokens": 100},
        bill=((150_000, "3"), (50_000, "0.3"), (100, "15")),
        extractor="default",
    ),
    Shape(
        name="anthropic context tier one token above",
        source="Anthropic, long context pricing",
        provider="anthropic",
        model="claude-sonnet-4-5",
        events=claude({"input_tokens": 150_001, "cache_read_input_tokens": 50_000, "output_tokens": 100}),
        used={"input_tokens": 150_001, "cached_input_tokens": 50_000, "output_tokens": 100},
        bill=((150_001, "6"), (50_000, "0.6"), (100, "22.5")),
        extractor="default",
    ),
    Shape(
        name="anthropic compaction across a context tier",
        source="each reading has its own context: the sum's tier may be too dear",
        provider="anthropic",
        model="claude-sonnet-4-5",
        events=claude(
            {
                "input_tokens": 30_000,
                "output_tokens": 10,
                "iterations": [{"type": "compaction", "input_tokens": 180_000, "output_tokens": 20}],
            }
        ),
        used={"input_tokens": 210_000, "output_tokens": 30},
        bill=((210_000, "6"), (30, "22.5")),
        says="estimated",
        extractor="default",
    ),
    Shape(
        name="anthropic behind a proxy, caches inside the prompt",
        source="aider issue 5516: LiteLLM's prompt_tokens",
        provider="anthropic",
        model="claude-haiku-4-5",
        events=oai(
            usage(
                17_111,
                40,
                17_151,
                prompt_tokens_details={"cached_tokens": 17_102},
                cache_read_input_tokens=17_102,
                cache_creation_input_tokens=0,
            )
        ),
        used={"input_tokens": 9, "cached_input_tokens": 17_102, "output_tokens": 40},
        bill=((9, "1"), (17_102, "0.1"), (40, "5")),
        extractor=None,
    ),
    Shape(
        name="anthropic behind a proxy, caches beside the prompt",
        source="proxies that rename input_tokens to prompt_tokens",
        provider="anthropic",
        model="claude-haiku-4-5",
        events=oai(usage(9, 40, 17_451, cache_read_input_tokens=17_102, cache_creation_input_tokens=300)),
        used={"input_tokens": 9, "cached_input_tokens": 17_102, "cache_write_tokens": 300, "output_tokens": 40},
        bill=((9, "1"), (17_102, "0.1"), (300, "1.25"), (40, "5")),
        extractor=None,
    ),
    Shape(
        name="anthropic behind a proxy, an hour's writes in the details",
        source="browser-use pull request 5306: prompt 2000 of which 500 read and 300 written",
        provider="anthropic",
        model="claude-haiku-4-5",
        events=oai(
            usage(
                2000,
                10,
                2010,
                prompt_tokens_details={
                    "cached_tokens": 500,
                    "cache_creation_tokens": 300,
                    "cache_creation_token_details": {
                        "ephemeral_5m_input_tokens": 100,
                        "ephemeral_1h_input_tokens": 200,
                    },
                },
            )
        ),
        used={
            "input_tokens": 1200,
            "cached_input_tokens": 500,
            "cache_write_tokens": 100,
            "cache_write_1h_tokens": 200,
            "output_tokens": 10,
        },
        bill=((1200, "1"), (500, "0.1"), (100, "1.25"), (200, "2"), (10, "5")),
        extractor=None,
    ),
]

GOOGLE = [
    Shape(
        name="gemini plain",
        source="Gemini API reference, UsageMetadata",
        provider="google",
        model="gemini-2.5-flash",
        events=gemini({"promptTokenCount": 20, "candidatesTokenCount": 198, "totalTokenCount": 218}),
        used={"input_tokens": 20, "output_tokens": 198},
        bill=((20, "0.3"), (198, "2.5")),
        extractor="default",
    ),
    Shape(
        name="gemini thoughts are beside the candidates",
        source="any-llm issue 1290",
        provider="google",
        model="gemini-2.5-flash",
        events=gemini(
            {"promptTokenCount": 20, "candidatesTokenCount": 198, "thoughtsTokenCount": 405, "totalTokenCount": 623}
        ),
        used={"input_tokens": 20, "output_tokens": 198, "reasoning_tokens": 405},
        bill=((20, "0.3"), (603, "2.5")),
        extractor="default",
    ),
    Shape(
        name="gemini thoughts without candidates",
        source="CLIProxyAPI issue 5733",
        provider="google",
        model="gemini-2.5-flash",
        events=gemini({"promptTokenCount": 21, "thoughtsTokenCount": 60, "totalTokenCount": 81}),
        used={"input_tokens": 21, "reasoning_tokens": 60},
        bill=((21, "0.3"), (60, "2.5")),
        extractor="default",
    ),
    Shape(
        name="gemini tool results are input",
        source="new-api issue 2935; agentscope-java issue 3033",
        provider="google",
        model="gemini-3-flash-preview",
        events=gemini(
            {
                "promptTokenCount": 151,
                "candidatesTokenCount": 1089,
                "totalTokenCount": 20_689,
                "toolUsePromptTokenCount": 18_329,
                "thoughtsTokenCount": 1120,
                "promptTokensDetails": modality(TEXT=151),
                "toolUsePromptTokensDetails": modality(TEXT=18_329),
            }
        ),
        used={"input_tokens": 18_480, "output_tokens": 1089, "reasoning_tokens": 1120},
        bill=((18_480, "0.5"), (2209, "3")),
        extractor="default",
    ),
    Shape(
        name="gemini cached content is inside the prompt",
        source="pi pull request 2148",
        provider="google",
        model="gemini-3-flash-preview",
        events=gemini(
            {
                "promptTokenCount": 20_212,
                "cachedContentTokenCount": 16_298,
                "candidatesTokenCount": 931,
                "totalTokenCount": 21_143,
            }
        ),
        used={"input_tokens": 3914, "cached_input_tokens": 16_298, "output_tokens": 931},
        bill=((3914, "0.5"), (16_298, "0.05"), (931, "3")),
        extractor="default",
    ),
    Shape(
        name="gemini audio costs more",
        source="Gemini API, audio understanding: 32 tokens a second",
        provider="google",
        model="gemini-2.5-flash",
        events=gemini(
            {
                "promptTokenCount": 1930,
                "candidatesTokenCount": 10,
                "totalTokenCount": 1940,
                "promptTokensDetails": modality(TEXT=10, AUDIO=1920),
            }
        ),
        used={"input_tokens": 10, "audio_input_tokens": 1920, "output_tokens": 10},
        bill=((10, "0.3"), (1920, "1"), (10, "2.5")),
        extractor="default",
    ),
    Shape(
        name="gemini cached audio",
        source="Gemini API, context caching: cacheTokensDetails",
        provider="google",
        model="gemini-2.5-flash",
        events=gemini(
            {
                "promptTokenCount": 2000,
                "cachedContentTokenCount": 1920,
                "candidatesTokenCount": 10,
                "totalTokenCount": 2010,
                "promptTokensDetails": modality(TEXT=80, AUDIO=1920),
                "cacheTokensDetails": modality(AUDIO=1920),
            }
        ),
        used={"input_tokens": 80, "cached_input_tokens": 1920, "output_tokens": 10},
        bill=((80, "0.3"), (1920, "0.03"), (10, "2.5")),
        says="estimated",  # 0.1 a million in truth: the class is cached input whatever its modality
        extractor="default",
    ),
    Shape(
        name="gemini pictures cost what text costs",
        source="llm-gemini issue 75",
        provider="google",
        model="gemini-2.5-pro",
        events=gemini(
            {
                "promptTokenCount": 264,
                "candidatesTokenCount": 104,
                "thoughtsTokenCount": 989,
                "totalTokenCount": 1357,
                "promptTokensDetails": modality(TEXT=6, IMAGE=258),
            }
        ),
        used={"input_tokens": 6, "image_input_tokens": 258, "output_tokens": 104, "reasoning_tokens": 989},
        bill=((264, "1.25"), (1093, "10")),
        extractor="default",
    ),
    Shape(
        name="gemini made a picture",
        source="Gemini API, image generation: 1290 tokens a picture",
        provider="google",
        model="gemini-2.5-flash-image",
        events=gemini(
            {
                "promptTokenCount": 12,
                "candidatesTokenCount": 1300,
                "totalTokenCount": 1312,
                "candidatesTokensDetails": modality(TEXT=10, IMAGE=1290),
            }
        ),
        used={"input_tokens": 12, "output_tokens": 10, "image_output_tokens": 1290},
        bill=((12, "0.3"), (10, "2.5"), (1290, "30")),
        extractor="default",
    ),
    Shape(
        name="gemini context tier exactly at its threshold",
        source="Gemini API pricing: prompts <= 200k",
        provider="google",
        model="gemini-2.5-pro",
        events=gemini({"promptTokenCount": 200_000, "candidatesTokenCount": 1, "totalTokenCount": 200_001}),
        used={"input_tokens": 200_000, "output_tokens": 1},
        bill=((200_000, "1.25"), (1, "10")),
        extractor="default",
    ),
    Shape(
        name="gemini context tier counts what is cached",
        source="litellm issue 14849: prompt 262,960 of which 257,955 cached",
        provider="google",
        model="gemini-2.5-pro",
        events=oai(
            usage(
                262_960,
                1744,
                264_704,
                prompt_tokens_details={"text_tokens": 262_960, "cached_tokens": 257_955},
                completion_tokens_details={"reasoning_tokens": 0},
            )
        ),
        used={"input_tokens": 5005, "cached_input_tokens": 257_955, "output_tokens": 1744},
        bill=((5005, "2.5"), (257_955, "0.25"), (1744, "15")),
    ),
    Shape(
        name="gemini's OpenAI face has thoughts in the total alone",
        source="clarifai-python pull request 978: prompt 20, completion 424, total 1016",
        provider="google",
        model="gemini-2.5-flash",
        events=oai(usage(20, 424, 1016)),
        used={"input_tokens": 20, "output_tokens": 424, "reasoning_tokens": 572},
        bill=((20, "0.3"), (996, "2.5")),
        says="estimated",
    ),
    Shape(
        name="gemini's OpenAI face through a proxy, completion 0",
        source="CLIProxyAPI issue 5733",
        provider="google",
        model="gemini-2.5-flash",
        events=oai(usage(21, 0, 81, completion_tokens_details={"reasoning_tokens": 60})),
        used={"input_tokens": 21, "reasoning_tokens": 60},
        bill=((21, "0.3"), (60, "2.5")),
    ),
    Shape(
        name="gemini streams cumulative counts",
        source="langchainjs pull request 8694",
        provider="google",
        model="gemini-2.5-flash",
        events=(
            gemini({"promptTokenCount": 30, "thoughtsTokenCount": 50, "totalTokenCount": 80})[0],
            gemini(
                {"promptTokenCount": 30, "candidatesTokenCount": 5, "thoughtsTokenCount": 50, "totalTokenCount": 85}
            )[0],
            gemini(
                {"promptTokenCount": 30, "candidatesTokenCount": 40, "thoughtsTokenCount": 50, "totalTokenCount": 120}
            )[0],
        ),
        used={"input_tokens": 30, "output_tokens": 40, "reasoning_tokens": 50},
        bill=((30, "0.3"), (90, "2.5")),
        extractor="default",
    ),
]

OTHERS = [
    Shape(
        name="xai reasoning is beside the completion",
        source="xAI API reference: 32 + 9 + 94 = 135",
        provider="x-ai",
        model="grok-4-fast-reasoning",
        events=oai(
            usage(
                32,
                9,
                135,
                prompt_tokens_details={"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
                completion_tokens_details={"reasoning_tokens": 94, "audio_tokens": 0},
                num_sources_used=0,
            )
        ),
        used={"input_tokens": 26, "cached_input_tokens": 6, "output_tokens": 9, "reasoning_tokens": 94},
        bill=((26, "0.2"), (6, "0.05"), (103, "0.5")),
    ),
    Shape(
        name="xai's own ticks agree",
        source="sub2api issue 5771: cost_in_usd_ticks 232856000",
        provider="x-ai",
        model="grok-4.20",
        events=oai(
            usage(
                10_120,
                1499,
                14_428,
                prompt_tokens_details={"cached_tokens": 128},
                completion_tokens_details={"reasoning_tokens": 2809},
                cost_in_usd_ticks=232_856_000,
            )
        ),
        used={"input_tokens": 9992, "cached_input_tokens": 128, "output_tokens": 1499, "reasoning_tokens": 2809},
        bill=((9992, "1.25"), (128, "0.2"), (4308, "2.5")),
    ),
    Shape(
        name="xai reasoning inside, as its total says",
        source="promptfoo pull request 9507",
        provider="x-ai",
        model="grok-3-mini",
        events=oai(usage(500, 500, 1000, completion_tokens_details={"reasoning_tokens": 200})),
        used={"input_tokens": 500, "output_tokens": 300, "reasoning_tokens": 200},
        bill=((500, "0.3"), (500, "0.5")),
    ),
    Shape(
        name="xai short answer of a long thought",
        source="vercel/ai pull request 12425",
        provider="x-ai",
        model="grok-3-mini",
        events=oai(usage(12, 2, 331, completion_tokens_details={"reasoning_tokens": 317})),
        used={"input_tokens": 12, "output_tokens": 2, "reasoning_tokens": 317},
        bill=((12, "0.3"), (319, "0.5")),
    ),
    Shape(
        name="xai live search sources have no price here",
        source="xAI, live search: $25 per 1,000 sources",
        provider="x-ai",
        model="grok-4-fast-reasoning",
        events=oai(usage(32, 9, 41, num_sources_used=7)),
        used={"input_tokens": 32, "output_tokens": 9},
        bill=None,
        says="unknown",
    ),
    Shape(
        name="xai context tier at 200,000",
        source="xAI pricing: requests of 200,000 tokens and more",
        provider="x-ai",
        model="grok-4.20",
        events=oai(usage(200_000, 10, 200_010)),
        used={"input_tokens": 200_000, "output_tokens": 10},
        bill=((200_000, "2.5"), (10, "5")),
    ),
    Shape(
        name="deepseek by day",
        source="DeepSeek pricing: 00:30 to 16:30 UTC",
        provider="deepseek",
        model="deepseek-chat",
        events=oai(
            usage(
                1000,
                100,
                1100,
                prompt_cache_hit_tokens=640,
                prompt_cache_miss_tokens=360,
                prompt_tokens_details={"cached_tokens": 640},
            )
        ),
        used={"input_tokens": 360, "cached_input_tokens": 640, "output_tokens": 100},
        bill=((360, "0.27"), (640, "0.07"), (100, "1.1")),
        at=datetime(2026, 11, 2, 16, 29, 59, tzinfo=UTC),
    ),
    Shape(
        name="deepseek by night",
        source="DeepSeek pricing: 16:30 to 00:30 UTC",
        provider="deepseek",
        model="deepseek-chat",
        events=oai(usage(1000, 100, 1100, prompt_cache_hit_tokens=640, prompt_cache_miss_tokens=360)),
        used={"input_tokens": 360, "cached_input_tokens": 640, "output_tokens": 100},
        bill=((360, "0.135"), (640, "0.035"), (100, "0.55")),
        at=datetime(2026, 11, 2, 16, 30, tzinfo=UTC),
    ),
    Shape(
        name="deepseek hit and miss alone",
        source="servers that tell the prompt as hit and miss only",
        provider="deepseek",
        model="deepseek-v4-flash",
        events=oai({"prompt_cache_hit_tokens": 500, "prompt_cache_miss_tokens": 77, "completion_tokens": 9}),
        used={"input_tokens": 77, "cached_input_tokens": 500, "output_tokens": 9},
        bill=((77, "0.15"), (500, "0.003"), (9, "0.6")),
    ),
    Shape(
        name="deepseek by date and by hour",
        source="DeepSeek pricing: v4-flash at its peak, 01:00 to 04:00 UTC",
        provider="deepseek",
        model="deepseek-v4-flash",
        events=oai(usage(577, 9, 586, prompt_cache_hit_tokens=500, prompt_cache_miss_tokens=77)),
        used={"input_tokens": 77, "cached_input_tokens": 500, "output_tokens": 9},
        bill=((77, "0.3"), (500, "0.006"), (9, "1.2")),
        at=datetime(2026, 11, 2, 1, 0, tzinfo=UTC),
    ),
    Shape(
        name="groq's usage in its own field",
        source="Groq API reference, chat completion chunk",
        provider="groq",
        model="llama-3.3-70b-versatile",
        events=(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "x_groq": {
                    "id": "req_1",
                    "usage": usage(
                        24, 377, 401, queue_time=0.037, prompt_time=0.0009, completion_time=0.68, total_time=0.68
                    ),
                },
            },
        ),
        used={"input_tokens": 24, "output_tokens": 377},
        bill=((24, "0.59"), (377, "0.79")),
    ),
    Shape(
        name="groq's usage in both fields counts once",
        source="Groq with stream_options.include_usage",
        provider="groq",
        model="openai/gpt-oss-120b",
        events=(
            {
                "choices": [],
                "usage": usage(200, 10, 210, prompt_tokens_details={"cached_tokens": 128}),
                "x_groq": {"usage": usage(200, 10, 210, prompt_tokens_details={"cached_tokens": 128})},
            },
        ),
        used={"input_tokens": 72, "cached_input_tokens": 128, "output_tokens": 10},
        bill=((72, "0.15"), (128, "0.075"), (10, "0.6")),
    ),
    Shape(
        name="groq on demand is the standard tier",
        source="Groq API reference, service_tier",
        provider="groq",
        model="llama-3.3-70b-versatile",
        events=oai(usage(24, 377, 401), service_tier="on_demand"),
        used={"input_tokens": 24, "output_tokens": 377},
        bill=((24, "0.59"), (377, "0.79")),
    ),
    Shape(
        name="openrouter states what it charges",
        source="OpenRouter, usage accounting",
        provider="openrouter",
        model="openai/gpt-4o-mini",
        events=oai(
            usage(
                194,
                2,
                196,
                cost=0.0000303,
                is_byok=False,
                cost_details={"upstream_inference_cost": None},
                prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 0},
                completion_tokens_details={"reasoning_tokens": 0},
            )
        ),
        used={"input_tokens": 194, "output_tokens": 2},
        bill=(),
        fees="0.0000303",
        says="provider",
    ),
    Shape(
        name="openrouter with the caller's own key",
        source="forgecode issue 1641: cost 0, upstream 0.0360795",
        provider="openrouter",
        model="anthropic/claude-sonnet-4.5",
        events=oai(
            usage(
                9171,
                113,
                9284,
                cost=0,
                is_byok=True,
                cost_details={"upstream_inference_cost": 0.0360795},
                completion_tokens_details={"reasoning_tokens": 55, "image_tokens": 0},
            )
        ),
        used={"input_tokens": 9171, "output_tokens": 58, "reasoning_tokens": 55},
        bill=(),
        fees="0.0360795",
        says="provider",
    ),
    Shape(
        name="openrouter with the caller's own key before it said so",
        source="OpenRouter's documentation: cost 0.95 is 5 % of 19",
        provider="openrouter",
        model="openai/gpt-4o",
        events=oai(usage(194, 2, 196, cost=0.95, cost_details={"upstream_inference_cost": 19})),
        used={"input_tokens": 194, "output_tokens": 2},
        bill=(),
        fees="19.95",
        says="provider",
    ),
    Shape(
        name="openrouter's upstream cost is not added to a plain charge",
        source="automatos-ai pull request 745: every row was 2.0x the list",
        provider="openrouter",
        model="openai/gpt-4o",
        events=oai(
            usage(1000, 100, 1100, cost=0.0035, is_byok=False, cost_details={"upstream_inference_cost": 0.0035})
        ),
        used={"input_tokens": 1000, "output_tokens": 100},
        bill=(),
        fees="0.0035",
        says="provider",
    ),
    Shape(
        name="openrouter without a stated cost",
        source="OpenRouter from before costs were told unasked",
        provider="openrouter",
        model="openai/gpt-4o-mini",
        events=oai(usage(194, 2, 196)),
        used={"input_tokens": 194, "output_tokens": 2},
        bill=((194, "0.15"), (2, "0.6")),
    ),
    Shape(
        name="openrouter cache writes are inside the prompt",
        source="OpenRouter, prompt_tokens_details.cache_write_tokens",
        provider="openrouter",
        model="anthropic/claude-sonnet-4.5",
        events=oai(
            usage(10_339, 60, 10_399, prompt_tokens_details={"cached_tokens": 10_018, "cache_write_tokens": 300})
        ),
        used={
            "input_tokens": 21,
            "cached_input_tokens": 10_018,
            "cache_write_tokens": 300,
            "output_tokens": 60,
        },
        bill=((21, "3"), (10_018, "0.3"), (300, "3.75"), (60, "15")),
    ),
    Shape(
        name="perplexity research bills citations, thoughts and searches beside the total",
        source="Perplexity, sonar deep research: total_cost 0.489384",
        provider="perplexity",
        model="sonar-deep-research",
        events=oai(usage(33, 7163, 7196, citation_tokens=20_016, num_search_queries=34, reasoning_tokens=73_994)),
        used={
            "input_tokens": 20_049,
            "output_tokens": 7163,
            "reasoning_tokens": 73_994,
            "web_searches": 34,
        },
        bill=((33, "2"), (7163, "8"), (20_016, "2"), (73_994, "3")),
        fees="0.17",
    ),
    Shape(
        name="perplexity's fee per request",
        source="Perplexity pricing: sonar-pro at high search context",
        provider="perplexity",
        model="sonar-pro",
        events=oai(usage(14, 240, 254, search_context_size="high")),
        used={"input_tokens": 14, "output_tokens": 240},
        bill=((14, "3"), (240, "15")),
        fees="0.014",
    ),
    Shape(
        name="perplexity's fee at another search context",
        source="Perplexity pricing: 6 dollars per 1,000 at low, told in usage.cost",
        provider="perplexity",
        model="sonar-pro",
        events=oai(
            usage(
                14,
                240,
                254,
                search_context_size="low",
                cost={
                    "input_tokens_cost": 0.000042,
                    "output_tokens_cost": 0.0036,
                    "request_cost": 0.006,
                    "total_cost": 0.009642,
                },
            )
        ),
        used={"input_tokens": 14, "output_tokens": 240},
        bill=(),
        fees="0.009642",
        says="provider",
    ),
    Shape(
        name="mistral",
        source="Mistral API reference, chat",
        provider="mistral",
        model="mistral-small-latest",
        events=oai(usage(16, 34, 50, num_cached_tokens=8)),
        used={"input_tokens": 8, "cached_input_tokens": 8, "output_tokens": 34},
        bill=((8, "0.15"), (8, "0.015"), (34, "0.6")),
    ),
    Shape(
        name="moonshot has cached tokens at the top",
        source="Moonshot API reference, usage.cached_tokens",
        provider="moonshotai",
        model="kimi-k2-0905-preview",
        events=oai(usage(1000, 20, 1020, cached_tokens=768)),
        used={"input_tokens": 232, "cached_input_tokens": 768, "output_tokens": 20},
        bill=((232, "0.6"), (768, "0.15"), (20, "2.5")),
    ),
    Shape(
        name="cohere bills less than it reads",
        source="Cohere API reference, chat v2: billed_units",
        provider="cohere",
        model="command-a",
        events=oai(
            {
                "billed_units": {"input_tokens": 5, "output_tokens": 418},
                "tokens": {"input_tokens": 71, "output_tokens": 418},
            }
        ),
        used={"input_tokens": 5, "output_tokens": 418},
        bill=((5, "2.5"), (418, "10")),
        extractor="default",
    ),
    Shape(
        name="bedrock caches are beside the input",
        source="Amazon Bedrock, Converse TokenUsage",
        provider="aws",
        model="amazon.nova-pro-v1:0",
        events=oai(
            {"inputTokens": 12, "outputTokens": 30, "totalTokens": 1642, "cacheReadInputTokens": 1600},
        ),
        used={"input_tokens": 12, "cached_input_tokens": 1600, "output_tokens": 30},
        bill=((12, "0.8"), (1600, "0.2"), (30, "3.2")),
        extractor="default",
    ),
    Shape(
        name="voyage tells a total alone",
        source="Voyage API reference, embeddings",
        provider="voyageai",
        model="voyage-3",
        events=({"object": "list", "data": [], "usage": {"total_tokens": 10}},),
        used={"input_tokens": 10},
        bill=((10, "0.06"),),
        extractor="embeddings",
    ),
    Shape(
        name="whole numbers with a point are whole",
        source="proxies that decode JSON numbers as floats",
        provider="openai",
        model="gpt-4o",
        events=oai(usage(19.0, 10.0, 29.0)),
        used={"input_tokens": 19, "output_tokens": 10},
        bill=((19, "2.5"), (10, "10")),
    ),
]

CONTRADICTIONS = [
    Shape(
        name="more cached than read",
        source="a negative charge elsewhere",
        provider="openai",
        model="gpt-4o",
        events=oai(usage(100, 10, 110, prompt_tokens_details={"cached_tokens": 150})),
        used={"cached_input_tokens": 100, "output_tokens": 10},
        bill=((100, "1.25"), (10, "10")),
        says="estimated",
    ),
    Shape(
        name="more reasoning than output, and a total that has no room for it",
        source="proxies that copy another answer's details",
        provider="openai",
        model="gpt-5",
        events=oai(usage(100, 10, 110, completion_tokens_details={"reasoning_tokens": 50})),
        used={"input_tokens": 100, "reasoning_tokens": 10},
        bill=((100, "1.25"), (10, "10")),
        says="estimated",
    ),
    Shape(
        name="more reasoning than output, and no total",
        source="proxies that drop the total",
        provider="openai",
        model="gpt-5",
        events=oai(usage(100, 10, completion_tokens_details={"reasoning_tokens": 50})),
        used={"input_tokens": 100, "output_tokens": 10, "reasoning_tokens": 50},
        bill=((100, "1.25"), (60, "10")),
        says="estimated",
    ),
    Shape(
        name="a total below its parts",
        source="a total that counts the output alone",
        provider="openai",
        model="gpt-4o",
        events=oai(usage(100, 10, 10)),
        used={"input_tokens": 100, "output_tokens": 10},
        bill=((100, "2.5"), (10, "10")),
        says="estimated",
    ),
    Shape(
        name="a total far above its parts",
        source="a total that counts the whole conversation",
        provider="openai",
        model="gpt-4o",
        events=oai(usage(100, 10, 900_000_000)),
        used={"input_tokens": 100, "output_tokens": 10},
        bill=((100, "2.5"), (10, "10")),
        says="estimated",
    ),
    Shape(
        name="negative cached tokens",
        source="counters that wrapped",
        provider="openai",
        model="gpt-4o",
        events=oai(usage(100, 10, 110, prompt_tokens_details={"cached_tokens": -20})),
        used={"input_tokens": 100, "output_tokens": 10},
        bill=((100, "2.5"), (10, "10")),
        says="estimated",
    ),
    Shape(
        name="numbers as text",
        source="proxies that quote numbers",
        provider="openai",
        model="gpt-4o",
        events=oai(usage("100", "10", "110")),
        used={"input_tokens": 100, "output_tokens": 10},
        bill=((100, "2.5"), (10, "10")),
        says="estimated",
    ),
    Shape(
        name="cached in two places that differ",
        source="proxies that translate one of them",
        provider="deepseek",
        model="deepseek-chat",
        events=oai(usage(1000, 100, 1100, prompt_cache_hit_tokens=640, prompt_tokens_details={"cached_tokens": 128})),
        used={"input_tokens": 872, "cached_input_tokens": 128, "output_tokens": 100},
        bill=((872, "0.135"), (128, "0.035"), (100, "0.55")),
        says="estimated",
    ),
]

SHAPES = [*OPENAI, *ANTHROPIC, *GOOGLE, *OTHERS, *CONTRADICTIONS]
