"""A changed policy is taken while the gateway runs: as a whole, at once for what begins, and never for what runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.words import JsonValue
from gateway.outcome import Outcome, read_outcome
from gateway.prepare import PolicyUnusable
from gateway.reload import HangUps, reload_on
from gateway.source import PolicySource
from policies.loader import load_policy
from tests.served.world import SERVED, Served, a_policy, serving, write_policy
from tests.upstream import Says, Stalls, Upstream, says


@asynccontextmanager
async def gateway_on(place: Path, upstream: Upstream, **changes: JsonValue) -> AsyncIterator[Served]:
    async with serving(place, a_policy([upstream.url], **changes)) as gateway:
        yield gateway


async def change(gateway: Served, place: Path, upstream: Upstream | None = None, **changes: JsonValue) -> str:
    """Let the gateway take a policy on an upstream, and return its digest."""
    urls = [upstream.url] if upstream is not None else [gateway.opened.gateway.parts.policy.pools["large"].endpoints[0]]
    policy = a_policy(urls, **changes)
    loaded = load_policy(write_policy(place, {**policy, "server": SERVED | policy.get("server", {})}), {})
    await gateway.reloading.take(loaded)
    return loaded.digest


async def test_what_begins_is_answered_by_the_new_policy_and_what_runs_by_its_own(tmp_path: Path):
    gate = asyncio.Event()
    old, new = Upstream({"": Says(tokens=("old", " one"), stall_after=1, gate=gate)}), Upstream({"": says("new one")})
    async with old, new, gateway_on(tmp_path, old) as gateway, asyncio.TaskGroup() as group:
        before = gateway.opened.gateway.parts.policy.digest
        running = group.create_task(gateway.ask(stream=True))
        await old.request()
        after = await change(gateway, tmp_path, new)
        begun = await gateway.ask()
        gate.set()
        rows = await gateway.rows_of(await running, begun)
    assert ((await running).text, (await running).is_done, begun.text) == ("old one", True, "new one")
    assert [row["policy_digest"] for row in rows.requests] == [before, after]
    assert [row["kind"] for row in rows.charges] == ["answer", "answer"]


async def test_routes_names_and_limits_are_the_new_ones_on_an_open_connection(tmp_path: Path):
    async with Upstream() as upstream, gateway_on(tmp_path, upstream) as gateway:
        assert (await gateway.ask(model="fresh")).status == 404
        routes = [{"name": "fresh", "ladder": ["large"]}]
        await change(gateway, tmp_path, upstream, routes=routes, limits={"max_body_bytes": "1KB"})
        listed = await gateway.send("/v1/models", method="GET")
        answered, refused = await gateway.ask(model="fresh"), await gateway.ask("x" * 2_000, model="fresh")
    assert (answered.status, refused.status) == (200, 413)
    assert "fresh" in [model["id"] for model in listed.json["data"]]


async def test_endpoints_that_stay_keep_their_breakers_and_connections(tmp_path: Path):
    async with Upstream() as upstream, gateway_on(tmp_path, upstream) as gateway:
        await gateway.ask()
        pool = gateway.opened.gateway.parts.catalog["large"].backend
        await change(gateway, tmp_path, upstream, routes=[{"name": "plain", "ladder": ["large", "small"]}])
        await gateway.ask("Another.")
        assert gateway.server.gateway.parts.catalog["large"].backend is pool
        await change(gateway, tmp_path, upstream, retries={"max": 5})
        assert gateway.server.gateway.parts.catalog["large"].backend is not pool
    assert upstream.connections == 1


async def test_a_minutes_count_of_a_rate_limit_goes_on(tmp_path: Path):
    limited = [{"id": "acme", "limits": {"rpm": 2}}, {"id": "other"}]
    async with Upstream() as upstream, gateway_on(tmp_path, upstream, tenants=limited) as gateway:
        statuses = [(await gateway.ask()).status for _ in range(3)]
        await change(gateway, tmp_path, upstream, tenants=[{"id": "acme", "limits": {"rpm": 3}}, {"id": "other"}])
        statuses += [(await gateway.ask()).status for _ in range(2)]
    assert statuses == [200, 200, 429, 200, 429]


async def test_a_budget_is_raised_at_once_and_a_new_one_knows_what_was_spent(tmp_path: Path):
    def tenants(usd: str) -> list[JsonValue]:
        return [{"id": "acme", "budget": {"usd": usd, "per": "total"}}, {"id": "other"}]

    async with Upstream({"": says("one two")}) as upstream, gateway_on(tmp_path, upstream) as gateway:
        assert (await gateway.ask(max_tokens=2)).status == 200  # 110,000 nano-dollars, before there is a budget
        await change(gateway, tmp_path, upstream, tenants=tenants("0.0005"))
        refused = await gateway.ask(max_tokens=20)
        await change(gateway, tmp_path, upstream, tenants=tenants("1"))
        assert (await gateway.ask(max_tokens=20)).status == 200
    assert (refused.status, refused.error["code"]) == (402, "budget_exceeded")
    assert "$0.00039 left" in refused.error["message"]


async def test_a_policy_that_changes_what_is_fixed_is_refused_with_each_key_and_the_former_goes_on(tmp_path: Path):
    tenants = [{"id": "acme", "budget": {"usd": 9, "per": "month"}}, {"id": "other"}]
    async with Upstream() as upstream, gateway_on(tmp_path, upstream, tenants=tenants) as gateway:
        tenants[0]["budget"]["per"] = "day"
        with pytest.raises(PolicyUnusable) as raised:
            await change(
                gateway,
                tmp_path,
                upstream,
                tenants=tenants,
                server={"port": 4711},
                storage={"folder": str(tmp_path / "data"), "cache": {"max_entries": 7}},
                ledger={"durability": "power"},
            )
        assert (await gateway.ask()).status == 200
    said = " ".join(raised.value.mistakes)
    assert all(key in said for key in ("server.port", "storage.cache", "ledger.durability", '"tenant:acme"'))
    assert len(raised.value.mistakes) == 4


async def test_a_file_with_mistakes_is_refused_as_check_says_it_and_all_is_told(tmp_path: Path):
    class Twice(HangUps):
        """Two hang-ups, then none."""

        def __init__(self) -> None:
            self.left = [asyncio.Event(), asyncio.Event()]

        async def next(self) -> None:
            await (self.left.pop(0) if self.left else asyncio.Event()).wait()

    hang_ups = Twice()
    first, second = hang_ups.left
    async with Upstream() as upstream, gateway_on(tmp_path, upstream) as gateway, asyncio.TaskGroup() as group:
        telemetry, file = gateway.opened.commons.telemetry, tmp_path / "policy.yaml"
        watching = group.create_task(reload_on(hang_ups, gateway.reloading, PolicySource(file=file), telemetry))
        good = file.read_text()
        file.write_text(good.replace('"version": 1', '"version": 2'))
        first.set()
        refused = await told(gateway, None)
        file.write_text(json.dumps(json.loads(good) | {"timeouts": {"idle_s": 7}}))
        second.set()
        taken = await told(gateway, refused)
        watching.cancel()
        metrics = (await gateway.send("/metrics", method="GET")).body.decode()
    assert f"{file}:1:13: version: expected 1" in refused.error
    assert (taken.error, taken.digest) == ("", gateway.server.gateway.parts.policy.digest)
    assert taken.digest != refused.digest
    assert 'faregate_policy_reloads_total{result="refused"} 1.0' in metrics
    assert 'faregate_policy_reloads_total{result="taken"} 1.0' in metrics


async def told(gateway: Served, before: Outcome | None) -> Outcome:
    """Wait for the next outcome that is written down."""
    async with asyncio.timeout(20):
        while True:
            await asyncio.sleep(0.02)
            outcome = read_outcome(gateway.folder)
            if outcome is not None and (before is None or outcome.number != before.number):
                return outcome


async def test_a_stop_ends_what_former_policies_still_answer(tmp_path: Path):
    async with Upstream({"": Stalls()}) as upstream:
        policy = {"server": {"grace_s": 0.1, "notice_s": 0}}
        async with gateway_on(tmp_path, upstream, **policy) as gateway, asyncio.TaskGroup() as group:
            running = group.create_task(gateway.ask())
            await upstream.request()
            await change(gateway, tmp_path, upstream, **policy, retries={"max": 1})
            gateway.server.should_exit = True
            seen = await running
    assert (seen.status, seen.error["code"]) == (503, "stopping")
