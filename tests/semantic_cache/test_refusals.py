"""What is taken for an answer that declines to answer."""

from __future__ import annotations

import json

import pytest

from backends.words import JsonValue
from semantic_cache.refusals import is_refusal


def body(**message: JsonValue) -> bytes:
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", **message}}]}).encode()


@pytest.mark.parametrize(
    "payload",
    [
        body(content=None, refusal="No."),
        body(content="I'm sorry, but I can't help with that."),
        body(content="  I cannot assist with this request."),
        body(content="I\u2019m unable to do so."),
        b'{"choices":[{"text":"I must decline."}]}',
    ],
)
def test_a_refusal_is_known_by_its_mark_or_its_opening(payload: bytes):
    assert is_refusal(payload)


@pytest.mark.parametrize(
    "payload",
    [
        body(content="Paris. I'm sorry, but I can't say more."),
        body(content=None, tool_calls=[{}]),
        body(content=[{"type": "text", "text": "I cannot help with"}]),
        body(content="I'm sorry for your loss. Write to them."),
        b'{"data":[{"embedding":[1]}]}',
        b"no JSON",
    ],
)
def test_another_answer_is_none(payload: bytes):
    assert not is_refusal(payload)
