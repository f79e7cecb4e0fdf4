"""A judged rung: kept, or closed early and climbed from without a word of it reaching the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backends.words import JsonValue
from tests.served.world import WINDOW_TOKENS, Served, a_policy, serving
from tests.upstream import UNSURE, Says, Upstream, refuses, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these

WANTED = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": WANTED}}
SMALL = {
    "sure": says("yes it is a small answer"),
    "unsure": says("perhaps it could be secretly wrong or something", logprob=UNSURE),
    "endless": says("perhaps it could be secretly wrong or something", logprob=UNSURE, stall_after=WINDOW_TOKENS + 1),
    "good json": Says(tokens=('{"n"', ": ", "12", "}")),
    "bad json": Says(tokens=('{"n"', ": ", '"twelve"', "}")),
    "no json": says("twelve of them"),
    "refused": refuses(400, "too long for me"),
    "down": refuses(500, "down"),
    "cut": says("yes it is cut here and now", cut_after=2),
    "late cut": says("yes it is cut here and now", cut_after=5),
    "both fail": refuses(500, "x"),
    "short": says("yes"),
    "short and unsure": says("perhaps not", logprob=UNSURE),
}
LARGE = {
    "": says("the large answer of several words"),
    "bad json": Says(tokens=('{"n": 12}',)),
    "no json": Says(tokens=('{"n": 12}',)),
    "both fail": refuses(400, "large says no"),
}


def hasty(policy: JsonValue) -> JsonValue:
    """Add a route whose window is full after a moment, whatever has come."""
    route = policy["routes"][2] | {"name": "hasty", "match": {"model": "hasty-alias"}}
    route["stream"] = {"holdback_tokens": 1000, "holdback_ms": 150}
    return policy | {"routes": [route, *policy["routes"]]}


@pytest_asyncio.fixture(loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Upstream, Upstream, Served]]:
    async with (
        Upstream(SMALL) as small,
        Upstream(LARGE) as large,
        serving(tmp_path_factory.mktemp("cascade"), hasty(a_policy([large.url], [small.url]))) as gateway,
    ):
        yield small, large, gateway


@pytest.fixture
def small(shared: tuple[Upstream, Upstream, Served]) -> Upstream:
    shared[0].requests.clear()
    return shared[0]


@pytest.fixture
def large(shared: tuple[Upstream, Upstream, Served]) -> Upstream:
    shared[1].requests.clear()
    return shared[1]


@pytest.fixture
def gateway(shared: tuple[Upstream, Upstream, Served]) -> Served:
    return shared[2]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_sure_small_answer_is_kept(gateway: Served, large: Upstream, stream: bool):
    seen = await gateway.ask("sure", model="auto", stream=stream)
    rows = await gateway.rows_of(seen)
    assert seen.text == "yes it is a small answer"
    assert seen.headers["x-faregate-path"] == "small"
    assert float(seen.headers["x-faregate-confidence"]) > 0.9
    assert large.requests == []
    (request,) = rows.requests
    assert [(c["kind"], c["model"], c["cost_nusd"]) for c in rows.charges] == [("answer", "small", 19_000)]
    assert (request["path"], request["baseline_nusd"], request["plan_reason"]) == ("small", 190_000, "cascade")
    assert (request["baseline_low_nusd"], request["baseline_high_nusd"]) == (130_000, 310_000)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_unsure_small_answer_is_replaced_by_the_large_one(gateway: Served, stream: bool):
    seen = await gateway.ask("unsure", model="auto", stream=stream)
    rows = await gateway.rows_of(seen)
    assert seen.text == "the large answer of several words"
    assert b"secretly" not in seen.body
    assert b"perhaps" not in seen.body
    assert b"tiny-1b" not in seen.body
    assert seen.headers["x-faregate-path"] == "small>large"
    assert [(c["kind"], c["model"]) for c in rows.charges] == [("rejected", "small"), ("answer", "large")]
    (request,) = rows.requests
    assert request["cost_nusd"] == sum(c["cost_nusd"] for c in rows.charges)
    assert request["baseline_nusd"] == rows.charges[1]["cost_nusd"]


async def test_a_rejected_stream_that_had_ended_is_booked_as_its_upstream_says(gateway: Served):
    seen = await gateway.ask("short and unsure", model="auto", stream=True)
    rows = await gateway.rows_of(seen)
    rejected = rows.charges[0]
    assert seen.headers["x-faregate-path"] == "small>large"
    assert (rejected["kind"], rejected["output_tokens"]) == ("rejected", 2)
    assert (rejected["input_provenance"], rejected["output_provenance"]) == ("provider", "provider")


async def test_the_small_upstream_is_closed_as_soon_as_the_judge_climbs(gateway: Served, small: Upstream):
    seen = await gateway.ask("endless", model="auto", stream=True)
    await asyncio.wait_for(small.last.closed.wait(), 10)
    rows = await gateway.rows_of(seen)
    assert (seen.text, seen.is_done) == ("the large answer of several words", True)
    rejected = rows.charges[0]
    # Its stream told no usage: the output is counted, and the input is what the large rung's usage says of the prompt.
    assert (rejected["kind"], rejected["output_provenance"]) == ("rejected", "counted")
    assert WINDOW_TOKENS <= rejected["output_tokens"] <= WINDOW_TOKENS + 1
    assert (rejected["input_tokens"], rejected["input_provenance"]) == (7, "estimated")


async def test_usage_is_the_committed_answers_and_the_cost_is_the_sum(gateway: Served):
    seen = await gateway.ask("unsure", model="auto", stream=True, stream_options={"include_usage": True})
    rows = await gateway.rows_of(seen)
    usage = seen.chunks[-1]["usage"]
    assert usage["completion_tokens"] == 6
    assert round(usage["cost"] * 10**9) == sum(c["cost_nusd"] for c in rows.charges)
    attempts = usage["faregate"]["attempts"]
    assert [(a["model"], a["kind"]) for a in attempts] == [("small", "rejected"), ("large", "answer")]
    assert [round(a["cost"] * 10**9) for a in attempts] == [c["cost_nusd"] for c in rows.charges]


@pytest.mark.parametrize("question", ["sure", "unsure"])
async def test_a_judged_stream_has_one_role_one_end_and_no_logprobs(gateway: Served, question: str):
    seen = await gateway.ask(question, model="auto", stream=True)
    choices = [choice for chunk in seen.chunks for choice in chunk["choices"]]
    assert "role" in choices[0]["delta"]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["stop"]
    assert len({chunk["model"] for chunk in seen.chunks}) == 1
    assert not any(choice.get("logprobs") for choice in choices)


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs_the_client_asked_for_stay(gateway: Served, stream: bool):
    seen = await gateway.ask("sure", model="auto", stream=stream, logprobs=True, top_logprobs=1)
    choices = [c for body in (seen.chunks if stream else [seen.json]) for c in body["choices"]]
    tokens = [token for c in choices if c.get("logprobs") for token in c["logprobs"]["content"]]
    assert [len(token["top_logprobs"]) for token in tokens] == [1] * 6


async def test_the_judge_gets_its_logprobs_from_the_small_rung_only(gateway: Served, small: Upstream, large: Upstream):
    await gateway.ask("unsure", model="auto")
    assert (small.last.json["logprobs"], small.last.json["top_logprobs"]) == (True, 5)
    assert "logprobs" not in large.last.json


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("question", "path"), [("good json", "small"), ("bad json", "small>large"), ("no json", "small>large")]
)
async def test_json_is_judged_whole_and_kept_only_when_it_fits(gateway: Served, question: str, path: str, stream: bool):
    seen = await gateway.ask(question, model="auto", stream=stream, response_format=SCHEMA)
    assert seen.headers["x-faregate-path"] == path
    assert json.loads(seen.text) == {"n": 12}


@pytest.mark.parametrize("question", ["refused", "down"])
async def test_a_small_rung_that_does_not_answer_is_climbed_over_and_costs_nothing(gateway: Served, question: str):
    seen = await gateway.ask(question, model="auto")
    rows = await gateway.rows_of(seen)
    assert (seen.status, seen.headers["x-faregate-path"]) == (200, "large")
    assert [(c["kind"], c["model"], c["attempt"]) for c in rows.charges] == [("answer", "large", 1)]


async def test_a_small_stream_that_breaks_while_held_back_is_climbed_over_and_paid_for(gateway: Served):
    seen = await gateway.ask("cut", model="auto", stream=True)
    rows = await gateway.rows_of(seen)
    assert seen.text == "the large answer of several words"
    assert [(c["kind"], c["output_tokens"]) for c in rows.charges] == [("failed", 2), ("answer", 6)]


async def test_a_small_stream_that_breaks_after_it_was_kept_cannot_be_replaced(gateway: Served, large: Upstream):
    seen = await gateway.ask("late cut", model="auto", stream=True)
    rows = await gateway.rows_of(seen)
    assert (seen.text, seen.is_cut, seen.is_done) == ("yes it is cut here", True, False)
    assert seen.chunks[-1]["error"]["code"] == "upstream_cut"
    assert large.requests == []
    assert [(c["kind"], c["model"], c["output_tokens"]) for c in rows.charges] == [("failed", "small", 5)]


async def test_when_the_windows_time_is_over_what_is_known_decides(gateway: Served):
    seen = await gateway.ask("endless", model="hasty", stream=True)
    assert seen.headers["x-faregate-path"] == "small>large"
    assert seen.text == "the large answer of several words"


async def test_an_answer_shorter_than_the_window_is_judged_whole(gateway: Served):
    seen = await gateway.ask("short", model="auto", stream=True, headers={"x-faregate-explain": "1"})
    assert (seen.text, seen.is_done) == ("yes", True)
    assert json.loads(seen.headers["x-faregate-explain"])["judge"]["window"] == "whole"


async def test_when_every_rung_fails_the_last_ones_error_is_told(gateway: Served):
    seen = await gateway.ask("both fail", model="auto")
    rows = await gateway.rows_of(seen)
    assert (seen.status, seen.error["message"]) == (400, "large says no")
    assert rows.charges == []
    assert (rows.requests[0]["status"], rows.requests[0]["path"]) == (400, "")
