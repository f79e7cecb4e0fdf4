"""The command `faregate` as it is run: serving in a process of its own, and every mistake told with its remedy."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from backends.clock import SystemClock
from backends.words import JsonValue
from gateway.cli import main
from policies.keys import KeyStore
from tests.served.world import a_policy, read_rows, serving, write_policy
from tests.upstream import UNSURE, Upstream, says

FAREGATE = str(Path(sys.executable).parent / "faregate")
START_S = 2.0
"""From the start of the process to the first answer."""


@dataclass(kw_only=True)
class Running:
    """A gateway in a process of its own."""

    process: asyncio.subprocess.Process
    url: str
    headers: Mapping[str, str]

    async def ask(self, client: aiohttp.ClientSession, question: str, **fields: JsonValue) -> aiohttp.ClientResponse:
        """Begin a chat; the response is the caller's to read."""
        messages = [{"role": "user", "content": question}]
        body = {"model": "plain", "messages": messages, "temperature": 0, **fields}
        return await client.post(f"{self.url}/chat/completions", json=body, headers=self.headers)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and return its exit status."""
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def faregate(file: Path, *, env: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Run `faregate serve` on a free port."""
    secret = KeyStore(file.parent / "data", clock=SystemClock()).create("acme", tenants=["acme"])[1]
    command = [FAREGATE, "serve", "--policy", str(file), "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=dict(env or {}))
    try:
        yield Running(process=process, url=await listens(process), headers={"authorization": f"Bearer {secret}"})
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def listens(process: asyncio.subprocess.Process) -> str:
    """Return the base URL that the gateway prints once it listens."""
    if process.stderr is None:
        raise AssertionError("its standard error is read")
    said = ""
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            said += line
            if found := re.search(r"at (http://\S+/v1)", line):
                return found[1]
    raise AssertionError(f"it ended before it listened: {said}")


async def fails(*command: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command that must end with status 1 and no trace, and return what it says."""
    process = await asyncio.create_subprocess_exec(
        FAREGATE, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=dict(env or {})
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1, said.decode()
    assert b"Traceback" not in said
    return said.decode()


async def test_the_first_answer_comes_within_two_seconds_of_the_start(tmp_path: Path):
    took: list[float] = []
    async with Upstream({"hi": says("one two three")}) as upstream, aiohttp.ClientSession() as client:
        file = write_policy(tmp_path, a_policy([upstream.url]))
        while len(took) < 3 and min(took, default=START_S) >= START_S:
            began = time.monotonic()
            async with faregate(file) as gateway:
                response = await gateway.ask(client, "hi")
                took.append(time.monotonic() - began)
                assert (await response.json())["choices"][0]["message"]["content"] == "one two three"
                assert await gateway.stop() == 0
    assert min(took) < START_S, took


async def test_a_signal_that_comes_with_the_first_word_is_not_lost(tmp_path: Path):
    async with faregate(write_policy(tmp_path, a_policy(["http://127.0.0.1:1/v1"]))) as gateway:
        assert await gateway.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_finishes_what_is_in_flight_and_books_it(tmp_path: Path, number: signal.Signals):
    gate = asyncio.Event()
    script = {"hi": says("one two three four", stall_after=2, gate=gate)}
    async with (
        Upstream(script) as upstream,
        aiohttp.ClientSession() as client,
        faregate(write_policy(tmp_path, a_policy([upstream.url]))) as gateway,
    ):
        response = await gateway.ask(client, "hi", stream=True)
        received = b""
        while b" two" not in received:
            received += await response.content.readany()
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(gateway.stop(number))
            gate.set()
            received += await response.content.read()
    assert stopping.result() == 0
    assert received.endswith(b"data: [DONE]\n\n")
    (charge,) = read_rows(tmp_path / "data").charges
    assert (charge["kind"], charge["output_tokens"]) == ("answer", 4)


async def test_what_a_killed_gateway_had_open_is_booked_as_estimated_at_the_next_start(tmp_path: Path):
    async with Upstream({"hi": says("one two three", stall_after=2)}) as upstream, aiohttp.ClientSession() as client:
        policy = a_policy([upstream.url])
        async with faregate(write_policy(tmp_path, policy)) as gateway:
            response = await gateway.ask(client, "hi", stream=True, max_tokens=50)
            await response.content.readany()
            await gateway.stop(signal.SIGKILL)
        async with serving(tmp_path, policy) as next_one:
            rows = await next_one.rows()
    assert [(c["kind"], c["model"]) for c in rows.charges] == [("estimated", "large")]
    assert rows.charges[0]["cost_nusd"] > 0
    assert rows.requests[0]["error_code"] == "crashed"


async def test_spans_are_exported_when_the_standard_variable_asks(tmp_path: Path):
    async with Upstream({"": says("wrong", logprob=UNSURE)}) as upstream, aiohttp.ClientSession() as client:
        file = write_policy(tmp_path, a_policy([upstream.url]))
        async with faregate(file, env={"OTEL_EXPORTER_OTLP_ENDPOINT": upstream.origin}) as gateway:
            parent = f"00-{'a' * 32}-{'b' * 16}-01"
            gateway.headers = {**gateway.headers, "traceparent": parent}
            await (await gateway.ask(client, "a secret question", model="cascade")).read()
            await gateway.stop()
        exports = [r.body for r in upstream.requests if r.path == "/v1/traces"]
    assert exports
    assert b"secret question" not in b"".join(exports)
    spans = [
        span
        for body in exports
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    root = next(span for span in spans if span.name.startswith("chat "))
    assert root.trace_id.hex() == "a" * 32
    facts = {a.key: a.value for a in root.attributes}
    assert facts["gen_ai.operation.name"].string_value == "chat"
    assert facts["gen_ai.response.model"].string_value == "huge-70b"
    assert facts["gen_ai.usage.output_tokens"].int_value == 1
    assert facts["faregate.path"].string_value == "small>large"
    children = {span.name for span in spans if span.parent_span_id == root.span_id}
    assert {"identify", "parse", "route", "plan", "open small", "judge small", "open large", "relay"} <= children


async def test_a_port_in_use_is_told(tmp_path: Path):
    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:9/v1"]))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = await fails("serve", "--policy", str(file), "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "--port" in said


async def test_a_second_gateway_on_the_folder_is_told(tmp_path: Path):
    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:9/v1"]))
    async with faregate(file):
        said = await fails("serve", "--policy", str(file), "--port", "0")
    assert "in use by another gateway" in said


async def test_a_missing_environment_variable_is_told(tmp_path: Path):
    policy = a_policy(["http://127.0.0.1:9/v1"])
    policy["pools"]["large"]["api_key"] = "${OPERATORS_KEY}"
    said = await fails("serve", "--policy", str(write_policy(tmp_path, policy)))
    assert "OPERATORS_KEY" in said


async def test_every_mistake_of_a_policy_is_told_at_once(tmp_path: Path):
    policy = a_policy(["not an address"]) | {"colour": "red"}
    policy["models"]["small"]["backend"] = "abacus"
    policy["routes"][0]["ladder"] = ["huge"]
    policy["timeouts"] = {"idle_s": "soon"}
    said = await fails("check", "--policy", str(write_policy(tmp_path, policy)))
    for word in ("colour", "abacus", '"huge"', "not an address", "idle_s"):
        assert word in said


@pytest.mark.parametrize("name", ["keys.json", "ledger.db", "cache.db"])
async def test_a_damaged_file_is_told(tmp_path: Path, name: str):
    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:9/v1"]))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(b"damaged" * 1000)
    assert name in await fails("serve", "--policy", str(file), "--port", "0")


async def test_a_damaged_calibration_is_told(tmp_path: Path):
    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:9/v1"]))
    (tmp_path / "judge.json").write_text("{}")
    assert "judge.json" in await fails("serve", "--policy", str(file), "--port", "0")


def run(*arguments: str) -> str:
    """Run a command in this process and return its standard output; it must succeed."""
    result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def commands() -> list[list[str]]:
    groups = [[name] for name in main.commands]
    return [
        [],
        *groups,
        *([name, sub] for name, group in main.commands.items() for sub in getattr(group, "commands", {})),
    ]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_explains_itself(command: list[str]):
    text = run(*command, "--help")
    assert text.startswith("Usage: ")
    assert len(text.splitlines()) > 5


def test_a_policy_without_mistakes_passes(tmp_path: Path):
    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:9/v1"]))
    facts = json.loads(run("check", "--policy", str(file), "--json"))
    assert facts["ok"] is True
    assert "loss ≤ 0.05 at 90%" in facts["routes"]["cascade"]["promise"]


def test_keys_are_made_listed_and_revoked(tmp_path: Path):
    policy = ["--policy", str(write_policy(tmp_path, a_policy(["http://127.0.0.1:9/v1"])))]
    made = json.loads(run("keys", "create", "--tenant", "acme", "--label", "web", "--json", *policy))
    assert made["key"].startswith("sk-fg-")
    assert made["key"] not in run("keys", "list", *policy)
    run("keys", "revoke", made["id"], *policy)
    (record,) = json.loads(run("keys", "list", "--json", *policy))
    assert (record["id"], record["label"], record["revoked_at"] is None) == (made["id"], "web", False)


async def test_the_report_adds_up(tmp_path: Path):
    async with Upstream({"hi": says("one two three")}) as upstream:
        file = write_policy(tmp_path, a_policy([upstream.url]))
        async with serving(tmp_path, a_policy([upstream.url])) as gateway:
            for _ in range(3):
                await gateway.ask("hi")
            rows = await gateway.rows(3)
    bill = json.loads(await asyncio.to_thread(run, "report", "--policy", str(file), "--format", "json"))
    assert bill["totals"]["cost_nusd"] == sum(c["cost_nusd"] for c in rows.charges) == 390_000
    table = await asyncio.to_thread(run, "report", "--policy", str(file))
    assert "large" in table


def test_a_report_on_nothing_says_so(tmp_path: Path):
    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:9/v1"]))
    result = CliRunner().invoke(main, ["report", "--policy", str(file)])
    assert (result.exit_code, "no ledger" in result.output) == (1, True)
