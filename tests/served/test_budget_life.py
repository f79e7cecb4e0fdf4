"""Budgets over a gateway's lives, and under a crowd: each test has a gateway of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from gateway.check import check_policy
from policies.loader import load_policy
from tests.served.world import Seen, a_policy, serving
from tests.upstream import Upstream, says


async def test_a_restart_forgets_no_spending_and_says_what_is_overspent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    async def opened(usd: float) -> tuple[Seen, tuple[str, ...]]:
        policy = a_policy([upstream.url], tenants=[{"id": "acme", "budget": {"usd": usd, "per": "total"}}])
        async with serving(tmp_path, policy) as gateway:
            return await gateway.ask(max_tokens=5), gateway.opened.warnings

    async with Upstream({}) as upstream:
        (first, _), (second, _), (third, warnings) = [await opened(usd) for usd in (0.0019, 0.0019, 0.0001)]
    assert [first.status, second.status, third.status] == [200, 402, 402]
    assert warnings[-1] == (
        'the budget "tenant:acme" of $0.0001 in total is below what is already spent, $0.00013; '
        "its requests are refused (402) until it is raised"
    )
    file = tmp_path / "policy.yaml"
    assert check_policy(load_policy(file, {}), file, as_json=True) == 0
    assert warnings[-1] in json.loads(capsys.readouterr().out)["warnings"]


async def test_a_thousand_requests_at_once_overshoot_by_nothing(tmp_path: Path):
    patient = {"connect_s": 60, "first_byte_s": 60, "idle_s": 60}
    policy = {"tenants": [{"id": "acme", "budget": {"usd": 0.1, "per": "day"}}], "limits": {"max_in_flight": 2000}}
    async with (
        Upstream({"go": says("one two three four five six seven eight nine ten", prompt_tokens=160)}) as upstream,
        serving(tmp_path, a_policy([upstream.url], **policy, timeouts=patient)) as gateway,
    ):
        seen = await asyncio.gather(*(gateway.ask("go", max_tokens=10, stream=n % 2 == 0) for n in range(1000)))
        rows = await gateway.rows(1000)
    assert {each.status for each in seen} == {200, 402}
    spent = sum(row["cost_nusd"] for row in rows.charges)
    assert 0.09e9 < spent <= 0.1e9
    assert len(rows.charges) == sum(each.status == 200 for each in seen)
