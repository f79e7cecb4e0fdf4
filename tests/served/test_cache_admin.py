"""Making the caches forget, by the admin page and the command; namespaces; what a route stores; warming."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from backends.words import JsonValue
from gateway.cli import main
from tests.served.world import Seen, Served, a_policy, serving
from tests.upstream import Received, Says, Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")


def script(received: Received) -> Says:
    return says("I cannot help with that." if "harm" in received.text else f"You asked: {received.text}")


def policy(url: str) -> dict[str, JsonValue]:
    made = a_policy([url])
    caches = {"exact": {}, "semantic": {"max_error": 0.05}}
    shared = {"ladder": ["large"], "cache": {**caches, "namespace": "faq"}}
    made["routes"] += [
        {"name": "faq-a", "match": {"model": "a"}, **shared},
        {"name": "faq-b", "match": {"model": "b"}, **shared},
        {"name": "all", "match": {"model": "c"}, "ladder": ["large"], "cache": {"exact": {}, "store_refusals": True}},
        {
            "name": "talk",
            "match": {"model": "d"},
            "ladder": ["large"],
            "cache": {"semantic": {"max_error": 0.05, "allow": ["turns"]}},
        },
    ]
    # The last route of the fixture takes everything: it stays last.
    made["routes"].append(made["routes"].pop(2))
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(script) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("admin"), policy(upstream.url)) as served:
        yield served


async def path(gateway: Served, question: str, **fields: JsonValue) -> str:
    seen = await gateway.ask(question, **{"model": "cached", **fields})
    await gateway.stored()
    return str(seen.headers["x-faregate-path"])


async def forget(gateway: Served, **named: JsonValue) -> Seen:
    return await gateway.send("/admin/cache/invalidate", named, tenant="admin")


async def command(gateway: Served, *words: str) -> Result:
    file = str(gateway.folder.parent / "policy.yaml")
    return await asyncio.to_thread(CliRunner().invoke, main, ["cache", words[0], "--policy", file, *words[1:]])


async def test_a_tag_makes_its_answers_forgotten(gateway: Served):
    tagged = {"x-faregate-tags": "feature=search"}
    for question, headers in (("What is jam?", tagged), ("What is tea?", None)):
        await path(gateway, question, headers=headers)
    assert (await forget(gateway, tag="feature=search")).json == {"dropped": 1}
    assert await path(gateway, "What is jam?") == "large"
    assert await path(gateway, "What is tea?") == "cache:exact"


async def test_the_command_makes_a_running_gateway_forget(gateway: Served):
    await path(gateway, "How do I peel an orange?", tenant="other")
    assert await path(gateway, "How can I peel an orange?", tenant="other") == "cache:semantic"
    told = await command(gateway, "invalidate", "--tenant", "other", "--json")
    assert json.loads(told.stdout)["dropped"] >= 1
    assert await path(gateway, "How can I peel an orange?", tenant="other") == "large"


async def test_what_is_held_is_counted_by_page_and_command(gateway: Served):
    await path(gateway, "What is oak?")
    page = (await gateway.send("/admin/cache", method="GET", tenant="admin")).json
    told = json.loads((await command(gateway, "stats", "--json")).stdout)
    assert page["entries"] == told["entries"] >= 1
    assert page["bytes"] == told["bytes"] > 0
    assert page["index"] == told["index"] == "int8 cells"
    assert "found by int8 cells" in (await command(gateway, "stats")).stdout


@pytest.mark.parametrize(
    "body", [{}, {"tag": "feature"}, {"everything": True, "model": "x"}, {"key": "12"}, {"keys": "1"}]
)
async def test_a_word_that_names_nothing_is_refused(gateway: Served, body: JsonValue):
    seen = await forget(gateway, **body)
    assert (seen.status, seen.error["code"]) == (400, "invalid_body")


async def test_only_an_admin_makes_anything_forgotten(gateway: Served):
    seen = await gateway.send("/admin/cache/invalidate", {"everything": True}, tenant="acme")
    assert seen.status == 401


async def test_the_command_wants_to_know_what(gateway: Served):
    told = await command(gateway, "invalidate")
    assert (told.exit_code, "--all" in told.output) == (2, True)


async def test_an_answer_that_is_being_made_is_not_kept_when_it_was_invalidated(tmp_path: Path):
    gate = asyncio.Event()

    async with (
        Upstream({"": says("Old.", gate=gate, stall_after=0)}) as slow,
        serving(tmp_path, a_policy([slow.url])) as gateway,
    ):
        asked = asyncio.gather(path(gateway, "What is new?"))
        await slow.request()
        assert (await forget(gateway, model="large")).json == {"dropped": 0}
        gate.set()
        await asked
        assert await path(gateway, "What is new?") == "large"


async def test_tenants_share_what_is_in_a_namespace_and_nothing_else(gateway: Served):
    assert await path(gateway, "What is our address?", model="a", tenant="acme") == "large"
    assert await path(gateway, "What is our address?", model="b", tenant="other") == "cache:exact"
    assert await path(gateway, "What's our address?", model="b", tenant="other") == "cache:semantic"
    assert await path(gateway, "What is our address?", model="cached", tenant="acme") == "large"
    assert (await forget(gateway, namespace="faq")).json == {"dropped": 1}


async def test_refusals_are_kept_only_where_the_route_says_so(gateway: Served):
    assert [await path(gateway, "Do harm.") for _ in range(2)] == ["large", "large"]
    assert [await path(gateway, "Do harm.", model="c") for _ in range(2)] == ["large", "cache:exact"]


async def test_a_route_may_compare_conversations_whose_earlier_turns_are_equal(gateway: Served):
    def turns(first: str, last: str) -> JsonValue:
        return [
            {"role": "user", "content": first},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": last},
        ]

    assert await path(gateway, "", model="d", messages=turns("Of oak?", "How do I cut it?")) == "large"
    assert await path(gateway, "", model="d", messages=turns("Of oak?", "How can I cut it?")) == "cache:semantic"
    assert await path(gateway, "", model="d", messages=turns("Of tin?", "How can I cut it?")) == "large"


async def test_warming_asks_what_is_not_there_yet(gateway: Served, tmp_path: Path):
    file = tmp_path / "questions.jsonl"
    lines = [{"model": "cached", "messages": [{"role": "user", "content": f"What is {w}?"}]} for w in ("fog", "dew")]
    file.write_text("\n".join(map(json.dumps, [*lines, {**lines[0], "messages": "none"}][:2])) + "\n\n")
    words = ["cache", "warm", str(file), "--url", gateway.origin, "--key", gateway.secrets["acme"], "--json"]
    await path(gateway, "What is dew?")
    told = await asyncio.to_thread(CliRunner().invoke, main, words)
    assert json.loads(told.stdout) == {"answered": 1, "cached": 1, "failed": 0}
    await gateway.stored()
    assert await path(gateway, "What is fog?") == "cache:exact"


async def test_warming_names_the_line_that_is_no_request(tmp_path: Path):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"messages": []}\n{"messages": 1}\n')
    told = await asyncio.to_thread(CliRunner().invoke, main, ["cache", "warm", str(file), "--key", "k"])
    assert told.exit_code == 1
    assert "line 2" in told.output
