"""Reading an upstream's JSON: text, tokens, usage in disjoint classes, and what is no answer."""

from __future__ import annotations

import json

import pytest

from backends.errors import ReplyMalformed
from backends.replies import read_chunk, read_whole
from backends.words import JsonValue, TokenLogprob, Usage


def chunk(**choice: JsonValue) -> bytes:
    return json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}).encode()


def used(**usage: JsonValue) -> Usage | None:
    return read_whole(json.dumps({"choices": [], "usage": usage}).encode()).usage


def test_a_chunks_text_tokens_and_end_are_read():
    top = [{"token": "Hi", "logprob": -0.1}, {"token": "Ho", "logprob": -2.5}]
    logprobs = {"content": [{"token": "Hi", "logprob": -0.1, "top_logprobs": list(reversed(top))}]}
    read = read_chunk(chunk(delta={"content": "Hi"}, logprobs=logprobs, finish_reason="stop"))
    assert (read.content, read.finish_reason) == ("Hi", "stop")
    assert read.tokens == (TokenLogprob(-0.1, (-0.1, -2.5)),)


@pytest.mark.parametrize("content", [None, "", [], 7])
def test_a_chunk_without_text_says_nothing(content: JsonValue):
    assert read_chunk(chunk(delta={"role": "assistant", "content": content})).content == ""


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"index": 0}]},
        {"function_call": {}, "refusal": "no"},
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
    ],
)
def test_what_is_not_text_is_noticed(delta: JsonValue):
    assert read_chunk(chunk(delta=delta)).has_other


def test_another_choice_is_not_the_first_ones_text():
    read = read_chunk(b'{"choices":[{"index":1,"delta":{"content":"second"}}]}')
    assert (read.content, read.has_other, read.has_choices) == ("", True, True)


def test_legacy_text_is_read():
    assert read_chunk(b'{"choices":[{"index":0,"text":"abc"}]}').content == "abc"
    assert read_whole(b'{"choices":[{"text":"abc","finish_reason":"length"}]}').finish_reason == "length"


def test_legacy_logprobs_are_not_the_judges():
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5]}
    assert read_whole(json.dumps({"choices": [{"text": "a", "logprobs": logprobs}]}).encode()).tokens == ()


@pytest.mark.parametrize("logprobs", [{"content": "x"}, {"content": [{"logprob": "high"}]}, {"content": None}, 3])
def test_logprobs_of_another_shape_are_none(logprobs: JsonValue):
    assert read_chunk(chunk(delta={"content": "a"}, logprobs=logprobs)).tokens == ()


def test_usage_classes_are_disjoint():
    usage = used(
        prompt_tokens=10,
        completion_tokens=8,
        prompt_tokens_details={"cached_tokens": 4},
        completion_tokens_details={"reasoning_tokens": 3},
    )
    assert usage == Usage(input_tokens=6, cached_input_tokens=4, output_tokens=5, reasoning_tokens=3)


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None}, {"prompt_tokens": 10**30}])
def test_a_usage_that_says_nothing_true_is_unknown_not_zero(usage: JsonValue):
    assert used(**usage) is None


@pytest.mark.parametrize(
    "payload",
    [b"", b"<html>", b"[]", b'{"choices":1}', b"\xff", b'{"error":{"message":"sk-secret"}}', b"[" * 100_000, b'{"a":'],
)
def test_what_is_no_answer_is_malformed_and_its_text_is_not_repeated(payload: bytes):
    for read in (read_chunk, read_whole):
        with pytest.raises(ReplyMalformed) as raised:
            read(payload)
        assert "sk-secret" not in str(raised.value)


def test_a_null_error_beside_choices_is_no_error():
    assert read_whole(b'{"error":null,"choices":[{"message":{"content":"ok"}}]}').content == "ok"


def test_the_payload_is_kept_as_it_came():
    payload = b'{"choices":[], "timings": {"x": 1e-7}, "big":12345678901234567890}'
    assert read_chunk(payload).payload == payload
