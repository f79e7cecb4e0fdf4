"""What clients, upstreams and the ledger see of budgets and rate limits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner

from backends.words import JsonValue
from gateway.cli import main
from tests.served.world import Served, a_policy, serving
from tests.upstream import Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves most of these

# A question costs 7 tokens in and 3 out: 130 millionths of a dollar on large, 13 on small. Its worst case is 1,720
# millionths for the prompt (44 bytes of messages and 128 tokens), and 20 a token of `max_tokens`; on small a tenth.
MONTH = {"per": "month", "timezone": "Europe/Berlin"}
TENANTS = [
    {"id": "acme"},
    {"id": "tight", "budget": {"usd": 0.002, **MONTH}},
    {"id": "ever", "budget": {"usd": 0.0001, "per": "total"}},
    {"id": "frugal", "budget": {"usd": 0.0018, "at_limit": "degrade", **MONTH}},
    {"id": "broke", "budget": {"usd": 0, "at_limit": "degrade", **MONTH}},
    {"id": "warned", "budget": {"usd": 0, "at_limit": "warn", **MONTH}},
    {"id": "capped", "budget": {"usd": 1, **MONTH}},
    {"id": "caching", "budget": {"usd": 0.0043, **MONTH}},
    {"id": "slow", "limits": {"rpm": 2, "tpm": 100000}},
    {"id": "words"},
]
SMALL_EACH = {"usd": 0.0021, "per": "day"}
BUDGETS = [
    {"name": f"{word}s", "match": {"tenant": "words"}, "each": word, **SMALL_EACH}
    for word in ("session", "user", "task", "feature")
]

SEARCHED = {"prompt_tokens": 7, "completion_tokens": 3, "server_tool_use": {"web_search_requests": 2}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream({}) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    policy = a_policy([upstream.url], tenants=TENANTS, budgets=BUDGETS)
    async with serving(tmp_path_factory.mktemp("budgets"), policy) as served:
        yield served


async def metric(gateway: Served, line: str) -> float:
    text = (await gateway.send("/metrics", method="GET")).body.decode()
    return next((float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line)), 0.0)


async def test_at_the_cap_a_request_is_refused_with_the_time_the_budget_is_full_again(gateway: Served):
    fits, over = await gateway.ask(tenant="tight", max_tokens=10), await gateway.ask(tenant="tight", max_tokens=100)
    assert (fits.status, over.status) == (200, 402)
    assert (over.error["code"], over.error["type"]) == ("budget_exceeded", "insufficient_quota")
    assert 'the budget "tenant:tight" ($0.002 in a month) has $0.00187 left' in over.error["message"]
    reset = datetime.fromisoformat(over.headers["x-faregate-budget-reset"])
    assert (reset.day, reset.hour) == (1, 0)
    assert reset.isoformat() in over.error["message"]
    assert int(over.headers["retry-after"]) > 0
    rows = await gateway.rows_of(fits, over)
    assert [row["error_code"] for row in rows.requests] == [None, "budget_exceeded"]
    assert len(rows.charges) == 1


async def test_a_budget_that_never_fills_up_says_never(gateway: Served):
    seen = await gateway.ask(tenant="ever")
    assert (seen.status, seen.headers["x-faregate-budget-reset"]) == (402, "never")
    assert "retry-after" not in seen.headers


async def test_a_degraded_request_is_answered_by_a_cheaper_rung_that_fits(gateway: Served, upstream: Upstream):
    explain = {"x-faregate-explain": "true"}
    seen = await gateway.ask(model="cascade", tenant="frugal", max_tokens=100, headers=explain)
    assert (seen.status, seen.headers["x-faregate-path"]) == (200, "small")
    assert seen.headers["x-faregate-budget"] == "degraded; budget=tenant:frugal; cap-usd=0.0018"
    assert '"reason":"budget_degraded"' in seen.headers["x-faregate-explain"]
    assert "logprobs" not in upstream.last.json
    (row,) = (await gateway.rows_of(seen)).requests
    assert row["plan_reason"] == "budget_degraded"


async def test_where_not_even_the_cheapest_rung_fits_a_degraded_request_is_refused(gateway: Served):
    seen = await gateway.ask(model="cascade", tenant="broke")
    assert (seen.status, seen.error["code"]) == (402, "budget_exceeded")


async def test_a_client_that_pins_a_model_gets_that_model_or_none(gateway: Served):
    seen = await gateway.ask(model="large", tenant="frugal", max_tokens=100)
    assert (seen.status, seen.error["code"]) == (402, "budget_exceeded")


async def test_a_warned_request_is_served_and_told(gateway: Served):
    seen = await gateway.ask(tenant="warned", stream=True)
    assert (seen.status, seen.is_done) == (200, True)
    assert seen.headers["x-faregate-budget"] == "warn; budget=tenant:warned; cap-usd=0.00"
    assert await metric(gateway, 'faregate_budget_events_total{budget="tenant:warned",event="warned"}') == 1


async def test_the_cap_a_budget_counts_on_is_sent_upstream(gateway: Served, upstream: Upstream):
    await gateway.ask(tenant="capped")
    assert upstream.last.json["max_tokens"] == 4096
    await gateway.ask(tenant="capped", max_tokens=-1, max_completion_tokens=None)
    assert upstream.last.json["max_tokens"] == 4096
    assert "max_completion_tokens" not in upstream.last.json
    await gateway.ask(tenant="capped", max_completion_tokens=7)
    assert (upstream.last.json["max_completion_tokens"], "max_tokens" in upstream.last.json) == (7, False)


async def test_a_tenant_without_a_budget_is_capped_by_nobody(gateway: Served, upstream: Upstream):
    await gateway.ask(tenant="acme")
    assert "max_tokens" not in upstream.last.json


async def test_a_cached_answer_is_served_at_the_cap(gateway: Served):
    first = await gateway.ask("cached?", model="cached", tenant="caching", max_tokens=120)
    await gateway.stored()
    again = await gateway.ask("cached?", model="cached", tenant="caching", max_tokens=120)
    other = await gateway.ask("something quite different", model="cached", tenant="caching", max_tokens=130)
    assert [first.status, again.status, other.status] == [200, 200, 402]
    assert again.headers["x-faregate-path"] == "cache:exact"


@pytest.mark.parametrize(
    ("word", "one", "two"),
    [
        ("session", {"headers": {"x-faregate-session": "s1"}}, {"headers": {"x-faregate-session": "s2"}}),
        ("task", {"headers": {"x-faregate-tags": "task=1"}}, {"headers": {"x-faregate-tags": "task=2"}}),
        ("feature", {"headers": {"x-faregate-tags": "feature=a"}}, {"headers": {"x-faregate-tags": "feature=b"}}),
        ("user", {"user": "ann"}, {"user": "bob"}),
        ("user", {"safety_identifier": "eve", "user": "x"}, {"safety_identifier": "dan", "user": "x"}),
    ],
    ids=["session", "task", "feature", "user", "safety_identifier"],
)
async def test_each_has_a_pot_of_its_own(gateway: Served, word: str, one: JsonValue, two: JsonValue):
    async def spend(**fields: JsonValue) -> int:
        return (await gateway.ask(tenant="words", max_tokens=10, **fields)).status

    assert [await spend(**one) for _ in range(4)] == [200, 200, 402, 402]
    assert [await spend(**two), await spend()] == [200, 200], f"another {word}, and none"


async def test_rate_limits_are_told_on_answers_and_on_refusals(gateway: Served):
    seen = [await gateway.ask(tenant="slow", stream=index == 1) for index in range(3)]
    assert [each.status for each in seen] == [200, 200, 429]
    remaining = [each.headers["x-ratelimit-remaining-requests"] for each in seen]
    assert (remaining, seen[0].headers["x-ratelimit-limit-requests"]) == (["1", "0", "0"], "2")
    assert seen[0].headers["x-ratelimit-reset-requests"] == "1m1s"
    # The first request's estimate was corrected to the 10 tokens it used before the third asked.
    assert int(seen[2].headers["x-ratelimit-remaining-tokens"]) == 100000 - 2 * 10
    assert (seen[2].error["code"], seen[2].error["type"]) == ("rate_limit_exceeded", "requests")
    assert 50 <= int(seen[2].headers["retry-after"]) <= 61
    assert await metric(gateway, 'faregate_rate_limited_total{limit="rpm",tenant="slow"}') == 1


async def test_what_is_left_of_a_tenants_budget_can_be_watched(gateway: Served):
    assert await metric(gateway, 'faregate_budget_left_usd{per="month",tenant="broke"}') == 0
    assert 0.99 < await metric(gateway, 'faregate_budget_left_usd{per="month",tenant="capped"}') <= 1


async def test_fees_of_searches_are_held_before_they_are_charged(upstream: Upstream, tmp_path: Path):
    policy = a_policy([upstream.url])
    policy["models"]["large"] |= {"web_searches": {"max": 2}}
    policy["models"]["large"]["price"] |= {"usd_per_web_search": 1}
    policy["tenants"] = [{"id": "acme", "budget": {"usd": 3.5, "per": "total"}}]
    upstream.script["searched"] = says("Found.", tells_usage=False, fields={"usage": SEARCHED})
    async with serving(tmp_path, policy) as served:
        plain = await served.ask("plain", max_tokens=10)
        first, second = [await served.ask("searched", max_tokens=10, web_search_options={}) for _ in range(2)]
        (_, charge) = (await served.rows_of(plain, first)).charges

    told = CliRunner().invoke(main, ["budgets", "--policy", str(tmp_path / "policy.yaml"), "--json"])
    (pot,) = json.loads(told.stdout)
    assert (pot["budget"], pot["each"], pot["resets_at"]) == ("tenant:acme", {}, None)
    assert Decimal(pot["spent_usd"]) + Decimal(pot["left_usd"]) == Decimal("3.5")
    assert pot["spent_usd"].startswith("2.0")
    assert (plain.status, first.status, second.status) == (200, 200, 402)
    assert 2_000_000_000 < charge["cost_nusd"] < 2_001_000_000
    assert "may cost up to $2.0" in second.error["message"]
