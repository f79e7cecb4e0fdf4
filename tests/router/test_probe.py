"""What asking a model again is worth, what is asked, and what calls in an answer must look like."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from backends.asks import parse_ask
from backends.words import Ask, Chunk, JsonValue, Surface, Whole
from policies.signals import Signal
from router.calls import Calls, offer_of, told
from router.evidence import Answering
from router.probe import PROBED, method_of, probe_ask, read_probe
from router.schemas import fits

TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "required": ["a"]}}},
    {"type": "function", "function": {"name": "now"}},
]
ADD = {"name": "add", "arguments": '{"a": 1}'}


def an_ask(**fields: JsonValue) -> Ask:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How far is it?"}]
    return parse_ask(Surface.CHAT, json.dumps({"model": "m", "messages": messages, **fields}).encode())


def whole(text: str = "", *, tokens: list[tuple[str, dict[str, float]]] = (), calls: list[JsonValue] = ()) -> Whole:
    content = [
        {"token": token, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
        for token, top in tokens
    ]
    message = {"content": text, **({"tool_calls": [{"function": c} for c in calls]} if calls else {})}
    body = {"choices": [{"index": 0, "message": message, "logprobs": {"content": content}, "finish_reason": "stop"}]}
    return Whole(payload=json.dumps(body).encode(), content=text, finish_reason="stop")


async def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float32)[: len(texts)]


async def probe(signal: Signal, answer: str, reply: Whole, *, has_logprobs: bool = False) -> tuple[float, ...] | None:
    return await read_probe(signal, answer, reply, has_logprobs=has_logprobs, embed=embed)


@pytest.mark.parametrize(
    ("word", "is_yes"), [("Yes", True), (" yes.", True), ("**No**, because", False), ("No!", False)]
)
async def test_a_word_says_whether_the_answer_is_right(word: str, is_yes: bool):
    (log_odds,) = await probe(Signal.SELF_CHECK, "12", whole(word))
    assert (log_odds > 0) is is_yes
    assert abs(log_odds) == pytest.approx(6.907, abs=0.01)


@pytest.mark.parametrize("said", ["", "Perhaps", "I think yes"])
async def test_another_word_says_nothing(said: str):
    assert await probe(Signal.SELF_CHECK, "12", whole(said)) is None


async def test_log_probabilities_say_how_sure_the_yes_is():
    torn = whole("Yes", tokens=[(" ", {}), ("Yes", {"Yes": np.log(0.5), " yes": np.log(0.1), "No": np.log(0.2)})])
    (log_odds,) = await probe(Signal.SELF_CHECK, "12", torn, has_logprobs=True)
    assert log_odds == pytest.approx(np.log(0.75 / 0.25))
    assert await probe(Signal.SELF_CHECK, "12", whole("Yes"), has_logprobs=True) is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("It is 12 km.", "it is **12 km**", (1.0, 1.0, 1.0)),
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', (1.0, 1.0, 1.0)),
        ('{"a": 1}', '{"a": 2}', (0.0, 0.6, 0.0)),
        ("It is 12 km.", "Some 12 km away.", (0.0, 0.6, 1.0)),
    ],
)
async def test_two_samples_are_compared_by_what_they_say(first: str, second: str, expected: tuple[float, ...]):
    assert await probe(Signal.AGREEMENT, first, whole(second)) == pytest.approx(expected)


async def test_two_samples_of_a_call_are_compared_as_calls():
    calls = [{"name": "add", "arguments": '{"b": 2, "a": 1}'}]
    first = '[{"arguments":{"a":1,"b":2},"name":"add"}]'
    assert await probe(Signal.AGREEMENT, first, whole(calls=calls)) == (1.0, 1.0, 1.0)
    assert await probe(Signal.AGREEMENT, first, whole("")) is None


def test_a_self_check_shows_question_answer_and_tools_and_wants_a_word():
    asked = probe_ask(Signal.SELF_CHECK, an_ask(tools=TOOLS, stream=True), "12 km", has_logprobs=True)
    for part in ("Be brief.", "How far is it?", "12 km", '"name": "add"'):
        assert part in asked.last_user_text
    assert (asked.is_stream, asked.temperature, asked.max_output_tokens, len(asked.needs)) == (False, 0, 4, 1)


def test_every_signal_that_asks_again_has_its_features_and_methods():
    assert {signal for signal in Signal if signal.asks_again} == set(PROBED)
    methods = {method_of(signal, has_logprobs=known) for signal in PROBED for known in (True, False)}
    assert (len(methods), "" in methods) == (3, False)


def takes(calls: list[JsonValue], **fields: JsonValue) -> bool:
    collected = Calls()
    collected.feed(whole(calls=calls).payload)
    offer = offer_of(an_ask(tools=TOOLS, **fields))
    assert offer is not None
    return offer.takes(collected.calls())


NAMED = {"type": "function", "function": {"name": "now"}}


@pytest.mark.parametrize(
    ("calls", "fields", "expected"),
    [
        ([ADD], {}, True),
        ([], {}, True),
        ([ADD, {"name": "now", "arguments": ""}], {}, True),
        ([{"name": "add", "arguments": {"a": 1}}], {}, True),
        ([{"name": "add", "arguments": "{}"}], {}, False),
        ([{"name": "add", "arguments": "[1]"}], {}, False),
        ([{"name": "add", "arguments": '{"a": 1'}], {}, False),
        ([{"name": "sub", "arguments": '{"a": 1}'}], {}, False),
        ([], {"tool_choice": "required"}, False),
        ([ADD], {"tool_choice": "none"}, False),
        ([ADD], {"tool_choice": NAMED}, False),
        ([{"name": "now", "arguments": "{}"}], {"tool_choice": NAMED}, True),
        ([ADD, ADD], {"parallel_tool_calls": False}, False),
    ],
)
def test_calls_must_be_what_the_request_allows(calls: list[JsonValue], fields: dict[str, JsonValue], expected: bool):
    assert takes(calls, **fields) is expected


@given(st.data())
def test_a_call_in_pieces_is_the_call(data: st.DataObject):
    text = '{"city": "Ålesund", "days": [1, 2]}'
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    answering = Answering(an_ask(tools=[{"function": {"name": "weather"}}]))
    for number, piece in enumerate(pieces):
        function = {"arguments": piece, **({"name": "weather"} if number == 0 else {})}
        delta = {"tool_calls": [{"index": 0, "function": function}]}
        payload = json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()
        answering.feed(Chunk(payload=payload, has_other=True, finish_reason=None))
    answering.feed(Chunk(payload=b"{}", finish_reason="tool_calls"))
    evidence = answering.evidence()
    assert (evidence.is_valid, evidence.has_tools, evidence.is_json) == (True, True, False)
    assert json.loads(evidence.text) == [{"name": "weather", "arguments": json.loads(text)}]


def test_calls_are_told_in_one_order_of_their_names():
    calls = Calls()
    calls.feed(whole(calls=[{"name": "add", "arguments": '{"b": 2, "a": 1}'}]).payload)
    assert told(calls.calls()) == '[{"arguments":{"a":1,"b":2},"name":"add"}]'


def test_a_schema_is_never_fetched(tmp_path: Path):
    there = tmp_path / "schema.json"
    there.write_text("{}")
    assert fits(1, {"type": "integer"})
    assert not fits(1, {"$ref": there.as_uri()})
