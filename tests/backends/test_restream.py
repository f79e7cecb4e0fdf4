"""A whole answer as a stream: every byte that is said once, every choice with its beginning and its end."""

from __future__ import annotations

import json

import msgspec
import pytest

from backends.restream import spread, usage_event
from backends.words import JsonValue


def body(*choices: JsonValue, **fields: JsonValue) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion", "choices": choices, **fields}).encode()


def choice(index: int = 0, finish: str | None = "stop", **message: JsonValue) -> JsonValue:
    return {"index": index, "message": {"role": "assistant", "content": "Hi", **message}, "finish_reason": finish}


def parts(payload: bytes) -> list[JsonValue]:
    return [json.loads(event)["choices"][0] for event in spread(payload)[0]]


def test_a_choice_has_a_role_what_it_says_and_a_finish():
    assert parts(body(choice())) == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {"content": "Hi"}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"},
    ]


def test_the_body_becomes_the_head_of_every_event_but_for_its_usage():
    events, usage = spread(body(choice(), usage={"prompt_tokens": 1}, system_fingerprint="fp", prompt_logprobs=None))
    heads = [{k: v for k, v in json.loads(event).items() if k != "choices"} for event in events]
    assert heads == [{"id": "c", "object": "chat.completion.chunk", "system_fingerprint": "fp"}] * 3
    assert usage == msgspec.Raw(b'{"prompt_tokens": 1}')
    assert json.loads(usage_event(events[0], usage))["choices"] == []


def test_choices_keep_their_index():
    assert [part["index"] for part in parts(body(choice(0), choice(1)))] == [0, 0, 0, 1, 1, 1]


def test_tool_calls_are_numbered_as_a_stream_numbers_them():
    (_, said, _) = parts(body(choice(content=None, tool_calls=[{"id": "a"}, {"id": "b"}])))
    assert said["delta"] == {"tool_calls": [{"index": 0, "id": "a"}, {"index": 1, "id": "b"}]}


@pytest.mark.parametrize(("message", "finish"), [({}, "stop"), ({"tool_calls": [{"id": "a"}]}, "tool_calls")])
def test_an_answer_without_a_reason_is_finished_all_the_same(message: JsonValue, finish: str):
    assert parts(body(choice(finish=None, **message)))[-1]["finish_reason"] == finish


def test_what_is_not_known_here_is_kept_as_it_was_written():
    payload = b'{"x":12345678901234567890,"choices":[{"message":{"content":"Hi","y":-0.0},"stop_reason":1e-7}]}'
    (role, said, end), _ = spread(payload)
    assert all(b'"x":12345678901234567890' in event for event in (role, said, end))
    assert b'"y":-0.0' in said
    assert b'"stop_reason":1e-7' in end


def test_a_legacy_completion_has_text_and_no_role():
    payload = b'{"object":"text_completion","choices":[{"index":0,"text":"Hi","logprobs":{"tokens":[]}}]}'
    assert parts(payload) == [
        {"index": 0, "text": "Hi", "logprobs": {"tokens": []}, "finish_reason": None},
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"},
    ]
