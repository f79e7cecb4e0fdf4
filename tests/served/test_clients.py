"""What clients depend on that no client's own test shows: framing of streams, fields some servers refuse, statuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.served.world import Served, a_policy, serving
from tests.upstream import Answers, Upstream, refuses

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNK = json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hello"}}]})
END = json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
NOISY = (
    f"\ufeffretry: 10\nid: 1\nevent: message\ndata: {CHUNK}\n\n"
    f"event: ping\n\nid: 2\n: there\ndata: {END}\n\ndata: [DONE]\n\n"
)
SCRIPT = {
    "noisy": Answers(content_type="text/event-stream", body=NOISY.encode()),
    "later": refuses(429, "slow down", headers={"retry-after": "7"}),
    "unprocessable": refuses(422, "no such field", code="bad_field"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(SCRIPT) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with serving(tmp_path_factory.mktemp("clients"), a_policy([upstream.url])) as served:
        yield served


async def test_a_stream_has_data_lines_and_comments_only(gateway: Served):
    """openai-python drops the first event after a BOM, and makes an event of every blank line once it saw an id."""
    seen = await gateway.ask("noisy", stream=True)
    assert (seen.text, seen.is_done) == ("hello", True)
    assert all(line.startswith((b"data: ", b": ")) for line in seen.body.split(b"\n") if line)


async def test_a_stream_says_what_it_is_and_no_length(gateway: Served):
    seen = await gateway.ask("noisy", stream=True)
    assert seen.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in seen.headers
    assert seen.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("stream", [True, False])
async def test_retry_after_is_kept(gateway: Served, stream: bool):
    seen = await gateway.ask("later", stream=stream)
    assert (seen.status, seen.headers["retry-after"]) == (429, "7")


async def test_an_error_always_has_a_message_and_the_request_its_id(gateway: Served):
    for seen in (await gateway.ask("x", model="gpt-9"), await gateway.ask("later"), await gateway.send("/v1/x")):
        assert isinstance(seen.error["message"], str)
    assert (await gateway.ask("later")).headers["x-request-id"].startswith("req-")


async def test_fields_set_to_nothing_are_not_sent_on(gateway: Served, upstream: Upstream):
    """LiteLLM sends `encoding_format: null`, which llama.cpp refuses."""
    body = {"model": "plain", "input": "abc", "encoding_format": None}
    assert (await gateway.send("/v1/embeddings", body)).status == 200
    assert "encoding_format" not in upstream.last.json


@pytest.mark.parametrize("messages", [[], "no list", [{"content": "no role"}], [1]])
async def test_what_is_wrong_with_a_request_is_400_and_never_422(gateway: Served, messages: object):
    seen = await gateway.send("/v1/chat/completions", {"model": "plain", "messages": messages})
    assert (seen.status, seen.error["code"]) == (400, "invalid_body")


async def test_a_models_page_never_answers_422(gateway: Served):
    assert (await gateway.send("/v1/models/%00", method="GET")).status == 404
