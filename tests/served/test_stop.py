"""Stopping: unready first, running answers finished within their grace, the rest told and booked, exit code 0."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from backends.clock import SystemClock
from policies.keys import KeyStore
from tests.served.world import Seen, Served, a_policy, read_rows, serving, write_policy
from tests.upstream import Says, Upstream

pytestmark = pytest.mark.asyncio


def script(gate: asyncio.Event | None) -> dict[str, Says]:
    return {"": Says(tokens=("one", " two"), stall_after=1, gate=gate)}


def a_stopping_policy(upstream: Upstream, *, notice_s: float, grace_s: float) -> dict[str, object]:
    return a_policy([upstream.url], server={"port": 0, "notice_s": notice_s, "grace_s": grace_s})


async def asked(served: Served, upstream: Upstream, group: asyncio.TaskGroup) -> asyncio.Task[Seen]:
    """Begin a stream; return when its first token is on its way."""
    asking = group.create_task(served.ask(stream=True))
    await upstream.request()
    return asking


async def test_while_the_gateway_gives_notice_it_is_unready_and_answers(tmp_path: Path):
    async with (
        Upstream() as upstream,
        serving(tmp_path, a_stopping_policy(upstream, notice_s=30, grace_s=5)) as served,
    ):
        assert (await served.send("/health/readiness", method="GET")).status == 200
        served.server.handle_exit(signal.SIGTERM, None)
        ready = await served.send("/health/readiness", method="GET")
        seen = await served.ask()
    assert (ready.status, ready.json["status"], seen.status) == (503, "stopping", 200)


async def test_a_running_stream_is_finished_within_the_grace(tmp_path: Path):
    gate = asyncio.Event()
    async with (
        Upstream(script(gate)) as upstream,
        serving(tmp_path, a_stopping_policy(upstream, notice_s=0, grace_s=20)) as served,
        asyncio.TaskGroup() as group,
    ):
        asking = await asked(served, upstream, group)
        served.server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(5):
            while not await is_refused(served):
                pass
        gate.set()
        seen = await asking
        rows = await served.rows_of(seen)
    assert (seen.text, seen.is_done) == ("one two", True)
    assert [row["status"] for row in rows.requests] == [200]


@pytest.mark.parametrize("ends", ["by its grace", "by a second signal"])
async def test_a_stream_that_outlives_the_grace_is_told_cut_and_booked(tmp_path: Path, ends: str):
    async with (
        Upstream(script(None)) as upstream,
        serving(
            tmp_path, a_stopping_policy(upstream, notice_s=0, grace_s=0.2 if ends == "by its grace" else 60)
        ) as served,
        asyncio.TaskGroup() as group,
    ):
        asking = await asked(served, upstream, group)
        served.server.handle_exit(signal.SIGTERM, None)
        if ends == "by a second signal":
            served.server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(5):
            seen = await asking
        rows = await served.rows_of(seen)
    assert (seen.is_cut, seen.is_done, seen.chunks[-1]["error"]["code"]) == (True, False, "stopping")
    assert rows.requests[0]["error_code"] == "stopping"
    assert (rows.charges[0]["kind"], rows.charges[0]["output_tokens"]) == ("cancelled", 1)


async def is_refused(served: Served) -> bool:
    host, port = served.origin.removeprefix("http://").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionError:
        return True
    writer.close()
    return False


async def test_the_program_ends_with_0_and_a_complete_ledger(tmp_path: Path):
    gate = asyncio.Event()
    async with Upstream(script(gate)) as upstream, asyncio.timeout(30):
        file = write_policy(tmp_path, a_stopping_policy(upstream, notice_s=0.2, grace_s=20))
        secret = KeyStore(tmp_path / "data", clock=SystemClock()).create("acme", tenants=["acme"])[1]
        command = [sys.executable, "-m", "gateway", "serve", "--policy", str(file)]
        program = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert program.stderr is not None
        url = (await program.stderr.readuntil(b"/v1")).decode().split()[-1]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].removesuffix("/v1")))
        body = b'{"model":"plain","stream":true,"messages":[{"role":"user","content":"x"}]}'
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
        writer.write((head % (secret, len(body))).encode() + body)
        await reader.readuntil(b"one")
        program.send_signal(signal.SIGTERM)
        gate.set()
        rest = await reader.read(-1)
        writer.close()
        assert await program.wait() == 0
    assert b"data: [DONE]" in rest
    rows = read_rows(tmp_path / "data")
    assert [(row["status"], row["path"]) for row in rows.requests] == [(200, "large")]
    assert [row["output_tokens"] for row in rows.charges] == [2]
