"""Several workers served for real: who answers, what a death costs, what holds for all of them together."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

from backends.clock import SystemClock
from backends.words import JsonValue
from gateway.ledger.service import FoldService
from gateway.ledger.verify import verify
from tests.served.world import a_policy, write_policy
from tests.upstream import Says, Upstream, unused_url
from tests.workers.world import SERVER, Manned, column, fails, manned, one

ANSWER = Says(tokens=("one", " two"))
COST_NUSD = 7 * 10_000 + 2 * 20_000


async def crowd(gateway: Manned, stopping: asyncio.Event, seen: Counter[int], number: int) -> None:
    """Ask until told to stop."""
    asked = 0
    while not stopping.is_set():
        asked += 1
        seen[await gateway.status(f"question {number}.{asked}")] += 1


async def another(gateway: Manned, pid: int) -> None:
    """Wait until all workers answer, and none of them is a process that was killed."""
    async with asyncio.timeout(40):
        while True:
            workers = (await gateway.household())["workers"]
            if len(workers) == 2 and pid not in {worker["pid"] for worker in workers} and await gateway.is_ready():
                return
            await asyncio.sleep(0.05)


async def test_who_is_killed_leaves_nothing_unbooked_and_no_worker_outlives_its_supervisor(tmp_path: Path):
    seen: Counter[int] = Counter()
    stopping = asyncio.Event()
    async with Upstream({"": ANSWER}) as upstream, manned(tmp_path, a_policy([upstream.url]), workers=2) as gateway:
        pids = [worker["pid"] for worker in (await gateway.household())["workers"]]
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(crowd(gateway, stopping, seen, number))
            await upstream.request(100)
            os.kill(pids[1], signal.SIGKILL)
            await another(gateway, pids[1])
            answered = {(await gateway.household())["answering"] for _ in range(40)}
            assert (answered, await gateway.figure("faregate_worker_restarts_total")) == ({0, 1}, 1)
            gateway.process.kill()
            await asyncio.to_thread(open_when_free, gateway.folder)
            stopping.set()
    assert set(seen) <= {0, 200, 503}
    assert unbooked(gateway.folder, upstream) == {}
    assert one(gateway.folder, "SELECT COUNT(*) FROM open_holds") == 0
    assert verify(gateway.folder).problems == ()


def unbooked(folder: Path, upstream: Upstream) -> dict[str, int]:
    """Return the attempts that came to the upstream and are not booked exactly once."""
    booked = Counter(column(folder, "SELECT request_id FROM charges"))
    asked = {request.headers["x-request-id"] for request in upstream.requests}
    return {name: booked[name] for name in asked if booked[name] != 1}


def open_when_free(folder: Path) -> None:
    """Take the locks of all workers, which waits until they are gone; then open the folder once."""
    for lock in folder.glob("journal/*/lock"):
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    FoldService.open(folder, SystemClock()).close()


async def test_budgets_and_limits_hold_for_all_together_and_a_stop_finishes_what_is_in_flight(tmp_path: Path):
    gate = asyncio.Event()
    script = {"last": Says(tokens=("one", " two"), stall_after=1, gate=gate), "": ANSWER}
    tenants = [
        {"id": "acme", "budget": {"usd": "0.05", "per": "month"}},
        {"id": "other", "limits": {"rpm": 31}},
        {"id": "free"},
    ]
    async with (
        Upstream(script) as upstream,
        manned(tmp_path, a_policy([upstream.url], tenants=tenants), workers=3) as gateway,
    ):
        limited = Counter(await gateway.statuses([f"question {n}" for n in range(90)], tenant="other"))
        spending = Counter(await gateway.statuses([f"question {n}" for n in range(1_000)]))
        left_usd = await gateway.figure('faregate_budget_left_usd{per="month",tenant="acme"}')
        status, received = await stopped_while_it_answers(gateway, gate)
    assert (status, received[-14:]) == (0, b"data: [DONE]\n\n")
    spent = one(gateway.folder, "SELECT SUM(cost_nusd) FROM charges WHERE tenant = 'acme'")
    assert limited == {200: 31, 429: 59}
    assert spent == spending[200] * COST_NUSD <= 50_000_000
    assert spending == {200: spending[200], 402: 1_000 - spending[200]}
    assert 0 <= left_usd <= 0.05 - spent / 1e9


async def stopped_while_it_answers(gateway: Manned, gate: asyncio.Event) -> tuple[int, bytes]:
    """Stop the gateway while a stream runs that then goes on; return its exit status and the stream."""
    async with await gateway.ask("last", tenant="free", stream=True) as response:
        received = await response.content.readany()
        gateway.process.send_signal(signal.SIGTERM)
        await refused(gateway)
        gate.set()
        received += await response.content.read()
    return await asyncio.wait_for(gateway.process.wait(), 30), received


async def refused(gateway: Manned) -> None:
    """Wait until nobody listens any more."""
    host, port = gateway.origin.removeprefix("http://").split(":")
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def test_a_port_in_use_and_a_folder_in_use_are_refused(tmp_path: Path):
    file = write_policy(tmp_path, a_policy(["http://127.0.0.1:1/v1"]))
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = await fails("--policy", str(file), "--workers", "2", "--port", str(other.getsockname()[1]))
    assert "another program listens there" in said
    service = FoldService.open(tmp_path / "data", SystemClock())
    try:
        said = await fails("--policy", str(file), "--workers", "2", "--port", "0")
    finally:
        service.close()
    assert f"in use by another gateway (process {os.getpid()})" in said


async def test_all_workers_learn_of_a_fault_and_take_a_changed_policy_together_or_none_does(tmp_path: Path):
    async with Upstream({"": ANSWER}) as upstream:
        policy = a_policy([gone := unused_url(), upstream.url])
        async with manned(tmp_path, policy, workers=2) as gateway:
            assert await gateway.status("a") == 200
            await learned(gateway, gone)
            assert await gateway.status("b") == 200
            policy["tenants"][0]["budget"] = {"usd": "0.0003", "per": "total"}
            assert "refused" in await reload(tmp_path, policy | {"server": {"workers": 3}}, status=1)
            assert "answers by policy" in await reload(tmp_path, policy | {"server": SERVER}, status=0)
            digests = {(await gateway.household())["policy_digest"] for _ in range(20)}
            refused = [await (await gateway.ask(f"question {number}")).text() for number in range(8)]
            is_ready, status = await gateway.is_ready(), await gateway.stop()
    # Two answers were paid for before there was a budget.
    assert (len(digests), 3 * 10**5 - 2 * COST_NUSD) == (1, 80_000)
    assert all("$0.00008 left" in text for text in refused)
    assert one(gateway.folder, "SELECT COUNT(DISTINCT policy_digest) FROM requests") == 2
    assert (is_ready, status) == (True, 0)


async def learned(gateway: Manned, endpoint: str) -> None:
    """Wait until both workers know that an endpoint fails, though one alone has asked it."""
    async with asyncio.timeout(20):
        while True:
            workers = (await gateway.household())["workers"]
            known = [each for worker in workers for pool in worker["pools"].values() for each in pool["endpoints"]]
            states = [each["state"] for each in known if each["endpoint"] == endpoint]
            if len(states) == 2 and "closed" not in states:
                return
            await asyncio.sleep(0.02)


async def reload(place: Path, policy: JsonValue, *, status: int) -> str:
    """Change the file, tell the gateway, and return what the command says."""
    file = write_policy(place, policy)
    command = [sys.executable, "-m", "gateway", "reload", "--policy", str(file)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == status, said.decode()
    return said.decode()
