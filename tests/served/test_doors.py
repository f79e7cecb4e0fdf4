"""Who gets in and what is refused: keys, bad input, and the doors beside the data paths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from backends.words import JsonValue
from gateway.compose import open_gateway
from gateway.ledger.errors import FolderInUse
from gateway.side import side_door
from policies.loader import load_policy
from tests.ledger.world import SmallDisk
from tests.served.world import AheadClock, Served, a_policy, serving, write_policy
from tests.upstream import Upstream, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway serves most of these

LIMIT = 50_000
CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream({"count": says("one two three")}) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    policy = a_policy([upstream.url], limits={"max_body_bytes": LIMIT})
    async with serving(tmp_path_factory.mktemp("doors"), policy) as served:
        yield served


def a_body(**fields: JsonValue) -> JsonValue:
    return {"model": "plain", "messages": [{"role": "user", "content": "count"}], **fields}


@pytest.mark.parametrize(
    ("authorization", "words"),
    [
        ("", "no API key"),
        ("Bearer", "no API key"),
        ("Bearer ", "no API key"),
        ("Basic dXNlcjpwYXNz", "no API key"),
        ("Bearer sk-fg-wrong", "not known"),
        ("Bearer schl\u00fcssel", "not known"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
async def test_without_a_good_key_nothing_is_answered(
    gateway: Served, upstream: Upstream, authorization: str, words: str, path: str
):
    upstream.requests.clear()
    method = "GET" if path.endswith("models") else "POST"
    seen = await gateway.send(path, a_body(), headers={"authorization": authorization}, method=method)
    assert (seen.status, seen.error["code"], seen.error["type"]) == (401, "invalid_api_key", "invalid_request_error")
    assert words in seen.error["message"]
    assert upstream.requests == []


async def test_a_key_that_is_revoked_stops_working_at_once(gateway: Served):
    record, secret = gateway.keys.create("acme", tenants=["acme"])
    headers = {"authorization": f"Bearer {secret}"}
    assert (await gateway.send(CHAT, a_body(), headers=headers)).status == 200
    gateway.keys.revoke(record.id)
    seen = await gateway.send(CHAT, a_body(), headers=headers)
    assert seen.status == 401
    assert "revoked" in seen.error["message"]


async def test_an_admin_key_opens_no_data_path(gateway: Served):
    seen = await gateway.ask(tenant="admin")
    assert (seen.status, seen.error["code"]) == (403, "admin_key_not_allowed")
    assert "faregate keys create --tenant" in seen.error["message"]


async def test_a_refused_request_is_booked_without_a_tenant(gateway: Served):
    seen = await gateway.send(CHAT, a_body(), headers={"authorization": "Bearer x"})
    (request,) = (await gateway.rows_of(seen)).requests
    assert (request["status"], request["tenant"], request["cost_nusd"]) == (401, "", 0)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_body", None),
        (b"{", 400, "invalid_body", None),
        (b"\xff\xfe", 400, "invalid_body", None),
        (b"[]", 400, "invalid_body", None),
        (b'{"messages":[]}', 400, "invalid_body", "model"),
        (a_body(messages=[]), 400, "invalid_body", "messages"),
        ({"model": "plain"}, 400, "invalid_body", "messages"),
        (a_body(n=1000), 400, "invalid_body", "n"),
        (a_body(temperature="hot"), 400, "invalid_body", "temperature"),
        (a_body(model="gpt-9"), 404, "model_not_found", "model"),
        (a_body(model="x" * 5000), 404, "model_not_found", "model"),
        (a_body(max_tokens=100_000), 400, "no_eligible_model", None),
        (b"[" * 20_000, 400, "invalid_body", None),
    ],
)
async def test_a_bad_body_is_told_what_is_wrong(
    gateway: Served, body: JsonValue, status: int, code: str, param: str | None
):
    seen = await gateway.send(CHAT, body)
    assert (seen.status, seen.error["code"], seen.error["param"]) == (status, code, param)
    assert (param or "") in seen.error["message"]
    assert len(seen.error["message"]) < 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-faregate-cache", "never"),
        ("x-faregate-cache", "max-age=soon"),
        ("x-faregate-cache", "max-age=-1"),
        ("x-faregate-tags", "feature"),
        ("x-faregate-tags", "a=1,a=2"),
        ("x-faregate-tags", "=1"),
        ("x-faregate-tags", f"a={'x' * 200}"),
        ("x-faregate-explain", "maybe"),
    ],
)
async def test_a_header_that_says_nothing_we_know_is_refused(gateway: Served, name: str, value: str):
    seen = await gateway.send(CHAT, a_body(), headers={name: value})
    assert (seen.status, seen.error["code"]) == (400, "invalid_header")
    assert name in seen.error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("DELETE", "/v1/embeddings", 405),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("POST", "/V1/chat/completions", 404),
    ],
)
async def test_what_is_not_served_says_so(gateway: Served, method: str, path: str, status: int):
    seen = await gateway.send(path, method=method)
    assert (seen.status, set(seen.error)) == (status, {"message", "type", "param", "code"})
    assert ("allow" in seen.headers) == (status == 405)


async def test_a_body_over_the_limit_is_refused_by_its_length(gateway: Served):
    reader, writer = await connect(gateway)
    writer.write(head(gateway, b"content-length: %d" % (LIMIT + 1)))
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 10)  # not a byte of the body was sent
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"limits.max_body_bytes" in answer


async def test_a_body_over_the_limit_is_refused_while_it_comes(gateway: Served):
    reader, writer = await connect(gateway)
    part = b"x" * 10_000
    writer.write(head(gateway, b"transfer-encoding: chunked"))
    for _ in range(6):
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("times", [3, 20])
async def test_a_client_that_is_still_sending_gets_its_refusal_whole(gateway: Served, times: int):
    seen = await gateway.send(CHAT, a_body(padding="x" * times * LIMIT))
    assert (seen.status, seen.error["code"], seen.is_cut) == (413, "request_too_large", False)


async def test_a_body_of_exactly_the_limit_is_read(gateway: Served):
    body = json.dumps(a_body(padding="")).encode()
    assert (await gateway.send(CHAT, a_body(padding="x" * (LIMIT - len(body))))).status == 200


async def test_a_client_that_leaves_before_its_body_is_whole_hurts_nobody(gateway: Served):
    _, writer = await connect(gateway)
    writer.write(head(gateway, b"content-length: 100") + b"{")
    await writer.drain()
    writer.close()
    assert (await gateway.ask("count")).status == 200


async def connect(gateway: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = gateway.origin.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


def head(gateway: Served, line: bytes) -> bytes:
    key = gateway.secrets["acme"].encode()
    return b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n%b\r\n\r\n" % (CHAT.encode(), key, line)


async def test_models_are_what_the_tenant_may_ask_for(gateway: Served):
    seen = await gateway.send("/v1/models", method="GET")
    names = [model["id"] for model in seen.json["data"]]
    assert {"auto", "plain", "cached", "cascade", "small", "large"} <= set(names)
    for name in names:
        assert (await gateway.ask("count", model=name)).status == 200
        assert (await gateway.send(f"/v1/models/{name}", method="GET")).json["id"] == name
    missing = await gateway.send("/v1/models/gpt-9", method="GET")
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/health", "/health/liveliness", "/health/readiness"])
async def test_health_needs_no_key(gateway: Served, path: str):
    assert (await gateway.send(path, method="GET", headers={"authorization": ""})).status == 200


async def test_metrics_are_prometheus_text(gateway: Served):
    seen = await gateway.ask("count")
    await gateway.rows_of(seen)
    text = (await gateway.send("/metrics", method="GET")).body.decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    paths = {s.labels["path"] for s in families["faregate_requests"].samples if s.labels.get("status") == "200"}
    assert "large" in paths
    cost = [s for s in families["faregate_cost_usd"].samples if s.labels == {"model": "large", "kind": "answer"}]
    assert any(sample.value > 0 for sample in cost)
    assert "faregate_overhead_seconds" in families


async def test_unknown_names_make_no_labels(gateway: Served):
    await gateway.rows_of(await gateway.ask("count", model="made-up-name"))
    assert b"made-up-name" not in (await gateway.send("/metrics", method="GET")).body


async def test_the_admin_page_wants_the_admin_key(gateway: Served):
    assert (await gateway.send("/admin/status", method="GET")).status == 401
    seen = await gateway.send("/admin/status", method="GET", tenant="admin")
    assert seen.json["routes"] == ["plain", "cached", "cascade"]
    assert seen.json["ledger"]["is_writable"] is True


async def test_a_full_disk_refuses_to_buy_and_the_gateway_recovers(tmp_path: Path, upstream: Upstream):
    disk = SmallDisk()
    async with serving(tmp_path, a_policy([upstream.url]), files=disk) as gateway:
        before = await gateway.ask("count")
        await gateway.rows_of(before)
        disk.room = 0
        upstream.requests.clear()
        refused = await gateway.ask("count")
        ready = await gateway.send("/health/readiness", method="GET")
        alive = await gateway.send("/health/liveliness", method="GET")
        assert upstream.requests == []
        disk.room = None
        async with asyncio.timeout(20):
            while (await gateway.ask("count")).status != 200:
                pass
        rows = await gateway.rows_of(before, refused)
    assert (refused.status, refused.error["code"]) == (503, "ledger_unavailable")
    assert (ready.status, ready.json["ledger"]["is_writable"], alive.status) == (503, False, 200)
    assert [row["status"] for row in rows.requests] == [200, 503]
    assert len(rows.charges) == 1


async def test_a_second_gateway_on_the_same_folder_is_refused(tmp_path: Path, upstream: Upstream):
    async with serving(tmp_path, a_policy([upstream.url])) as gateway:
        policy = load_policy(write_policy(tmp_path, a_policy([upstream.url])), {})
        with pytest.raises(FolderInUse, match="in use by another gateway"):
            async with open_gateway(policy, environ={}, clock=AheadClock()):
                raise AssertionError("it was opened")
        assert (await gateway.ask("count")).status == 200


async def test_the_bill_is_the_sum_of_the_charges_to_the_nano_dollar(tmp_path: Path, upstream: Upstream):
    from gateway.ledger.report import Books

    async with serving(tmp_path, a_policy([upstream.url])) as gateway:
        for model in ("plain", "cached", "cached", "cascade", "small", "nobody's"):
            await gateway.ask("count", model=model)
            await gateway.stored()
        rows = await gateway.rows(6)
        bill = Books(gateway.folder).bill()
    assert bill.totals.cost_nusd == sum(c["cost_nusd"] for c in rows.charges) > 0
    assert bill.totals.baseline_nusd == sum(r["baseline_nusd"] for r in rows.requests)
    assert bill.totals.requests == 6
    assert bill.savings.total_nusd == bill.totals.savings_nusd
    assert bill.savings.exact_nusd > 0


class NoLedger:
    """A ledger that cannot even say how it is."""

    def status(self) -> None:
        """Fail as a bug does."""
        raise RuntimeError("a secret detail")


async def test_a_fault_of_ours_beside_the_data_paths_is_told_as_any_other(gateway: Served):
    side = side_door(replace(gateway.opened, ledger=NoLedger()))
    transport = httpx.ASGITransport(side, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        seen = await client.get("/health/readiness")
    assert (seen.status_code, seen.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in seen.text
