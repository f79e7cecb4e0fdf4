"""What is read out of a client's body, and what is sent upstream in its place."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.asks import Parameters, estimate_input_tokens, outbound_body, parse_ask
from backends.errors import AskInvalid
from backends.words import Ask, Capability, JsonValue, Surface

PLAIN = b'{"model":"m","messages":[{"role":"user","content":"x"}],'


def chat(**fields: JsonValue) -> Ask:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **fields}
    return parse_ask(Surface.CHAT, json.dumps(body).encode())


def raw_fields(body: bytes) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


@pytest.mark.parametrize("number", ["12345678901234567890", "1e-7", "-0.0", "1.00", "0.1e+1", '"\\u00e9"', "[ 1,2 ]"])
def test_an_unknown_field_is_sent_on_byte_for_byte(number: str):
    body = b'{"model":"m","x_mine":%b,"messages":[{"role":"user","content":"Hi"}]}' % number.encode()
    sent = outbound_body(parse_ask(Surface.CHAT, body), model="real", top_logprobs=None)
    assert raw_fields(sent)["x_mine"] == number.encode()


def test_the_models_name_is_the_upstreams():
    assert json.loads(outbound_body(chat(), model="real/name", top_logprobs=None))["model"] == "real/name"


@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "extra_headers", "azure_endpoint"])
def test_a_client_cannot_choose_the_upstream_or_its_key(name: str):
    ask = chat(**{name: "http://evil"})
    assert name not in json.loads(outbound_body(ask, model="m", top_logprobs=None))
    assert ask == chat(), "what changes nothing is the same request to the caches"


def test_a_conversation_with_tool_calls_is_read_and_its_turns_are_not_plain():
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    told = {"role": "tool", "tool_call_id": "1", "content": "3"}
    ask = chat(messages=[{"role": "user", "content": "Add."}, called, told])
    assert [(turn.role, turn.text, turn.is_plain) for turn in ask.messages] == [
        ("user", "Add.", True),
        ("assistant", "", False),
        ("tool", "3", True),
    ]


def test_usage_of_a_stream_is_always_asked_for_and_other_options_stay():
    sent = json.loads(outbound_body(chat(stream=True, stream_options={"other": 1}), model="m", top_logprobs=None))
    assert sent["stream_options"] == {"other": 1, "include_usage": True}


def test_a_whole_answer_has_no_stream_options():
    assert "stream_options" not in json.loads(outbound_body(chat(), model="m", top_logprobs=None))


@pytest.mark.parametrize("name", ["stop", "user", "stream_options"])
def test_nulls_that_servers_refuse_are_left_out(name: str):
    assert name not in json.loads(outbound_body(chat(**{name: None}), model="m", top_logprobs=None))


def test_the_judges_logprobs_are_asked_for():
    sent = json.loads(outbound_body(chat(logprobs=False), model="m", top_logprobs=5))
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 5)


def test_the_clients_own_logprobs_are_left_as_they_are():
    sent = json.loads(outbound_body(chat(logprobs=True, top_logprobs=2), model="m", top_logprobs=5))
    assert sent["top_logprobs"] == 2


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": [{"type": "function"}]}, {Capability.TOOLS}),
        ({"tools": []}, set()),
        ({"functions": [{}]}, {Capability.TOOLS}),
        ({"logprobs": True}, {Capability.LOGPROBS}),
        ({"logprobs": False}, set()),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, {Capability.JSON_SCHEMA}),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            {Capability.VISION},
        ),
    ],
)
def test_what_a_request_needs_is_read_from_its_fields(fields: JsonValue, needs: set[Capability]):
    assert chat(**fields).needs == needs | {Capability.CHAT}


def test_text_parts_are_the_text_and_images_make_a_turn_not_plain():
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    ask = chat(messages=[{"role": "user", "content": parts}])
    assert (ask.last_user_text, ask.messages[0].has_image, ask.messages[0].is_plain) == ("Look:", True, False)


def test_the_last_user_turn_is_the_text():
    turns = [{"role": r, "content": c} for r, c in (("user", "one"), ("assistant", "two"), ("user", "three"))]
    assert chat(messages=turns).last_user_text == "three"


@pytest.mark.parametrize(
    ("surface", "body", "param"),
    [
        (Surface.CHAT, b"", None),
        (Surface.CHAT, b"[]", None),
        (Surface.CHAT, b'{"model":"m"', None),
        (Surface.CHAT, b"\xff\xfe", None),
        (Surface.CHAT, b"[" * 100_000, None),
        (Surface.CHAT, PLAIN + b'"unknown":"\xff"}', None),
        (Surface.CHAT, b'{"messages":[{"role":"user","content":"x"}]}', "model"),
        (Surface.CHAT, b'{"model":"m"}', "messages"),
        (Surface.CHAT, b'{"model":"m","messages":[]}', "messages"),
        (Surface.CHAT, b'{"model":"m","messages":[{"content":"x"}]}', "role"),
        (Surface.CHAT, b'{"model":"m","messages":"x"}', "messages"),
        (Surface.CHAT, PLAIN + b'"n":0}', "n"),
        (Surface.CHAT, PLAIN + b'"n":129}', "n"),
        (Surface.CHAT, PLAIN + b'"temperature":"hot"}', "temperature"),
        (Surface.CHAT, PLAIN + b'"max_tokens":1e30}', "max_tokens"),
        (Surface.CHAT, PLAIN + b'"max_tokens":99999999999}', "max_tokens"),
        (Surface.COMPLETIONS, b'{"model":"m"}', "prompt"),
        (Surface.EMBEDDINGS, b'{"model":"m"}', "input"),
    ],
)
def test_a_body_that_is_no_request_is_refused_with_its_field(surface: Surface, body: bytes, param: str | None):
    with pytest.raises(AskInvalid) as raised:
        parse_ask(surface, body)
    assert raised.value.param == param


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_invalid(body: bytes):
    try:
        parse_ask(Surface.CHAT, body)
    except AskInvalid as error:
        assert error.message  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize(
    ("fields", "cap"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 7),  # servers differ in which they obey
        ({"max_tokens": -1, "max_completion_tokens": 5}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": -1}, None),  # llama.cpp's word for "no limit"
        ({"max_tokens": 0}, None),
    ],
)
def test_the_output_cap_is_the_clients(fields: JsonValue, cap: int | None):
    assert chat(**fields).max_output_tokens == cap


def test_json_is_wanted_with_its_schema():
    ask = chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}})
    assert (ask.wants_json, ask.json_schema) == (True, {"type": "object"})


@pytest.mark.parametrize(
    ("prompt", "n", "choices"), [("a", None, 1), (["a", "b"], 2, 4), ([1, 2, 3], 2, 2), ([[1], [2]], None, 2)]
)
def test_choices_of_completions_count_prompts(prompt: JsonValue, n: int | None, choices: int):
    body = json.dumps({"model": "m", "prompt": prompt, "n": n}).encode()
    assert parse_ask(Surface.COMPLETIONS, body).choices == choices


@pytest.mark.parametrize(("logprobs", "wants"), [(None, False), (False, False), (True, True), (0, True), (3, True)])
def test_zero_alternatives_still_ask_for_logprobs(logprobs: JsonValue, wants: bool):
    body = json.dumps({"model": "m", "prompt": "x", "logprobs": logprobs}).encode()
    assert parse_ask(Surface.COMPLETIONS, body).wants_logprobs is wants


def test_the_input_is_estimated_at_three_bytes_a_token():
    assert estimate_input_tokens(chat()) == -(-len('[{"role": "user", "content": "Hello"}]') // 3)


def test_a_models_parameters_stand_in_place_of_the_clients_own_fields():
    parameters = Parameters.of({"reasoning_effort": "low", "thinking": {"budget_tokens": 64}})
    body = outbound_body(chat(reasoning_effort="high", seed=1), model="m", top_logprobs=None, parameters=parameters)
    sent = json.loads(body)
    assert (sent["reasoning_effort"], sent["thinking"], sent["seed"]) == ("low", {"budget_tokens": 64}, 1)


@pytest.mark.parametrize(
    ("own", "sent"), [({}, 100), ({"max_tokens": 500}, 100), ({"max_tokens": 20}, 20), ({"max_tokens": -1}, 100)]
)
def test_a_models_cap_only_lowers_the_clients(own: JsonValue, sent: int):
    parameters = Parameters.of({"max_completion_tokens": 100})
    fields = json.loads(outbound_body(chat(**own), model="m", top_logprobs=None, parameters=parameters))
    assert [fields[name] for name in ("max_tokens", "max_completion_tokens") if name in fields] == [sent]


def test_embeddings_take_no_parameters():
    ask = parse_ask(Surface.EMBEDDINGS, b'{"model": "auto", "input": "x"}')
    parameters = Parameters.of({"reasoning_effort": "low", "max_tokens": 9})
    assert json.loads(outbound_body(ask, model="m", top_logprobs=None, parameters=parameters)) == {
        "model": "m",
        "input": "x",
    }


def test_a_large_body_is_written_as_a_small_one_is():
    def sent(size: int) -> bytes:
        body = b'{"x\\u00e9": -0.0, "messages":[{"role":"user","content":"%b"}],"model":"m"}' % (b"y" * size)
        return outbound_body(parse_ask(Surface.CHAT, body), model="real", top_logprobs=3)

    assert sent(2**20 + 1).replace(b"y" * (2**20 + 1), b"y") == sent(1)
