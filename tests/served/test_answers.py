"""What a client gets on a plain route: bodies, streams, every parameter, and the cost in all its places."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from backends.words import JsonValue
from tests.served.world import LARGE_NAME, Served, a_policy, serving
from tests.upstream import Flavour, Says, Upstream, says

CALL = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway a flavour serves all of these

SCRIPT = {
    "count": says("one two three four five"),
    "tool": Says(tokens=(), tool_calls=(CALL,)),
    "strange": Says(fields={"service_tier": "x", "big": 12345678901234567890, "tiny": 1e-7}),
    "cached": Says(prompt_tokens=100, cached_tokens=60),
    "silent about usage": says("one two three", tells_usage=False),
    "without done": says("one two three", says_done=False),
    "folded": Says(ends_line="\r\n", comments=True),
    "all zeros": says(
        "one two three", tells_usage=False, fields={"usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    ),
    "searched": says(
        "one two three",
        tells_usage=False,
        fields={
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "server_tool_use": {"web_search_requests": 2}},
        },
    ),
    "vendor": says(
        "one two three",
        tells_usage=False,
        fields={"x_groq": {"usage": {"prompt_tokens": 9, "completion_tokens": 4}}, "service_tier": "default"},
    ),
    "no object": says("one two three", tells_usage=False, fields={"usage": "much"}),
    "stated": says(
        "one two three",
        tells_usage=False,
        fields={"usage": {"prompt_tokens": 7, "completion_tokens": 3, "cost": 0.5}, "service_tier": "flex"},
    ),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(Flavour))
async def upstream(request: pytest.FixtureRequest) -> AsyncIterator[Upstream]:
    async with Upstream(SCRIPT, flavour=request.param) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("answers"), a_policy([upstream.url])) as served:
        yield served


async def test_a_plain_answer_is_the_upstreams_with_its_cost(gateway: Served):
    seen = await gateway.ask("count")
    rows = await gateway.rows_of(seen)
    assert (seen.status, seen.text) == (200, "one two three four five")
    assert seen.json["usage"]["completion_tokens"] == 5
    (charge,) = rows.charges
    assert (charge["kind"], charge["model"], charge["tenant"]) == ("answer", "large", "acme")
    assert (charge["input_tokens"], charge["output_tokens"], charge["cost_nusd"]) == (7, 5, 170_000)
    (request,) = rows.requests
    assert (request["status"], request["path"], request["route"]) == (200, "large", "plain")
    assert (request["cost_nusd"], request["baseline_nusd"], request["is_stream"]) == (170_000, 170_000, 0)


async def test_a_streamed_answer_says_what_a_collected_one_says(gateway: Served):
    collected, streamed = await gateway.ask("count"), await gateway.ask("count", stream=True)
    rows = await gateway.rows_of(collected, streamed)
    assert streamed.text == collected.text
    assert streamed.is_done
    assert not streamed.is_cut
    choices = [choice for chunk in streamed.chunks for choice in chunk["choices"]]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["stop"]
    assert [c["cost_nusd"] for c in rows.charges] == [170_000, 170_000]


async def test_a_stream_whose_client_asked_for_no_usage_has_its_cost_as_a_comment(gateway: Served):
    seen = await gateway.ask("count", stream=True)
    assert not any(chunk.get("usage") for chunk in seen.chunks)
    assert all(chunk["choices"] for chunk in seen.chunks)
    assert seen.comments == ["faregate cost_usd=0.000170000"]


async def test_a_stream_whose_client_asked_gets_usage_once_with_the_cost(gateway: Served):
    seen = await gateway.ask("count", stream=True, stream_options={"include_usage": True})
    told = [chunk for chunk in seen.chunks if chunk.get("usage")]
    assert [chunk["choices"] for chunk in told] == [[]]
    assert told[0]["usage"]["completion_tokens"] == 5
    assert told[0]["usage"]["cost"] == 0.00017
    assert seen.chunks[-1] is not None
    assert seen.lines[-2].startswith("data: ")
    assert seen.comments == []


async def test_the_cost_is_the_same_everywhere_to_the_nano_dollar(gateway: Served):
    seen = await gateway.ask("cached")
    rows = await gateway.rows_of(seen)
    (charge,) = rows.charges
    assert (charge["input_tokens"], charge["cached_input_tokens"]) == (40, 60)
    assert charge["cost_nusd"] == 40 * 10_000 + 60 * 500 + 3 * 20_000
    usage = msgspec.json.decode(seen.body, type=dict[str, msgspec.Raw])["usage"]
    cost = bytes(msgspec.json.decode(usage, type=dict[str, msgspec.Raw])["cost"]).decode()
    assert Decimal(cost) == Decimal(seen.headers["x-faregate-cost-usd"]) == Decimal(charge["cost_nusd"]).scaleb(-9)
    assert "E" not in seen.headers["x-faregate-cost-usd"]


@pytest.mark.parametrize("stream", [True, False])
async def test_without_the_upstreams_usage_tokens_are_counted_or_estimated(gateway: Served, stream: bool):
    options = {"stream_options": {"include_usage": True}} if stream else {}
    seen = await gateway.ask("silent about usage", stream=stream, **options)
    (charge,) = (await gateway.rows_of(seen)).charges
    usage = (seen.chunks[-1] if stream else seen.json)["usage"]
    assert charge["input_provenance"] == "estimated"
    assert charge["output_provenance"] == ("counted" if stream else "estimated")
    assert charge["output_tokens"] == usage["completion_tokens"] > 0
    assert charge["input_tokens"] == usage["prompt_tokens"] > 0
    assert not stream or charge["output_tokens"] == 3


@pytest.mark.parametrize("stream", [True, False])
async def test_zero_usage_of_an_answer_with_text_is_not_believed(gateway: Served, stream: bool):
    seen = await gateway.ask("all zeros", stream=stream)
    (charge,) = (await gateway.rows_of(seen)).charges
    assert charge["input_provenance"] == "estimated"
    assert charge["output_provenance"] == ("counted" if stream else "estimated")
    assert min(charge["input_tokens"], charge["output_tokens"], charge["cost_nusd"]) > 0
    assert charge["cost_provenance"] == "estimated"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cost_nobody_can_tell_is_unknown_everywhere_and_never_zero(gateway: Served, stream: bool):
    options = {"stream_options": {"include_usage": True}} if stream else {}
    seen = await gateway.ask("searched", stream=stream, **options)
    rows = await gateway.rows_of(seen)
    (charge,) = rows.charges
    usage = (seen.chunks[-1] if stream else seen.json)["usage"]
    assert (charge["cost_nusd"], charge["cost_provenance"], charge["web_searches"]) == (None, "unknown", 2)
    assert (usage["cost"], usage["faregate"]["attempts"][0]["cost"]) == (None, None)
    assert stream or seen.headers["x-faregate-cost-usd"] == "unknown"
    assert rows.requests[0]["unknown_charges"] == 1


async def test_an_unknown_cost_is_a_comment_of_a_stream_without_usage(gateway: Served):
    assert (await gateway.ask("searched", stream=True)).comments == ["faregate cost_usd=unknown"]


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_in_a_vendors_field_is_charged_once_and_told_in_the_usual_one(gateway: Served, stream: bool):
    options = {"stream_options": {"include_usage": True}} if stream else {}
    seen = await gateway.ask("vendor", stream=stream, **options)
    (charge,) = (await gateway.rows_of(seen)).charges
    usage = (seen.chunks[-1] if stream else seen.json)["usage"]
    assert (charge["input_tokens"], charge["output_tokens"]) == (9, 4)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (9, 4)
    assert (charge["tier"], charge["cost_provenance"]) == ("", "priced")
    assert seen.text == "one two three"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_usage_that_is_no_object_costs_no_answer(gateway: Served, stream: bool):
    seen = await gateway.ask("no object", stream=stream)
    (charge,) = (await gateway.rows_of(seen)).charges
    assert (seen.status, seen.text) == (200, "one two three")
    assert charge["cost_provenance"] == "estimated"
    assert stream or seen.json["usage"]["completion_tokens"] == charge["output_tokens"]


async def test_a_charge_names_the_upstreams_answer_its_tier_and_what_it_stated(gateway: Served):
    seen = await gateway.ask("stated")
    (charge,) = (await gateway.rows_of(seen)).charges
    assert charge["upstream_response_id"] == seen.json["id"]
    assert (charge["stated_cost_nusd"], charge["cost_nusd"]) == (500_000_000, 130_000)
    assert (charge["tier"], charge["cost_provenance"]) == ("flex", "estimated")


async def test_a_stream_whose_upstream_says_no_done_ends_well(gateway: Served):
    seen = await gateway.ask("without done", stream=True)
    assert (seen.text, seen.is_done, seen.is_cut) == ("one two three", True, False)


async def test_a_price_below_a_microdollar_is_written_without_an_exponent(tmp_path: Path):
    async with Upstream(SCRIPT) as upstream:
        policy = a_policy([upstream.url])
        policy["models"]["large"]["price"] = {"input_usd_per_mtok": 0.001, "output_usd_per_mtok": 0.002}
        async with serving(tmp_path, policy) as served:
            seen = await served.ask("count")
            stream = await served.ask("count", stream=True)
    assert seen.headers["x-faregate-cost-usd"] == "0.000000017"
    assert b'"cost":0.000000017' in seen.body
    assert stream.comments == ["faregate cost_usd=0.000000017"]


async def test_many_at_once_are_each_answered_and_booked_once(gateway: Served):
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(gateway.ask("count", model="plain", stream=bool(n % 2))) for n in range(60)]
    seen = [task.result() for task in asking]
    rows = await gateway.rows_of(*seen)
    assert {each.text for each in seen} == {"one two three four five"}
    assert len({row["request_id"] for row in rows.requests}) == len(rows.charges) == 60
    assert {c["cost_nusd"] for c in rows.charges} == {170_000}


async def test_headers_say_which_way_was_taken(gateway: Served):
    seen = await gateway.ask("count", headers={"x-request-id": "mine-1", "x-faregate-explain": "true"})
    rows = await gateway.rows_of(seen)
    said = {name: seen.headers[f"x-faregate-{name}"] for name in ("route", "model", "path")}
    assert said == {"route": "plain", "model": "large", "path": "large"}
    assert float(seen.headers["x-faregate-overhead-ms"]) >= 0
    assert json.loads(seen.headers["x-faregate-explain"])["plan"]["reason"] == "only_rung"
    (request,) = rows.requests
    assert seen.headers["x-request-id"] == request["request_id"] != "mine-1"
    assert request["client_request_id"] == "mine-1"


async def test_tags_and_session_are_booked(gateway: Served):
    headers = {"x-faregate-tags": "feature=search, team=web", "x-faregate-session": "s-1"}
    seen = await gateway.ask("count", headers=headers)
    (request,) = (await gateway.rows_of(seen)).requests
    assert json.loads(request["tags"]) == {"feature": "search", "team": "web"}
    assert request["session"] == "s-1"


async def test_unknown_fields_reach_the_upstream_untouched_and_secrets_do_not(gateway: Served, upstream: Upstream):
    body = (
        b'{"model":"plain","temperature":0,"big":12345678901234567890,"tiny":1e-7,"zero":-0.0,"deep":{"a":[1.50]},'
        b'"api_key":"sk-theirs","api_base":"http://evil","base_url":"http://evil",'
        b'"messages":[{"role":"user","content":"count"}]}'
    )
    assert (await gateway.send("/v1/chat/completions", body)).status == 200
    sent = upstream.last.body
    for part in (b'"big":12345678901234567890', b'"tiny":1e-7', b'"zero":-0.0', b'"deep":{"a":[1.50]}'):
        assert part in sent
    assert b"evil" not in sent
    assert b"sk-theirs" not in sent
    assert json.loads(sent)["model"] == LARGE_NAME


async def test_only_the_operators_key_goes_upstream(gateway: Served, upstream: Upstream):
    await gateway.ask("count", headers={"cookie": "a=b", "x-api-key": "theirs"})
    headers = upstream.last.headers
    assert headers["authorization"] == "Bearer sk-operators-own"
    assert not {"cookie", "x-api-key"} & set(headers)


@pytest.mark.parametrize("stream", [True, False])
async def test_unknown_fields_of_an_answer_pass_through(gateway: Served, stream: bool):
    seen = await gateway.ask("strange", stream=stream)
    assert b'"big":12345678901234567890,"tiny":1e-07' in seen.body


async def test_llamacpps_timings_pass_through(tmp_path: Path):
    async with Upstream(flavour=Flavour.LLAMACPP) as upstream, serving(tmp_path, a_policy([upstream.url])) as gateway:
        assert (await gateway.ask()).json["timings"]["predicted_per_second"] == 20.5


async def test_line_ends_and_comments_of_the_upstream_are_not_the_clients(gateway: Served):
    seen = await gateway.ask("folded", stream=True)
    assert (seen.text, seen.is_done) == ("An answer.", True)
    assert b"\r" not in seen.body
    assert b"still here" not in seen.body


@pytest.mark.parametrize("stream", [True, False])
async def test_several_choices_come_back(gateway: Served, stream: bool):
    seen = await gateway.ask("count", n=2, stream=stream)
    rows = await gateway.rows_of(seen)
    choices = [c for body in (seen.chunks if stream else [seen.json]) for c in body["choices"]]
    assert {choice["index"] for choice in choices} == {0, 1}
    assert rows.charges[0]["output_tokens"] == 10


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs_come_back_when_asked_for(gateway: Served, stream: bool):
    seen = await gateway.ask("count", logprobs=True, top_logprobs=2, stream=stream)
    choices = [c for body in (seen.chunks if stream else [seen.json]) for c in body["choices"]]
    tokens = [token for c in choices if c.get("logprobs") for token in c["logprobs"]["content"]]
    assert [len(token["top_logprobs"]) for token in tokens] == [2] * 5


@pytest.mark.parametrize("stream", [True, False])
async def test_tool_calls_come_back(gateway: Served, stream: bool):
    seen = await gateway.ask("tool", tools=[TOOL], stream=stream)
    if stream:
        deltas = [c["delta"] for chunk in seen.chunks for c in chunk["choices"]]
        assert [d["tool_calls"] for d in deltas if "tool_calls" in d] == [[{"index": 0, **CALL}]]
    else:
        assert seen.json["choices"][0]["message"]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 7, "stop": ["\n", "END"], "top_p": 0.5, "user": "someone"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
        {"max_completion_tokens": 9, "presence_penalty": 0.1, "logit_bias": {"50256": -100}},
        {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
        {"max_tokens": -1},
    ],
)
async def test_parameters_reach_the_upstream(gateway: Served, upstream: Upstream, fields: dict[str, JsonValue]):
    assert (await gateway.ask("count", **fields)).status == 200
    sent = upstream.last.json
    assert {name: sent[name] for name in fields} == fields


async def test_images_reach_the_upstream(gateway: Served, upstream: Upstream):
    parts = [
        {"type": "text", "text": "count"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
    ]
    seen = await gateway.ask(messages=[{"role": "user", "content": parts}])
    assert seen.text == "one two three four five"
    assert upstream.last.json["messages"][0]["content"] == parts


@pytest.mark.parametrize("stream", [True, False])
async def test_legacy_completions_work(gateway: Served, stream: bool):
    body = {"model": "plain", "prompt": "count", "stream": stream, "max_tokens": 5}
    seen = await gateway.send("/v1/completions", body)
    rows = await gateway.rows_of(seen)
    assert seen.text == "one two three four five"
    assert rows.requests[0]["surface"] == "completions"
    assert rows.charges[0]["cost_nusd"] == 170_000


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_embeddings_work(gateway: Served, encoding: str | None):
    body = {"model": "plain", "input": ["abc", "de"], "encoding_format": encoding}
    seen = await gateway.send("/v1/embeddings", body)
    rows = await gateway.rows_of(seen)
    first = seen.json["data"][0]["embedding"]
    assert first == [3.0, 0.5, -0.25] if encoding != "base64" else isinstance(first, str)
    assert rows.charges[0]["cost_nusd"] == 70_000
    assert seen.json["usage"]["cost"] == 0.00007


async def test_a_model_can_be_asked_for_by_its_own_name(gateway: Served):
    seen = await gateway.ask("count", model="small")
    (request,) = (await gateway.rows_of(seen)).requests
    assert seen.headers["x-faregate-path"] == "small"
    assert (request["baseline_model"], request["baseline_nusd"]) == ("small", request["cost_nusd"])


async def test_vllm_takes_our_request_id_for_its_answers(tmp_path: Path):
    async with Upstream() as upstream, serving(tmp_path, a_policy([upstream.url])) as gateway:
        seen = await gateway.ask()
    assert seen.json["id"] == f"chatcmpl-{seen.headers['x-request-id']}"


@pytest.mark.parametrize(("flavour", "status"), [(Flavour.VLLM, 404), (Flavour.LLAMACPP, 200)])
async def test_a_name_the_upstream_does_not_know(tmp_path: Path, flavour: Flavour, status: int):
    async with (
        Upstream(flavour=flavour, models=("another",)) as upstream,
        serving(tmp_path, a_policy([upstream.url])) as gateway,
    ):
        seen = await gateway.ask()
        rows = await gateway.rows_of(seen)
    assert seen.status == status
    assert len(rows.charges) == (status == 200)


@pytest.mark.parametrize(("flavour", "status"), [(Flavour.VLLM, 400), (Flavour.LLAMACPP, 200)])
async def test_more_alternatives_than_vllm_gives(tmp_path: Path, flavour: Flavour, status: int):
    async with Upstream(flavour=flavour) as upstream, serving(tmp_path, a_policy([upstream.url])) as gateway:
        seen = await gateway.ask(logprobs=True, top_logprobs=25)
    assert seen.status == status
    if status == 400:
        assert seen.error["message"] == "top_logprobs must be at most 20"
        assert seen.error["param"] == "top_logprobs"
