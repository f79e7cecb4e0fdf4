"""Web pages of other origins: who may ask is asked first, and every answer says who may read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from tests.served.world import Seen, Served, a_policy, serving
from tests.upstream import Upstream, refuses, says

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = "https://app.example"
CHAT = "/v1/chat/completions"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream({"": says("one two"), "refused": refuses(400, "no")}) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    server = {"cors": {"origins": [PAGE, "http://localhost:3000"], "max_age_s": 5}}
    limits = {"max_body_bytes": 1_000}
    tenants = [{"id": "acme", "limits": {"rpm": 1000}}, {"id": "other"}]
    policy = a_policy([upstream.url], server=server, limits=limits, tenants=tenants)
    async with serving(tmp_path_factory.mktemp("cors"), policy) as served:
        yield served


def exposed(seen: Seen) -> set[str]:
    return set(seen.headers.get("access-control-expose-headers", "").split(", "))


async def preflight(gateway: Served, path: str, changes: Mapping[str, str] | None = None) -> Seen:
    """Ask as a browser does: without a key."""
    headers = PREFLIGHT | {"authorization": ""} | dict(changes or {})
    return await gateway.send(path, method="OPTIONS", headers=headers)


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/models"])
async def test_a_page_that_may_ask_is_told_what_it_may_send(gateway: Served, path: str):
    seen = await preflight(gateway, path)
    assert seen.headers["x-request-id"].startswith("req-")
    assert (seen.status, seen.body) == (204, b"")
    assert seen.headers["access-control-allow-origin"] == PAGE
    assert seen.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
    assert seen.headers["access-control-allow-methods"] == "GET, POST"
    assert (seen.headers["access-control-max-age"], seen.headers["vary"][:6]) == ("5", "origin")


async def test_another_page_is_refused_and_told_why(gateway: Served):
    seen = await preflight(gateway, CHAT, {"origin": "https://app.example.evil"})
    assert (seen.status, seen.error["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in seen.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_may_be_read_with_its_headers(gateway: Served, stream: bool):
    seen = await gateway.ask(headers={"origin": PAGE}, stream=stream)
    assert (seen.status, seen.headers["access-control-allow-origin"], seen.headers["vary"]) == (200, PAGE, "origin")
    assert {"x-request-id", "x-faregate-model", "x-ratelimit-remaining-requests"} <= exposed(seen)


async def test_a_refusal_may_be_read_wherever_it_comes_from(gateway: Served):
    origin = {"origin": PAGE}
    seen = [
        await gateway.ask("refused", headers=origin),
        await gateway.ask("x" * 2_000, headers=origin),
        await gateway.ask(headers=origin | {"authorization": "Bearer sk-wrong"}),
        await gateway.ask(headers=origin | {"x-faregate-cache": "nonsense"}),
        await gateway.send("/v1/models/nothing", method="GET", headers=origin),
        await gateway.send("/v1/nothing", method="GET", headers=origin),
        await gateway.send(CHAT, method="GET", headers=origin),
    ]
    assert [each.status for each in seen] == [400, 413, 401, 400, 404, 404, 405]
    assert {each.headers.get("access-control-allow-origin") for each in seen} == {PAGE}


async def test_other_pages_and_other_paths_are_not_opened(gateway: Served):
    stranger = await gateway.ask(headers={"origin": "https://app.example:8443"})
    admin = await gateway.send("/admin/status", tenant="admin", method="GET", headers={"origin": PAGE})
    nobody = await gateway.ask()
    assert {each.status for each in (stranger, admin, nobody)} == {200}
    assert not any("access-control-allow-origin" in each.headers for each in (stranger, admin, nobody))
    assert (stranger.headers["vary"], nobody.headers["vary"]) == ("origin", "origin")


async def test_without_the_key_a_gateway_knows_nothing_of_it(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
):
    async with serving(tmp_path_factory.mktemp("closed"), a_policy([upstream.url])) as closed:
        asked, answered = await preflight(closed, CHAT), await closed.ask(headers={"origin": PAGE})
    assert (asked.status, answered.status) == (405, 200)
    assert not any(name.lower().startswith("access-") for name in (*asked.headers, *answered.headers))


async def test_anybodys_pages_may_be_let_in(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory):
    policy = a_policy([upstream.url], server={"cors": {"origins": ["*"]}})
    async with serving(tmp_path_factory.mktemp("open"), policy) as opened:
        asked, answered = await preflight(opened, CHAT), await opened.ask(headers={"origin": "null"})
    assert asked.headers["access-control-allow-origin"] == answered.headers["access-control-allow-origin"] == "*"
