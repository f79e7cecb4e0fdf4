"""Every provider's usage becomes disjoint classes and the right cost, or is marked; see `tests.usage_shapes`."""

from __future__ import annotations

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from backends.price_list import provider_schedule
from backends.prices import STANDARD_TIERS
from backends.replies import read_chunk, read_whole
from backends.usage import merge_usage, read_usage
from backends.words import JsonValue, Provenance, Usage
from gateway.settlement import charged
from policies.schema import Stated
from tests.usage_shapes import SHAPES, Shape

schedule = functools.cache(provider_schedule)
CLASSES = [field.name for field in fields(Usage) if field.name.endswith("_tokens") or field.name == "web_searches"]


def heard(shape: Shape) -> tuple[Usage, str]:
    """What the gateway makes of a shape's events: the usage, and the service tier."""
    usage, tier = None, None
    read = read_whole if len(shape.events) == 1 else read_chunk
    for payload in shape.payloads:
        event = read(payload)
        tier = event.tier or (event.usage.tier if event.usage else None) or tier
        usage = merge_usage(usage, event.usage) if event.usage is not None else usage
    assert usage is not None
    return usage, "" if tier is None or tier in STANDARD_TIERS else tier


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_classes_are_what_was_used(shape: Shape):
    usage, _ = heard(shape)
    assert {name: getattr(usage, name) for name in CLASSES if getattr(usage, name)} == shape.used


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_charge_is_the_providers_or_is_marked(shape: Shape):
    usage, tier = heard(shape)
    rates = schedule(shape.provider, shape.model).at(shape.at, usage.total_input_tokens, tier)
    stated = Stated.TRUST if shape.provider == "openrouter" else None
    assert charged(usage, rates, tier=tier, stated=stated) == (shape.cost_nusd, shape.says)


def test_the_table_is_large_enough_and_its_names_differ():
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) >= 60


def usage_of(**told: JsonValue) -> Usage | None:
    return read_usage(json.dumps(told).encode())


@pytest.mark.parametrize("value", [-1, True, 1.5, "many", 10**30, 1e300, [], {}, "-5", "9" * 40])
def test_what_is_no_count_is_unknown_not_zero(value: JsonValue):
    usage = usage_of(prompt_tokens=value, completion_tokens=10)
    assert usage is not None
    assert (usage.input_provenance, usage.total_input_tokens) == (Provenance.UNKNOWN, 0)
    assert (usage.output_provenance, usage.output_tokens) == (Provenance.PROVIDER, 10)


@pytest.mark.parametrize(
    "payload", [b"7", b'"x"', b"[]", b"null", b"{}", b'{"a":1}', b"{" * 100_000, b'{"a":', b"\xff"]
)
def test_what_is_no_usage_is_none(payload: bytes):
    assert read_usage(payload) is None


@pytest.mark.parametrize(
    "told", [{"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {"total_tokens": 12}]
)
def test_a_usage_that_tells_nothing_is_none(told: dict[str, int]):
    assert usage_of(**told) is None


def test_a_usage_of_another_shape_does_not_cost_the_answer():
    whole = read_whole(b'{"id":"x","choices":[{"message":{"content":"ok"}}],"usage":"much"}')
    assert (whole.content, whole.usage, whole.response_id) == ("ok", None, "x")


@pytest.mark.parametrize("value", ["-0.5", "1e999999999", "true", '"0.1"', "[1]", "1e9"])
def test_a_stated_cost_that_is_no_amount_is_none(value: str):
    usage = read_usage(f'{{"prompt_tokens":1,"completion_tokens":1,"cost":{value}}}'.encode())
    assert usage is not None
    assert usage.stated_cost_nusd is None


@pytest.mark.parametrize(
    ("value", "nusd"),
    [("0.0000000005", 0), ("0.0000000015", 2), ("9.3e-05", 93_000), ("0", 0), ("1e-999999999", 0), ("0.1", 10**8)],
)
def test_a_stated_cost_is_exact_and_rounds_half_to_even(value: str, nusd: int):
    usage = read_usage(f'{{"prompt_tokens":1,"completion_tokens":1,"cost":{value}}}'.encode())
    assert usage is not None
    assert usage.stated_cost_nusd == nusd


tokens = st.integers(0, 10**6)


@given(prompt=st.integers(1, 10**6), completion=tokens, parts=st.tuples(tokens, tokens, tokens), inside=st.booleans())
def test_the_classes_sum_to_the_providers_total(
    prompt: int, completion: int, parts: tuple[int, int, int], inside: bool
):
    cached, reasoning, audio = parts
    total = prompt + completion + (0 if inside else reasoning)
    usage = usage_of(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        prompt_tokens_details={"cached_tokens": cached, "audio_tokens": audio},
        completion_tokens_details={"reasoning_tokens": reasoning},
    )
    assert usage is not None
    assert usage.total_input_tokens + usage.total_output_tokens == total
    assert min(getattr(usage, name) for name in CLASSES) >= 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
NAMES = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cost",
    "is_byok",
    "cache_creation_input_tokens",
    "cache_creation",
    "prompt_tokens_details",
    "completion_tokens_details",
    "iterations",
    "cost_details",
    "promptTokenCount",
    "totalTokenCount",
    "thoughtsTokenCount",
    "promptTokensDetails",
    "billed_units",
    "inputTokens",
    "server_tool_use",
    "prompt_cache_hit_tokens",
    "citation_tokens",
    "cost_in_usd_ticks",
    "cached_tokens",
    "reasoning_tokens",
    "audio_tokens",
]


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(NAMES), json_values | st.dictionaries(st.sampled_from(NAMES), json_values)))
def test_no_usage_breaks_the_reader_or_has_a_negative_class(told: dict[str, JsonValue]):
    usage = usage_of(**told)
    assert usage is None or min(getattr(usage, name) for name in CLASSES) >= 0


counts = st.builds(
    Usage, input_tokens=st.integers(1, 99), cached_input_tokens=tokens, output_tokens=tokens, reasoning_tokens=tokens
)


@given(before=counts, after=counts)
def test_merged_counts_never_fall_and_repeating_changes_nothing(before: Usage, after: Usage):
    merged = merge_usage(before, after)
    assert merged.total_input_tokens == max(before.total_input_tokens, after.total_input_tokens)
    assert merged.total_output_tokens == max(before.total_output_tokens, after.total_output_tokens)
    assert merge_usage(after, after) == after
