"""The caches as clients see them: hits that cost nothing, near-misses that are asked, and what is never shared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from backends.words import JsonValue
from tests.served.world import AheadClock, Seen, Served, a_policy, serving
from tests.upstream import Received, Says, Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves all of these; each test has its own question

CALL = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def script(received: Received) -> Says:
    """Echo the question, so that every answer says what it answers."""
    if "tools" in received.json:
        return Says(tokens=(), tool_calls=(CALL,))
    return says(f"You asked: {received.text}", finish="length" if "endless" in received.text else "stop")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(script) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("caches"), a_policy([upstream.url])) as served:
        yield served


async def ask(gateway: Served, question: str, **fields: JsonValue) -> Seen:
    """Ask on the cached route, and wait until the answer is stored."""
    seen = await gateway.ask(question, **{"model": "cached", **fields})
    await gateway.stored()
    return seen


def path(seen: Seen) -> str:
    return str(seen.headers["x-faregate-path"])


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
async def test_the_same_question_is_answered_from_the_exact_cache(
    gateway: Served, upstream: Upstream, first: bool, second: bool
):
    question = f"Which mountain is number {2 * first + second + 10}?"
    fresh = await ask(gateway, question, stream=first)
    asked = len(upstream.requests)
    hit = await ask(gateway, question, stream=second)
    rows = await gateway.rows_of(fresh, hit)
    assert (path(fresh), path(hit)) == ("large", "cache:exact")
    assert hit.text == fresh.text == f"You asked: {question}"
    assert not second or hit.is_done
    assert len(upstream.requests) == asked
    (charge,) = rows.charges
    assert rows.requests[1]["cost_nusd"] == 0
    assert rows.requests[1]["baseline_nusd"] == charge["cost_nusd"]


async def test_a_hit_costs_nothing_and_has_its_own_id(gateway: Served):
    fresh, hit = await ask(gateway, "What is a fjord?"), await ask(gateway, "What is a fjord?")
    assert hit.json["usage"]["cost"] == 0
    assert hit.headers["x-faregate-cost-usd"] == "0"
    assert hit.json["usage"]["prompt_tokens"] == fresh.json["usage"]["prompt_tokens"]
    assert hit.json["id"] == f"chatcmpl-{hit.headers['x-request-id']}" != fresh.json["id"]
    assert {k: v for k, v in hit.json.items() if k not in {"id", "created", "usage"}} == {
        k: v for k, v in fresh.json.items() if k not in {"id", "created", "usage"}
    }


async def test_a_replayed_stream_has_usage_when_asked_for(gateway: Served):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    fresh, hit = await ask(gateway, "What is a lagoon?", **options), await ask(gateway, "What is a lagoon?", **options)
    assert (path(hit), hit.chunks[-1]["choices"]) == ("cache:exact", [])
    assert hit.chunks[-1]["usage"]["cost"] == 0
    assert hit.chunks[-1]["usage"]["completion_tokens"] == fresh.chunks[-1]["usage"]["completion_tokens"]
    assert (hit.text, hit.is_done) == (fresh.text, True)


@pytest.mark.parametrize("second", [False, True])
async def test_a_question_that_means_the_same_is_answered_from_the_semantic_cache(gateway: Served, second: bool):
    fresh = await ask(gateway, f"How do I reset my {'router' if second else 'phone'}?")
    hit = await ask(gateway, f"How can I reset my {'router' if second else 'phone'}?", stream=second)
    rows = await gateway.rows_of(fresh, hit)
    assert path(hit) == "cache:semantic"
    assert hit.text == fresh.text
    assert 0.8 < float(hit.headers["x-faregate-similarity"]) < 1
    assert rows.requests[1]["similarity"] == pytest.approx(float(hit.headers["x-faregate-similarity"]), abs=1e-4)
    assert rows.requests[1]["baseline_nusd"] == rows.charges[0]["cost_nusd"]
    assert len(rows.charges) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many calories are in 100 g of rice?", "How many calories are in 200 g of rice?"),
        ("Is it safe to eat raw eggs?", "Is it not safe to eat raw eggs?"),
        ("What is the population of Norway?", "What is the population of Sweden?"),
    ],
)
async def test_a_near_miss_is_asked(gateway: Served, one: str, other: str):
    fresh, missed = await ask(gateway, one), await ask(gateway, other, headers={"x-faregate-explain": "true"})
    assert (path(fresh), path(missed)) == ("large", "large")
    assert missed.text == f"You asked: {other}"
    assert '"semantic":"miss:declined' in missed.headers["x-faregate-explain"]


async def test_another_tenants_answers_are_never_served(gateway: Served):
    await ask(gateway, "How do I clean moss?")
    assert path(await ask(gateway, "How do I clean moss?", tenant="other")) == "large"
    await ask(gateway, "How do I clean a chimney?")
    assert path(await ask(gateway, "How can I clean a chimney?", tenant="other")) == "large"
    assert path(await ask(gateway, "How can I clean a chimney?")) == "cache:semantic"


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "system", "content": "Be a pirate."}, {"role": "user", "content": "What is rum?"}]},
        {"max_tokens": 5},
        {"seed": 7},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
    ],
)
async def test_another_frame_is_another_answer(gateway: Served, changes: JsonValue):
    await ask(gateway, "What is rum?")
    assert path(await ask(gateway, "What is rum?", **changes)) == "large"


@pytest.mark.parametrize("first", [False, True])
async def test_tool_calls_are_replayed(gateway: Served, first: bool):
    question = f"Weather in Oslo in {'winter' if first else 'summer'}?"
    fresh = await ask(gateway, question, tools=[TOOL], stream=first)
    hit = await ask(gateway, question, tools=[TOOL])
    streamed = await ask(gateway, question, tools=[TOOL], stream=True)
    assert (path(fresh), path(hit), path(streamed)) == ("large", "cache:exact", "cache:exact")
    assert hit.json["choices"][0]["message"] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    deltas = [choice["delta"] for chunk in streamed.chunks for choice in chunk["choices"]]
    assert [d["tool_calls"] for d in deltas if "tool_calls" in d] == [[{"index": 0, **CALL}]]


async def test_no_store_neither_reads_nor_stores(gateway: Served):
    wish = {"x-faregate-cache": "no-store"}
    await ask(gateway, "What is tundra?", headers=wish)
    assert path(await ask(gateway, "What is tundra?")) == "large"
    assert path(await ask(gateway, "What is tundra?", headers=wish)) == "large"


async def test_no_cache_asks_again_and_stores_for_both_tiers(gateway: Served):
    await ask(gateway, "How do I grow basil?")
    assert path(await ask(gateway, "How do I grow basil?", headers={"x-faregate-cache": "no-cache"})) == "large"
    assert path(await ask(gateway, "How do I grow basil?")) == "cache:exact"
    assert path(await ask(gateway, "How can I grow basil?")) == "cache:semantic"


async def test_max_age_bounds_what_is_served(gateway: Served):
    await ask(gateway, "What is chalk?")
    assert path(await ask(gateway, "What is chalk?", headers={"x-faregate-cache": "max-age=0"})) == "large"
    assert path(await ask(gateway, "What is chalk?", headers={"x-faregate-cache": "max-age=600"})) == "cache:exact"


@pytest.mark.parametrize("temperature", [0.7, None])
async def test_answers_that_vary_by_wish_are_not_kept(gateway: Served, temperature: float | None):
    for _ in range(2):
        seen = await ask(gateway, "Tell me a joke", temperature=temperature, headers={"x-faregate-explain": "true"})
        assert path(seen) == "large"
    assert '"exact":"bypass:temperature"' in seen.headers["x-faregate-explain"]


async def test_a_route_without_caches_keeps_nothing(gateway: Served):
    for _ in range(2):
        assert path(await ask(gateway, "What is slate?", model="plain")) == "large"


async def test_an_answer_cut_at_its_length_is_not_kept(gateway: Served):
    for _ in range(2):
        assert path(await ask(gateway, "An endless story")) == "large"


async def test_embeddings_and_completions_are_kept_too(gateway: Served):
    for surface, body in (("embeddings", {"input": "abc"}), ("completions", {"prompt": "abc", "temperature": 0})):
        seen = []
        for _ in range(2):
            seen.append(await gateway.send(f"/v1/{surface}", {"model": "cached", **body}))
            await gateway.stored()
        assert [path(each) for each in seen] == ["large", "cache:exact"]
        assert seen[1].json.get("data", seen[1].json.get("choices")) == seen[0].json.get(
            "data", seen[0].json.get("choices")
        )


async def test_a_time_sensitive_question_is_kept_exactly_only(gateway: Served):
    await ask(gateway, "How do I watch the latest film?")
    assert path(await ask(gateway, "How can I watch the latest film?")) == "large"
    assert path(await ask(gateway, "How do I watch the latest film?")) == "cache:exact"


async def test_answers_survive_a_restart(tmp_path: Path, upstream: Upstream):
    async with serving(tmp_path, a_policy([upstream.url])) as before:
        await ask(before, "How do I fold a map?")
    async with serving(tmp_path, a_policy([upstream.url])) as after:
        assert path(await ask(after, "How can I fold a map?")) == "cache:semantic"
        assert path(await ask(after, "How do I fold a map?")) == "cache:exact"


async def test_each_tiers_time_to_live_is_its_own(tmp_path: Path, upstream: Upstream):
    clock = AheadClock()
    async with serving(tmp_path, a_policy([upstream.url]), clock=clock) as gateway:
        await ask(gateway, "How do I tie a bowline?")
        clock.ahead = timedelta(hours=2)
        assert path(await ask(gateway, "How can I tie a bowline?", headers={"x-faregate-cache": "no-store"})) == "large"
        assert path(await ask(gateway, "How do I tie a bowline?")) == "cache:exact"
        assert path(await ask(gateway, "How would I tie a bowline?")) == "large"
        clock.ahead = timedelta(hours=25)
        assert path(await ask(gateway, "How do I tie a bowline?")) == "large"
