"""Which requests are the same, and which may be compared."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.asks import parse_ask
from backends.words import Ask, JsonValue, Surface, TenantId
from policies.schema import Bypassed
from semantic_cache.partition import Keys, Scope, keys_of, semantic_bypass
from semantic_cache.seam import Bypass, BypassReason

SCOPE = Scope(tenant=TenantId("acme"), answers=("large=huge",))


def ask(question: str = "What is it?", **fields: JsonValue) -> Ask:
    body = {"model": "m", "messages": [{"role": "user", "content": question}], "temperature": 0, **fields}
    return parse_ask(Surface.CHAT, json.dumps(body).encode())


def keys(asked: Ask, scope: Scope = SCOPE) -> Keys:
    made = keys_of(asked, scope, max_temperature=0.0)
    assert isinstance(made, Keys)
    return made


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "someone"},
        {"stream": True},
        {"stream_options": {"include_usage": True}},
        {"metadata": {"a": "b"}},
        {"model": "another name for it"},
        {"stop": None},
    ],
)
def test_what_does_not_change_an_answer_does_not_change_the_keys(fields: JsonValue):
    assert keys(ask(**fields)) == keys(ask())


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"max_tokens": 5},
        {"stop": ["x"]},
        {"top_p": 0.5},
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"x_unknown": 1},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "What is it?"}]},
        {"messages": [{"role": "user", "content": "What is it?", "name": "bob"}]},
    ],
)
def test_what_may_change_an_answer_changes_both_keys(fields: JsonValue):
    one, other = keys(ask(**fields)), keys(ask())
    assert one.exact != other.exact
    assert one.partition != other.partition


def test_another_last_text_is_another_key_in_the_same_partition():
    one, other = keys(ask("What is it?")), keys(ask("What's that?"))
    assert one.exact != other.exact
    assert one.partition == other.partition


def test_an_earlier_turn_is_part_of_the_partition():
    def turns(first: str) -> JsonValue:
        return [
            {"role": "user", "content": first},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ]

    assert keys(ask(messages=turns("a"))).partition != keys(ask(messages=turns("x"))).partition


def test_an_image_is_part_of_the_partition():
    def parts(url: str, text: str) -> JsonValue:
        image = {"type": "image_url", "image_url": {"url": url}}
        return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]

    one, same = keys(ask(messages=parts("data:,a", "x"))), keys(ask(messages=parts("data:,a", "y")))
    assert one.partition == same.partition
    assert one.partition != keys(ask(messages=parts("data:,b", "x"))).partition


def test_the_order_of_fields_and_blanks_do_not_matter():
    body = b'{ "temperature":0, "messages":[{"content":"What is it?","role":"user"}],  "model":"m"}'
    assert keys(parse_ask(Surface.CHAT, body)) == keys(ask())


names = st.text(max_size=6)
scopes = st.builds(Scope, tenant=names.map(TenantId), answers=st.lists(names, max_size=3).map(tuple))


@given(scopes, scopes, st.text(max_size=20))
def test_equal_keys_exactly_when_equal_scopes(one: Scope, other: Scope, question: str):
    first, second = keys(ask(question), one), keys(ask(question), other)
    assert (first.exact == second.exact) == (one == other)
    assert (first.partition == second.partition) == (one == other)


@given(st.text(max_size=30), st.text(max_size=30))
def test_equal_exact_keys_exactly_when_equal_texts(one: str, other: str):
    assert (keys(ask(one)).exact == keys(ask(other)).exact) == (one == other)


def test_exact_key_and_partition_are_never_the_same():
    made = keys(ask(""))
    assert made.exact != made.partition


@pytest.mark.parametrize(("temperature", "is_kept"), [(0, True), (0.1, False), (None, False), (1, False)])
def test_answers_that_vary_by_wish_have_no_key(temperature: float | None, is_kept: bool):
    made = keys_of(ask(temperature=temperature), SCOPE, max_temperature=0.0)
    assert (
        made != Bypass(reason=BypassReason.TEMPERATURE) if is_kept else made == Bypass(reason=BypassReason.TEMPERATURE)
    )


def test_the_route_may_allow_warmer_answers():
    assert isinstance(keys_of(ask(temperature=0.7), SCOPE, max_temperature=0.7), Keys)


def test_embeddings_and_completions_have_an_exact_key_only():
    embedding = parse_ask(Surface.EMBEDDINGS, b'{"model":"m","input":"x"}')
    completion = parse_ask(Surface.COMPLETIONS, b'{"model":"m","prompt":"x","temperature":0}')
    assert keys(embedding).partition == keys(completion).partition == b""
    assert keys(embedding).exact != keys(completion).exact


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (ask(), None),
        (ask("What is the weather today?"), BypassReason.TIME_SENSITIVE),
        (ask("Who is the CURRENT president?"), BypassReason.TIME_SENSITIVE),
        (ask("x" * 2001), BypassReason.LENGTH),
        (ask("What does ```f(x)``` do?"), BypassReason.CODE),
        (ask("Explain: def f(x): return x"), BypassReason.CODE),
        (ask("if (a && b) { f(); }"), BypassReason.CODE),
        (ask("What is 12 * 7?"), BypassReason.MATHS),
        (ask("Solve 3x = 9"), BypassReason.MATHS),
        (ask("What is x^2 at 3?"), BypassReason.MATHS),
        (ask(r"Evaluate \\int_0^1 x dx"), BypassReason.MATHS),
        (ask("Is C++ faster than C?"), None),
        (ask("Call +49 30 1234 on 2026-11-02, 24/7, for $100 - or and/or"), None),
        (ask("How many m\u00b2 has a class of 30 - 40 children?"), None),
        (ask("  "), BypassReason.NOT_PLAIN_TEXT),
        (ask(n=2), BypassReason.CHOICES),
        (ask(logprobs=True), BypassReason.CHOICES),
        (ask(tools=[{"type": "function"}]), BypassReason.TOOLS),
        (ask(messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]), BypassReason.TURNS),
        (
            ask(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
            BypassReason.NOT_PLAIN_TEXT,
        ),
        (parse_ask(Surface.EMBEDDINGS, b'{"model":"m","input":"x"}'), BypassReason.SURFACE),
    ],
)
def test_only_one_plain_question_is_compared(asked: Ask, reason: BypassReason | None):
    assert semantic_bypass(asked) is reason


def test_without_a_semantic_tier_no_partition_is_made():
    both = keys_of(ask(), SCOPE, max_temperature=0.0)
    exact_only = keys_of(ask(), SCOPE, max_temperature=0.0, wants_partition=False)
    assert isinstance(both, Keys)
    assert exact_only == Keys(exact=both.exact, partition=b"")


@pytest.mark.parametrize("reason", sorted(set(Bypassed)))
def test_each_bypass_has_its_switch(reason: Bypassed):
    asked = {
        Bypassed.TURNS: ask(messages=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]),
        Bypassed.TOOLS: ask(tools=[{"type": "function"}]),
        Bypassed.TIME_SENSITIVE: ask("What is on today?"),
        Bypassed.CODE: ask("What is ```x```?"),
        Bypassed.MATHS: ask("What is 1+1?"),
    }[reason]
    assert semantic_bypass(asked) == reason
    assert semantic_bypass(asked, allowed={reason}) is None
    assert semantic_bypass(asked, allowed=set(Bypassed) - {reason}) == reason


def test_how_long_a_text_may_be_is_a_switch():
    assert semantic_bypass(ask("x" * 51), max_characters=50) is BypassReason.LENGTH
    assert semantic_bypass(ask("x" * 2001), max_characters=2001) is None


def test_a_namespace_is_shared_and_is_no_tenant():
    shared = Scope(tenant=TenantId("acme"), answers=SCOPE.answers, namespace="faq")
    others = Scope(tenant=TenantId("other"), answers=SCOPE.answers, namespace="faq")
    called_alike = Scope(tenant=TenantId("faq"), answers=SCOPE.answers)
    assert keys(ask(), shared) == keys(ask(), others)
    assert len({keys(ask(), scope).exact for scope in (shared, SCOPE, called_alike)}) == 3


words = st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
crafted = st.dictionaries(
    st.sampled_from(["tenant", "namespace", "answers", "fields", "surface", "blank", "key", "x"]) | words,
    values,
    max_size=4,
).map(lambda fields: {name: value for name, value in fields.items() if name not in _READ})
_READ = {"model", "messages", "temperature", "stream", "stream_options", "n", "tools", "functions", "logprobs"}
_READ |= {"prompt", "input", "max_tokens", "max_completion_tokens", "response_format"}


def shuffled(value: JsonValue, random: Random) -> JsonValue:
    """Return the same value with the keys of all its objects in another order."""
    if isinstance(value, list):
        return [shuffled(each, random) for each in value]
    if not isinstance(value, dict):
        return value
    items = list(value.items())
    random.shuffle(items)
    return {name: shuffled(each, random) for name, each in items}


@settings(max_examples=40)
@given(crafted, words, st.randoms(use_true_random=False), st.sampled_from([None, 1, 3]))
def test_neither_key_order_nor_blanks_nor_irrelevant_fields_change_a_key(
    fields: JsonValue, question: str, random: Random, indent: int | None
):
    body = {"model": "m", "messages": [{"role": "user", "content": question}], "temperature": 0, **fields}
    irrelevant = {"user": "u", "stream": True, "metadata": {"a": ["b"]}, "store": False, "model": "another"}
    other = json.dumps(shuffled(body | irrelevant, random), indent=indent).encode()
    assert keys(parse_ask(Surface.CHAT, other)) == keys(parse_ask(Surface.CHAT, json.dumps(body).encode()))


full_scopes = st.builds(
    Scope, tenant=names.map(TenantId), answers=st.lists(names, max_size=2).map(tuple), namespace=st.just("") | names
)


requests = st.tuples(full_scopes, crafted, st.text(max_size=20))


@settings(max_examples=40)
@given(requests, requests)
def test_no_body_finds_another_tenants_entries_or_neighbours(
    mine: tuple[Scope, JsonValue, str], theirs: tuple[Scope, JsonValue, str]
):
    (scope, fields, question), (other, crafted_fields, crafted_question) = mine, theirs
    first, second = keys(ask(question, **fields), scope), keys(ask(crafted_question, **crafted_fields), other)
    owner, others = (each.namespace or (each.tenant,) for each in (scope, other))
    if owner != others or scope.answers != other.answers:
        assert {first.exact, first.partition}.isdisjoint({second.exact, second.partition})
