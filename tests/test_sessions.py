"""Sessions: what a model's prompt cache is taken to hold of the next request, for how long, and of how many."""

from __future__ import annotations

import json

import pytest

from backends.asks import parse_ask
from backends.words import Ask, JsonValue, ModelId, Surface, TenantId
from gateway.sessions import SessionKey, Sessions

LARGE, SMALL = ModelId("large"), ModelId("small")
MINE: SessionKey = (TenantId("acme"), "s1")
RULES = {"role": "system", "content": "r" * 900}


def ask(*turns: str, rules: JsonValue = RULES, **fields: JsonValue) -> Ask:
    messages = [rules, *({"role": "user", "content": turn} for turn in turns)]
    return parse_ask(Surface.CHAT, json.dumps({"model": "auto", "messages": messages, **fields}).encode())


@pytest.fixture
def sessions() -> Sessions:
    """A session whose large model has read 1000 characters as 2000 tokens."""
    known = Sessions(limit=2, life_s=300)
    known.note(MINE, ask("q" * 100), LARGE, input_tokens=2000, now=0.0, is_pooled=False)
    return known


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (ask("q" * 100, "and then"), {LARGE: 2000}),
        (ask("another"), {LARGE: 1800}),
        (ask("q" * 100, rules={"role": "system", "content": "other rules"}), {}),
        (ask("q" * 100, tools=[{"type": "function"}]), {}),
    ],
)
def test_what_a_request_begins_with_alike_is_cached(sessions: Sessions, request_: Ask, tokens: dict[ModelId, int]):
    assert sessions.cached_tokens(MINE, request_, now=10.0) == tokens


def test_nothing_is_cached_for_others_nor_for_long(sessions: Sessions):
    again = ask("q" * 100)
    assert sessions.cached_tokens((TenantId("other"), "s1"), again, now=1.0) == {}
    assert sessions.cached_tokens(None, again, now=1.0) == {}
    assert sessions.cached_tokens(MINE, again, now=301.0) == {}


def test_providers_cache_no_short_prompts_and_pools_do(sessions: Sessions):
    for model, is_pooled in ((LARGE, False), (SMALL, True)):
        sessions.note(MINE, ask("q"), model, input_tokens=500, now=0.0, is_pooled=is_pooled)
    assert sessions.cached_tokens(MINE, ask("q"), now=1.0) == {SMALL: 500}


def test_the_sessions_used_least_recently_are_forgotten(sessions: Sessions):
    for name in ("s2", "s3", "s2", "s4"):
        sessions.note((TenantId("acme"), name), ask("q"), SMALL, input_tokens=9, now=0.0, is_pooled=True)
    known = [n for n in ("s1", "s2", "s3", "s4") if sessions.cached_tokens((TenantId("acme"), n), ask("q"), now=1.0)]
    assert (len(sessions), known) == (2, ["s2", "s4"])
