"""Gathering a stream into the whole answer: what it said comes back, as JSON and as a stream, or nothing does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.words import JsonValue, RequestId
from semantic_cache.gather import KEPT_CHARACTERS, Gathering
from semantic_cache.replay import replay_chunks

NOON = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
USAGE = {"prompt_tokens": 3}


def event(delta: JsonValue, *, index: int = 0, end: str | None = None, **others: JsonValue) -> dict[str, JsonValue]:
    head = {"id": "x", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return {**head, "choices": [{"index": index, "delta": delta, "finish_reason": end}], **others}


END = event({}, end="stop")


def gathered(events: Sequence[JsonValue]) -> JsonValue:
    gathering = Gathering()
    for each in events:
        gathering.take(json.dumps(each).encode())
    body = gathering.body(USAGE)
    return None if body is None else json.loads(body)


def message(events: Sequence[JsonValue]) -> JsonValue:
    body = gathered(events)
    return None if body is None else body["choices"][0]["message"]


TEXTS = st.lists(st.text(max_size=5), max_size=5)
CALLS = st.lists(st.tuples(st.sampled_from(["f", "g"]), st.lists(st.text(max_size=4), max_size=3)), max_size=2)
OTHERS = st.dictionaries(st.sampled_from(["audio", "citations", "stop_reason"]), st.integers() | st.text(max_size=3))
CHOICES = st.tuples(TEXTS, TEXTS, TEXTS, CALLS, OTHERS, OTHERS)


def stream_of(index: int, drawn: JsonValue) -> tuple[list[JsonValue], JsonValue]:
    """Return a choice's events, and the choice they say."""
    texts, thoughts, refusals, calls, of_message, of_choice = drawn
    said = [event({"role": "assistant", "content": ""}, index=index)]
    whole: dict[str, JsonValue] = {"role": "assistant", "content": "".join(texts) or (None if calls else "")}
    for name, parts in (("content", texts), ("reasoning_content", thoughts), ("refusal", refusals)):
        said += [event({name: part}, index=index) for part in parts]
        whole |= {name: "".join(parts)} if parts and name != "content" else {}
    for place, (name, parts) in enumerate(calls):
        first = {"index": place, "id": f"c{place}", "type": "function", "function": {"name": name, "arguments": ""}}
        said.append(event({"tool_calls": [first]}, index=index))
        said += [event({"tool_calls": [{"index": place, "function": {"arguments": p}}]}, index=index) for p in parts]
    if calls:
        whole["tool_calls"] = [
            {"id": f"c{place}", "type": "function", "function": {"name": name, "arguments": "".join(parts)}}
            for place, (name, parts) in enumerate(calls)
        ]
    said += [event({name: value}, index=index) for name, value in of_message.items()]
    last = event({}, index=index, end="stop")
    last["choices"][0] |= of_choice
    choice = {"index": index, "message": whole | of_message, "logprobs": None, "finish_reason": "stop", **of_choice}
    return [*said, last], choice


@settings(max_examples=60, deadline=None)
@given(st.lists(CHOICES, min_size=1, max_size=2), st.randoms(use_true_random=False))
def test_what_a_stream_says_is_stored_and_replayed_in_both_forms(drawn: list[JsonValue], random: JsonValue):
    streams, choices = zip(*(stream_of(index, choice) for index, choice in enumerate(drawn)), strict=True)
    left, events = [list(stream) for stream in streams], []
    while any(left):  # the choices' events come mixed
        events.append(random.choice([stream for stream in left if stream]).pop(0))
    body = gathered(events)
    assert body["choices"] == list(choices)
    replayed = replay_chunks(json.dumps(body).encode(), request_id=RequestId("r"), now=NOON)
    again = gathered([json.loads(each) for each in replayed])
    assert again["choices"] == body["choices"]


@given(st.lists(st.text(max_size=5), min_size=1, max_size=6))
def test_a_run_says_what_its_events_say(texts: list[str]):
    like = json.dumps(event({"content": "x", "mood": "calm"})).encode()
    one, other = Gathering(), Gathering()
    for text in texts:
        one.take(json.dumps(event({"content": text, "mood": "calm"})).encode())
    other.take_run(like, "".join(texts[:2]))
    other.take_run(like, "".join(texts[2:]))
    for gathering in (one, other):
        gathering.take(json.dumps(END).encode())
    body = one.body(USAGE)
    assert body == other.body(USAGE)
    assert json.loads(body or b"")["choices"][0]["message"] == {
        "role": "assistant",
        "content": "".join(texts),
        "mood": "calm",
    }


@pytest.mark.parametrize(
    ("deltas", "said"),
    [
        ([{"content": "a", "tool_calls": None, "mood": None}], {"content": "a"}),
        ([{"mood": "calm"}, {"content": "a", "mood": "calm"}], {"content": "a", "mood": "calm"}),
        ([{"filter": {}}, {"filter": {"hate": 0}}, {"filter": {"self": 1}}], {"filter": {"hate": 0, "self": 1}}),
        ([{"content": [{"type": "text", "text": "a"}]}], {"content": [{"type": "text", "text": "a"}]}),
        ([{"big": 12345678901234567890123}], {"big": 12345678901234567890123}),
        (
            [{"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}}],
            {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
        ),
    ],
)
def test_other_fields_are_kept_where_they_are_clear(deltas: list[JsonValue], said: JsonValue):
    assert message([*map(event, deltas), END]) == {"role": "assistant", "content": "", **said}


@pytest.mark.parametrize(
    "deltas",
    [
        [{"audio": {"data": "AA"}}, {"audio": {"data": "BB"}}],
        [{"mood": "calm"}, {"mood": "er"}],
        [{"content": "a"}, {"content": [1]}],
        [{"content": [1]}, {"content": "a"}],
        [{"tool_calls": [{"id": "c", "function": {"name": "f"}}]}],
        [{"tool_calls": [{"index": 0, "id": "c"}]}, {"tool_calls": [{"index": 0, "id": "d"}]}],
        [{"content": "x" * KEPT_CHARACTERS}, {"content": "x"}],
    ],
)
def test_what_cannot_be_put_together_is_not_stored(deltas: list[JsonValue]):
    assert gathered([*map(event, deltas), END]) is None


def test_fields_beside_the_choices_are_kept_but_usage_and_padding():
    first = event({"content": "a"}, citations=["u"], obfuscation="aB", x_groq={"id": "g"}, usage=None)
    last = {**END, "obfuscation": "c", "x_groq": {"id": "g", "usage": {"prompt_tokens": 1}}, "system_fingerprint": "fp"}
    body = gathered([first, last])
    assert {k: v for k, v in body.items() if k != "choices"} == {
        "id": "x",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "system_fingerprint": "fp",
        "citations": ["u"],
        "x_groq": {"id": "g", "usage": {"prompt_tokens": 1}},
        "usage": USAGE,
    }


@pytest.mark.parametrize(
    "events",
    [
        [],
        [event({"content": "a"})],
        [event({"content": "a"}), END, event({"content": "b"}, index=1)],
        [{"object": "text_completion", "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}],
    ],
)
def test_what_has_no_end_or_is_no_chat_is_not_stored(events: list[JsonValue]):
    assert gathered(events) is None
