"""What clients and the ledger see when endpoints fail and others are there: failing over, budgets, equivalents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.words import JsonValue
from tests.served.world import Rows, Seen, Served, a_policy, serving
from tests.upstream import Act, Answers, Drops, Received, Stalls, Upstream, refuses, says, unused_url

DRAINING = Answers(status=500, body=b'{"error":{"message":"cannot schedule new futures after shutdown"}}')
BROKE = Answers(status=500, body=b'{"error":{"message":"broken"}}')
CHATS = ["chat", "completions", "json_schema", "logprobs", "tools", "vision"]
NO_BUDGET = {"budget_share": 0, "min_per_s": 0}


def with_backup(large: str, backup: str, **changes: JsonValue) -> dict[str, JsonValue]:
    """Return a policy whose large model names an equivalent, at twice its price."""
    policy = a_policy([large], **changes)
    price = {"input_usd_per_mtok": 20, "output_usd_per_mtok": 40}
    there = {"backend": "openai", "base_url": backup, "name": "backup-70b", "capabilities": CHATS, "price": price}
    policy["models"]["large"] |= {"capabilities": CHATS, "equivalents": ["backup"]}
    policy["models"]["backup"] = there
    return policy


async def ask_many(gateway: Served, count: int, **fields: JsonValue) -> list[Seen]:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(gateway.ask(f"question {n}", **fields)) for n in range(count)]
    return [task.result() for task in asked]


def tries(rows: Rows) -> list[tuple[str, str, int]]:
    return [(c["kind"], c["model"], c["attempt"]) for c in rows.charges]


# --- inside the pool ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_when_one_of_two_endpoints_dies_under_forty_requests_all_are_answered(tmp_path: Path, stream: bool):
    async with Upstream() as dying, Upstream() as other:
        policy = a_policy([dying.url, other.url], retries=NO_BUDGET)
        async with serving(tmp_path, policy) as gateway:
            before = await ask_many(gateway, 10, stream=stream)
            dying.script = {"": Drops()}
            during = await ask_many(gateway, 40, stream=stream)
            rows = await gateway.rows_of(*during)
    assert [seen.text for seen in before + during] == ["An answer."] * 50
    assert len(rows.charges) == 40


@pytest.mark.parametrize("bad", [DRAINING, refuses(429, "slow", headers={"retry-after": "30"}), Drops()])
async def test_an_endpoint_that_said_no_is_not_asked_again_soon(tmp_path: Path, bad: Act):
    async with (
        Upstream({"": bad}) as down,
        Upstream() as up,
        serving(tmp_path, a_policy([down.url, up.url])) as gateway,
    ):
        answers = [await gateway.ask(f"q{n}") for n in range(8)]
    assert [seen.text for seen in answers] == ["An answer."] * 8
    assert len(down.requests) == 1


async def test_a_replica_that_lacks_the_model_is_passed_over(tmp_path: Path):
    async with (
        Upstream(models=("another",)) as without,
        Upstream() as having,
        serving(tmp_path, a_policy([without.url, having.url])) as gateway,
    ):
        answers = [await gateway.ask(f"q{n}") for n in range(4)]
    assert [seen.status for seen in answers] == [200] * 4
    assert (len(without.requests), len(having.requests)) == (1, 4)


POISON: dict[str, Act] = {
    "500": BROKE,
    "400": refuses(400, "no"),
    "404": refuses(404, "no"),
    "context": refuses(400, "too long", code="context_length_exceeded"),
    "error object": Answers(body=b'{"error":{"message":"this prompt breaks me"}}'),
}


@pytest.mark.parametrize("endpoints", [1, 2])
async def test_forty_good_requests_survive_beside_poison(tmp_path: Path, endpoints: int):
    def script(received: Received) -> Act:
        kind, _, is_poison = received.text.partition(" poison")
        return POISON[kind] if is_poison else says("fine")

    async with (
        Upstream(script) as one,
        Upstream(script) as two,
        serving(tmp_path, a_policy([one.url, two.url][:endpoints])) as gateway,
        asyncio.TaskGroup() as group,
    ):
        bad = [group.create_task(gateway.ask(f"{kind} poison {n}")) for n in range(8) for kind in POISON]
        good = [group.create_task(gateway.ask(f"good {n}")) for n in range(40)]
    assert [task.result().text for task in good] == ["fine"] * 40
    assert {task.result().status for task in bad} == {400, 404, 502}


async def test_a_storm_of_retries_is_bounded_by_the_budget(tmp_path: Path):
    bad = {"": Answers(status=503)}
    async with Upstream(bad) as one, Upstream(bad) as two:
        retries = {"max": 5, "budget_share": 0.1, "min_per_s": 0, "max_wait_s": 0.01}
        policy = a_policy([one.url, two.url], [unused_url()], retries=retries)
        async with serving(tmp_path, policy) as gateway:
            answers = [await gateway.ask(f"q{n}") for n in range(100)]
            page = (await gateway.send("/metrics", method="GET")).body.decode()
    assert all(seen.status >= 429 for seen in answers)
    # One more than the share: the first to find an endpoint down may always move to the other.
    assert 100 < len(one.requests) + len(two.requests) <= 100 + 10 + 1
    assert 'faregate_retries_refused_total{pool="large"}' in page


# --- waits and deadlines -----------------------------------------------------------------------------------------


def once(first: Act) -> Callable[[Received], Act]:
    """Return a script that answers so once, and well from then on."""
    acts = [first]
    return lambda _: acts.pop() if acts else says("fine")


@pytest.mark.parametrize("bad", [Answers(status=503), refuses(429, "slow", headers={"retry-after": "0"})])
async def test_a_single_endpoint_is_asked_again_after_what_did_no_work(tmp_path: Path, bad: Act):
    async with Upstream(once(bad)) as upstream, serving(tmp_path, a_policy([upstream.url])) as gateway:
        seen = await gateway.ask()
        rows = await gateway.rows_of(seen)
    assert (seen.text, len(upstream.requests)) == ("fine", 2)
    assert tries(rows) == [("answer", "large", 1)]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_long_retry_after_is_the_clients_to_wait(tmp_path: Path, status: int):
    bad = refuses(status, "slow", headers={"retry-after": "30"})
    async with Upstream({"": bad}) as upstream, serving(tmp_path, a_policy([upstream.url])) as gateway:
        seen = await gateway.ask()
    told = 502 if status == 503 else status
    assert (seen.status, seen.headers["retry-after"], len(upstream.requests)) == (told, "30", 1)


async def test_a_retry_after_beyond_the_deadline_is_told_at_once(tmp_path: Path):
    bad = refuses(429, "slow", headers={"retry-after": "5"})
    changes = {"timeouts": {"connect_s": 2, "first_byte_s": 2, "idle_s": 2, "total_s": 4}, "retries": {"max_wait_s": 4}}
    async with Upstream({"": bad}) as upstream, serving(tmp_path, a_policy([upstream.url], **changes)) as gateway:
        seen = await gateway.ask()
        rows = await gateway.rows_of(seen)
    assert (seen.status, seen.headers["retry-after"]) == (429, "5")
    assert rows.requests[0]["total_ms"] < 2000


async def test_all_attempts_share_one_deadline(tmp_path: Path):
    timeouts = {"connect_s": 0.4, "first_byte_s": 0.4, "idle_s": 0.4, "total_s": 0.6}
    async with Upstream({"": Stalls()}) as one, Upstream({"": Stalls()}) as two, Upstream({"": Stalls()}) as three:
        policy = a_policy([one.url, two.url, three.url], timeouts=timeouts)
        async with serving(tmp_path, policy) as gateway:
            seen = await gateway.ask(stream=True, max_tokens=5)
            rows = await gateway.rows_of(seen)
    assert (seen.status, seen.error["code"]) == (504, "timeout")
    assert 600 <= rows.requests[0]["total_ms"] < 1100
    assert [(c["kind"], c["endpoint_label"]) for c in rows.charges] == [("failed", one.url), ("cancelled", two.url)]


async def test_every_try_that_may_have_been_generated_is_booked(tmp_path: Path):
    timeouts = {"connect_s": 5, "first_byte_s": 0.3, "idle_s": 5, "total_s": 30}
    async with (
        Upstream({"": Stalls()}) as silent,
        Upstream() as good,
        serving(tmp_path, a_policy([silent.url, good.url], timeouts=timeouts)) as gateway,
    ):
        seen = await gateway.ask(stream=True)
        rows = await gateway.rows_of(seen)
    assert seen.text == "An answer."
    assert tries(rows) == [("failed", "large", 0), ("answer", "large", 1)]
    assert rows.requests[0]["cost_nusd"] == sum(c["cost_nusd"] for c in rows.charges)
    assert rows.charges[0]["input_tokens"] == 7  # what the answering endpoint said the prompt has


# --- equivalents -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["plain", "large"])
async def test_an_equivalent_stands_in_for_a_model_that_is_down(tmp_path: Path, stream: bool, model: str):
    async with Upstream() as backup, serving(tmp_path, with_backup(unused_url(), backup.url)) as gateway:
        seen = await gateway.ask(model=model, stream=stream)
        rows = await gateway.rows_of(seen)
    assert (seen.text, seen.headers["x-faregate-model"]) == ("An answer.", "backup")
    assert seen.headers["x-faregate-path"] == rows.requests[0]["path"] == "large~backup"
    assert backup.last.json["model"] == "backup-70b"
    assert [(kind, name) for kind, name, _ in tries(rows)] == [("answer", "backup")]
    assert rows.requests[0]["baseline_nusd"] < rows.requests[0]["cost_nusd"]  # the backup costs twice as much


async def test_a_model_that_is_down_leaves_none_unanswered_whatever_the_budget(tmp_path: Path):
    async with (
        Upstream({"": Answers(status=503)}) as down,
        Upstream() as backup,
        serving(tmp_path, with_backup(down.url, backup.url, retries=NO_BUDGET)) as gateway,
    ):
        answers = await ask_many(gateway, 40)
    assert [seen.status for seen in answers] == [200] * 40
    assert len(backup.requests) == 40


async def test_a_model_that_asked_for_time_gets_it_while_its_equivalent_answers(tmp_path: Path):
    limit = refuses(429, "slow", headers={"retry-after": "30"})
    async with (
        Upstream({"": limit}) as limited,
        Upstream() as backup,
        serving(tmp_path, with_backup(limited.url, backup.url)) as gateway,
    ):
        answers = [await gateway.ask(f"q{n}") for n in range(5)]
    assert [seen.headers["x-faregate-path"] for seen in answers] == ["large~backup"] * 5
    assert len(limited.requests) == 1


async def test_what_the_client_caused_is_not_asked_of_an_equivalent(tmp_path: Path):
    async with (
        Upstream({"": refuses(400, "no")}) as large,
        Upstream() as backup,
        serving(tmp_path, with_backup(large.url, backup.url)) as gateway,
    ):
        assert (await gateway.ask()).status == 400
    assert backup.requests == []


async def test_a_pinned_model_without_an_equivalent_fails_over_to_none(tmp_path: Path):
    async with (
        Upstream({"": Answers(status=503)}) as small,
        Upstream() as large,
        serving(tmp_path, a_policy([large.url], [small.url])) as gateway,
    ):
        assert (await gateway.ask(model="small")).status == 502
    assert large.requests == []


async def test_a_stand_ins_answer_is_not_kept_in_the_cache(tmp_path: Path):
    async with (
        Upstream({"": BROKE}) as large,
        Upstream() as backup,
        serving(tmp_path, with_backup(large.url, backup.url)) as gateway,
    ):
        await gateway.ask(model="cached")
        await gateway.stored()
        large.script = {}
        seen = await gateway.ask(model="cached")
    assert seen.headers["x-faregate-path"] == "large"


async def test_embeddings_are_not_asked_of_another_model(tmp_path: Path):
    async with Upstream() as backup:
        policy = with_backup(unused_url(), backup.url)
        for name in ("large", "backup"):
            policy["models"][name]["capabilities"] = [*CHATS, "embeddings"]
        async with serving(tmp_path, policy) as gateway:
            seen = await gateway.send("/v1/embeddings", {"model": "plain", "input": "x"})
    assert (seen.status, backup.requests) == (503, [])


async def test_a_judged_rung_that_is_down_climbs_to_the_next_one(tmp_path: Path):
    async with Upstream() as large, serving(tmp_path, a_policy([large.url], [unused_url()])) as gateway:
        seen = await gateway.ask(model="cascade")
    assert (seen.text, seen.headers["x-faregate-path"]) == ("An answer.", "large")


async def test_a_judged_rung_that_asked_for_time_is_passed_over(tmp_path: Path):
    limit = refuses(429, "slow", headers={"retry-after": "30"})
    async with (
        Upstream({"": limit}) as small,
        Upstream() as large,
        serving(tmp_path, a_policy([large.url], [small.url])) as gateway,
    ):
        answers = [await gateway.ask(f"q{n}", model="cascade") for n in range(3)]
    assert [seen.headers["x-faregate-path"] for seen in answers] == ["large"] * 3
    assert len(small.requests) == 1


# --- what the operator sees --------------------------------------------------------------------------------------


async def test_the_operator_sees_each_endpoints_state(tmp_path: Path):
    gone = unused_url()
    async with Upstream() as up, serving(tmp_path, a_policy([gone, up.url], [up.url])) as gateway:
        await gateway.ask()
        page = (await gateway.send("/metrics", method="GET")).body.decode()
        status = await gateway.send("/admin/status", method="GET", tenant="admin")
    assert f'faregate_endpoint_state{{endpoint="{gone}",pool="large",state="open"}} 1.0' in page
    assert f'faregate_endpoint_failures_total{{blame="endpoint",endpoint="{gone}",pool="large"}} 1.0' in page
    assert [e["state"] for e in status.json["pools"]["large"]["endpoints"]] == ["open", "closed"]
