"""The official client, as it comes, against every surface: what it needs is what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.served.world import Served, a_policy, serving
from tests.upstream import UNSURE, Flavour, Says, Upstream, refuses, says

pytestmark = pytest.mark.asyncio(loop_scope="module")  # one gateway a flavour serves all of these

CALL = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
]
SCRIPT = {
    "count": says("one two three four five"),
    "weather": Says(tokens=(), tool_calls=(CALL,)),
    "city": Says(tokens=('{"name"', ": ", '"Oslo", "people": 700000}')),
    "too long": refuses(400, "maximum context is 10 tokens", code="context_length_exceeded"),
    "too fast": refuses(429, "slow down", headers={"retry-after": "0.01"}),
    "broken": refuses(500, "broken"),
    "cut": says("one two three four", cut_after=2),
    "unsure": says("wrong wrong wrong wrong wrong wrong", logprob=UNSURE),
}

T = TypeVar("T")


class City(BaseModel):
    name: str
    people: int


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(Flavour))
async def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        Upstream(SCRIPT, flavour=request.param) as small,
        Upstream(SCRIPT | {"unsure": says("right")}, flavour=request.param) as large,
        serving(tmp_path_factory.mktemp("compat"), a_policy([large.url], [small.url])) as served,
    ):
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.secrets["acme"]) as made:
        yield made


async def sync(gateway: Served, use: Callable[[OpenAI], T], *, tenant: str = "acme") -> T:
    """Use the synchronous client, in a thread: the gateway runs in this one."""

    def run() -> T:
        with OpenAI(base_url=gateway.base_url, api_key=gateway.secrets[tenant]) as made:
            return use(made)

    return await asyncio.to_thread(run)


async def test_chat(client: AsyncOpenAI):
    answer = await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "count"}])
    assert answer.choices[0].message.content == "one two three four five"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 12


async def test_chat_synchronously(gateway: Served):
    answer = await sync(
        gateway, lambda c: c.chat.completions.create(model="plain", messages=[{"role": "user", "content": "count"}])
    )
    assert answer.choices[0].message.content == "one two three four five"


@pytest.mark.parametrize("model", ["plain", "cached", "cascade", "small"])
async def test_a_stream(client: AsyncOpenAI, model: str):
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "count"}], stream=True, temperature=0
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three four five"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]


async def test_a_stream_synchronously_with_usage(gateway: Served):
    def use(client: OpenAI) -> list[int | None]:
        stream = client.chat.completions.create(
            model="plain",
            messages=[{"role": "user", "content": "count"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        return [chunk.usage.completion_tokens if chunk.usage else None for chunk in stream]

    told = await sync(gateway, use)
    assert told[-1] == 5
    assert set(told[:-1]) == {None}


async def test_an_escalated_stream_is_the_large_answer_only(client: AsyncOpenAI):
    stream = await client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "unsure"}], stream=True, temperature=0
    )
    said = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(said) == "right"


async def test_a_parsed_answer(client: AsyncOpenAI):
    answer = await client.chat.completions.parse(
        model="cascade", messages=[{"role": "user", "content": "city"}], response_format=City, temperature=0
    )
    assert answer.choices[0].message.parsed == City(name="Oslo", people=700_000)


async def test_the_stream_helper_collects_tool_calls(client: AsyncOpenAI):
    async with client.chat.completions.stream(
        model="auto", messages=[{"role": "user", "content": "weather"}], tools=TOOLS
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')


async def test_tool_calls(client: AsyncOpenAI):
    answer = await client.chat.completions.create(
        model="plain", messages=[{"role": "user", "content": "weather"}], tools=TOOLS
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"


async def test_several_answers_with_logprobs(client: AsyncOpenAI):
    answer = await client.chat.completions.create(
        model="plain",
        messages=[{"role": "user", "content": "count"}],
        n=2,
        logprobs=True,
        top_logprobs=3,
        seed=7,
        stop=["\n"],
        extra_body={"min_p": 0.1},
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 3


async def test_raw_headers(client: AsyncOpenAI):
    raw = await client.chat.completions.with_raw_response.create(
        model="plain", messages=[{"role": "user", "content": "count"}]
    )
    assert raw.headers["x-faregate-path"] == "large"
    assert raw.request_id == raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content == "one two three four five"


async def test_images(client: AsyncOpenAI):
    answer = await client.chat.completions.create(
        model="auto",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "count"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            }
        ],
    )
    assert answer.choices[0].message.content == "one two three four five"


async def test_legacy_completions(client: AsyncOpenAI):
    answer = await client.completions.create(model="plain", prompt="count", logprobs=1)
    assert answer.choices[0].text == "one two three four five"
    stream = await client.completions.create(model="plain", prompt="count", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "one two three four five"


async def test_embeddings_in_the_clients_own_encoding(client: AsyncOpenAI):
    answer = await client.embeddings.create(model="plain", input=["abc", "de"])
    assert [row.embedding[:2] for row in answer.data] == [[3.0, 0.5], [2.0, 0.5]]


async def test_embeddings_as_floats(gateway: Served):
    answer = await sync(gateway, lambda c: c.embeddings.create(model="plain", input="abc", encoding_format="float"))
    assert answer.data[0].embedding == [3.0, 0.5, -0.25]


async def test_models(client: AsyncOpenAI):
    names = [model.id async for model in await client.models.list()]
    assert names[0] == "auto"
    assert (await client.models.retrieve("plain")).id == "plain"


async def test_a_wrong_key(gateway: Served):
    async with AsyncOpenAI(base_url=gateway.base_url, api_key="sk-wrong") as client:
        with pytest.raises(openai.AuthenticationError, match="not known"):
            await client.models.list()
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x"}])


async def test_an_admin_key(gateway: Served):
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.secrets["admin"]) as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x"}])


async def test_an_unknown_model(client: AsyncOpenAI):
    with pytest.raises(openai.NotFoundError) as raised:
        await client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-9")


@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_upstream_refuses(client: AsyncOpenAI, stream: bool):
    with pytest.raises(openai.BadRequestError, match="maximum context is 10 tokens") as raised:
        await client.chat.completions.create(
            model="plain", messages=[{"role": "user", "content": "too long"}], stream=stream
        )
    assert raised.value.code == "context_length_exceeded"


async def test_a_rate_limit_after_the_clients_own_retries(client: AsyncOpenAI):
    with pytest.raises(openai.RateLimitError) as raised:
        await client.chat.completions.create(model="plain", messages=[{"role": "user", "content": "too fast"}])
    assert raised.value.response.headers["retry-after"] == "0.01"


async def test_a_broken_upstream(client: AsyncOpenAI):
    with pytest.raises(openai.InternalServerError):
        await client.with_options(max_retries=0).chat.completions.create(
            model="plain", messages=[{"role": "user", "content": "broken"}]
        )


async def test_a_stream_that_dies_raises(client: AsyncOpenAI):
    stream = await client.chat.completions.create(
        model="plain", messages=[{"role": "user", "content": "cut"}], stream=True
    )
    said: list[str] = []
    with pytest.raises(openai.APIError, match="upstream"):
        await collect(stream, said)
    assert "".join(said) == "one two"


async def collect(stream: openai.AsyncStream, into: list[str]) -> None:
    async for chunk in stream:
        into.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what came before an error is wanted


async def test_a_body_that_is_no_request(client: AsyncOpenAI):
    with pytest.raises(openai.BadRequestError, match="at least one message"):
        await client.chat.completions.create(model="plain", messages=[])
