"""Serving a stored answer as JSON and as a stream, and making one body of a stream's text."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from backends.words import JsonValue, RequestId
from semantic_cache.replay import replay_chunks, replay_whole

NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
ID = RequestId("req-9")


def stored(*messages: JsonValue, **fields: JsonValue) -> bytes:
    choices = [{"index": n, "message": m, "logprobs": None, "finish_reason": "stop"} for n, m in enumerate(messages)]
    body = {"id": "chatcmpl-old", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    return json.dumps(body | fields).encode()


def chunks(payload: bytes) -> list[JsonValue]:
    return [json.loads(event) for event in replay_chunks(payload, request_id=ID, now=NOW)]


def test_a_replay_has_its_own_id_and_time_and_else_the_same_bytes():
    payload = b'{"id":"old","created":1,"x":12345678901234567890,"choices":[ 1e-7 ]}'
    replayed = replay_whole(payload, request_id=ID, now=NOW)
    assert (
        replayed
        == b'{"id":"chatcmpl-req-9","created":%d,"x":12345678901234567890,"choices":[ 1e-7 ]}' % NOW.timestamp()
    )


def test_a_legacy_completion_has_a_legacy_id():
    replayed = replay_whole(b'{"id":"old","object":"text_completion"}', request_id=ID, now=NOW)
    assert json.loads(replayed)["id"] == "cmpl-req-9"


def test_a_body_without_id_gets_none():
    assert replay_whole(b'{"data":[]}', request_id=ID, now=NOW) == b'{"data":[]}'


@given(st.lists(st.text(max_size=20), min_size=1, max_size=3))
def test_a_replayed_stream_says_what_the_body_says(texts: list[str]):
    events = chunks(stored(*({"role": "assistant", "content": text} for text in texts)))
    said = dict.fromkeys(range(len(texts)), "")
    for event in events:
        choice = event["choices"][0]
        said[choice["index"]] += choice["delta"].get("content") or ""
    assert list(said.values()) == texts


def test_a_replayed_stream_has_one_role_and_one_end_a_choice():
    events = chunks(stored({"role": "assistant", "content": "Hello"}))
    choices = [event["choices"][0] for event in events]
    assert [c["delta"].get("role") for c in choices] == ["assistant", None, None]
    assert [c["finish_reason"] for c in choices] == [None, None, "stop"]
    assert {(e["id"], e["object"], e["model"], e["created"]) for e in events} == {
        ("chatcmpl-req-9", "chat.completion.chunk", "m", int(NOW.timestamp()))
    }


def test_tool_calls_are_replayed_with_their_index():
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(2)]
    events = chunks(stored({"role": "assistant", "content": None, "tool_calls": calls}))
    replayed = events[1]["choices"][0]["delta"]
    assert replayed == {"tool_calls": [{"index": n, **call} for n, call in enumerate(calls)]}


def test_legacy_completions_are_replayed_without_a_role():
    payload = json.dumps(
        {"object": "text_completion", "model": "m", "choices": [{"index": 0, "text": "abc", "finish_reason": "length"}]}
    ).encode()
    choices = [event["choices"][0] for event in chunks(payload)]
    assert [(c["text"], c["finish_reason"]) for c in choices] == [("abc", None), ("", "length")]
